// How much memory a test may take, and how much it took: for what reads files that claim too much.
#ifndef STERNA_TESTS_TESTING_MEMORY_LIMIT_H_
#define STERNA_TESTS_TESTING_MEMORY_LIMIT_H_

#include <sys/resource.h>

#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define STERNA_TEST_SANITIZED 1
#else
#define STERNA_TEST_SANITIZED 0
#endif

namespace sterna::testing {

// Lets the process map `allowed_bytes` more than it has, so that whoever allocates what a file only
// claims to need gets std::bad_alloc. Sanitizers map more on their own; their runs set
// ASAN_OPTIONS=max_allocation_size_mb.
class MemoryLimit {
 public:
  explicit MemoryLimit(int64_t allowed_bytes) {
    if (STERNA_TEST_SANITIZED) return;
    getrlimit(RLIMIT_AS, &before_);
    rlim_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit limit = before_;
    limit.rlim_cur = pages * 4096 + static_cast<rlim_t>(allowed_bytes);
    setrlimit(RLIMIT_AS, &limit);
  }
  ~MemoryLimit() {
    if (!STERNA_TEST_SANITIZED) setrlimit(RLIMIT_AS, &before_);
  }
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

 private:
  rlimit before_{};
};

// How far the process's resident memory rose above what it was when this was made. Linux lets a
// process set its own peak back; where it may not, the answer can be too small.
class PeakMemory {
 public:
  PeakMemory() {
    std::ofstream("/proc/self/clear_refs") << "5";
    start_ = ReadKib("VmRSS:");
  }
  int64_t growth_bytes() const { return (ReadKib("VmHWM:") - start_) * 1024; }

 private:
  static int64_t ReadKib(const std::string& field) {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
      std::istringstream words(line);
      std::string name;
      int64_t kib = 0;
      if (words >> name >> kib && name == field) return kib;
    }
    return 0;
  }

  int64_t start_ = 0;
};

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_MEMORY_LIMIT_H_
