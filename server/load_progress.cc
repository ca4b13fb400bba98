#include "server/load_progress.h"

#include <unistd.h>

#include <cstdio>

namespace sterna {

LoadProgress TerminalProgress() {
  if (isatty(STDERR_FILENO) == 0) return {};
  return [last = int64_t{-1}](int64_t done, int64_t total) mutable {
    const int64_t percent = total > 0 ? done * 100 / total : 100;
    if (percent == last) return;
    last = percent;
    // The cursor goes back, so that whatever is written next takes the line's place.
    std::fprintf(stderr, "loading weights: %3d %% of %lld MB\r", static_cast<int>(percent),
                 static_cast<long long>(total / 1'000'000));
    std::fflush(stderr);
  };
}

}  // namespace sterna
