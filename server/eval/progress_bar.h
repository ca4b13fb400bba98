// A line on standard error that shows how far a long command has come, where that is a terminal;
// nothing elsewhere.
//
// Lifetime: the line is there until the bar is destroyed. Thread contract: one thread.
#ifndef STERNA_SERVER_EVAL_PROGRESS_BAR_H_
#define STERNA_SERVER_EVAL_PROGRESS_BAR_H_

#include <chrono>
#include <cstdint>
#include <string>

namespace sterna {

class ProgressBar {
 public:
  // `unit`: what is counted, "windows".
  ProgressBar(std::string unit, int64_t total);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(int64_t done);

 private:
  using Clock = std::chrono::steady_clock;

  const std::string unit_;
  const int64_t total_;
  const bool is_shown_;
  const Clock::time_point start_;
  Clock::time_point last_;  // when the line was last written
};

// "[=====>    ] 12/24 windows, 8 s left"; `seconds` have gone by.
std::string ProgressLine(const std::string& unit, int64_t done, int64_t total, double seconds);

}  // namespace sterna

#endif  // STERNA_SERVER_EVAL_PROGRESS_BAR_H_
