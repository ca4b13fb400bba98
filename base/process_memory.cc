#include "base/process_memory.h"

#include <fstream>
#include <sstream>
#include <string>

namespace sterna {

int64_t PeakResidentBytes() {
  // Not getrusage, whose ru_maxrss begins with that of the process that started this one.
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t kibibytes = 0;
    if (words >> name >> kibibytes && name == "VmHWM:") return kibibytes * 1024;
  }
  return 0;
}

}  // namespace sterna
