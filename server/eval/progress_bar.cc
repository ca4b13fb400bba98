#include "server/eval/progress_bar.h"

#include <unistd.h>

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sterna {
namespace {

constexpr int64_t kWidth = 30;
constexpr std::chrono::milliseconds kInterval(100);
constexpr char kClearLine[] = "\r\033[K";

}  // namespace

std::string ProgressLine(const std::string& unit, int64_t done, int64_t total, double seconds) {
  const int64_t filled = total > 0 ? done * kWidth / total : kWidth;
  std::string bar(static_cast<size_t>(filled), '=');
  if (filled < kWidth) bar += '>';
  bar.resize(kWidth, ' ');
  std::string line = absl::StrCat("[", bar, "] ", done, "/", total, " ", unit);
  if (done > 0 && done < total) {
    const double left = seconds * static_cast<double>(total - done) / static_cast<double>(done);
    absl::StrAppendFormat(&line, ", %.0f s left", left);
  }
  return line;
}

ProgressBar::ProgressBar(std::string unit, int64_t total)
    : unit_(std::move(unit)),
      total_(total),
      is_shown_(isatty(STDERR_FILENO) != 0),
      start_(Clock::now()) {
  Update(0);
}

ProgressBar::~ProgressBar() {
  if (is_shown_) std::fputs(kClearLine, stderr);
}

void ProgressBar::Update(int64_t done) {
  if (!is_shown_) return;
  const Clock::time_point now = Clock::now();
  if (done > 0 && now - last_ < kInterval) return;
  last_ = now;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  std::fprintf(stderr, "%s%s", kClearLine, ProgressLine(unit_, done, total_, seconds).c_str());
}

}  // namespace sterna
