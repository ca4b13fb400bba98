#include "base/process_threads.h"

#include <pthread.h>
#include <time.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "base/check.h"

namespace sterna {

void NameThisThread(const char* name) {
  constexpr size_t kMostCharacters = 15;
  STERNA_CHECK(std::strlen(name) <= kMostCharacters);
  pthread_setname_np(pthread_self(), name);
}

int64_t ProcessCpuNs() {
  timespec now{};
  // Cannot fail: the process's own CPU clock always exists on Linux.
  STERNA_CHECK(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

std::map<std::string, int64_t> ThreadCpuNs() {
  std::map<std::string, int64_t> by_name;
  std::error_code error;
  for (std::filesystem::directory_iterator task("/proc/self/task", error), end;
       !error && task != end; task.increment(error)) {
    std::ifstream comm(task->path() / "comm"), schedstat(task->path() / "schedstat");
    std::string name;
    int64_t on_cpu_ns = 0;
    // A thread that has just ended has neither.
    if (std::getline(comm, name) && schedstat >> on_cpu_ns) by_name[name] += on_cpu_ns;
  }
  return by_name;
}

}  // namespace sterna
