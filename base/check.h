// CHECK for a programmer's mistake: prints where and what, then aborts. Anything a user, a file or
// load can cause is a Status instead (base/status.h).
#ifndef STERNA_BASE_CHECK_H_
#define STERNA_BASE_CHECK_H_

#include <cstdio>
#include <cstdlib>

namespace sterna::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace sterna::internal

#define STERNA_CHECK(condition)                                        \
  do {                                                                 \
    if (!(condition)) [[unlikely]]                                     \
      ::sterna::internal::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#endif  // STERNA_BASE_CHECK_H_
