#include "kernels/cpu/topology.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <utility>

namespace sterna::cpu {
namespace {

// The number in a one-line file of sysfs, or `missing`.
int ReadNumber(const std::string& path, int missing) {
  std::ifstream file(path);
  int value;
  return file >> value ? value : missing;
}

int AllowedPhysicalCores() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    // More processors than the mask holds, or no such call: take what the library knows.
    return static_cast<int>(std::thread::hardware_concurrency());
  }
  std::set<std::pair<int, int>> cores;  // (package, core)
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    cores.emplace(ReadNumber(topology + "physical_package_id", 0),
                  ReadNumber(topology + "core_id", cpu));
  }
  return static_cast<int>(cores.size());
}

// The processors that the control group's quota amounts to, rounded up; a large number without one.
int QuotaCores() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  long quota, period;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0) return CPU_SETSIZE;
  return static_cast<int>((quota + period - 1) / period);
}

}  // namespace

int UsableCores() { return std::max(1, std::min(AllowedPhysicalCores(), QuotaCores())); }

}  // namespace sterna::cpu
