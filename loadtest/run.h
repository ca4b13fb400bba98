// One load test: prompts made, requests sent, and what came back of each.
#ifndef STERNA_LOADTEST_RUN_H_
#define STERNA_LOADTEST_RUN_H_

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "loadtest/options.h"
#include "loadtest/prometheus_text.h"
#include "loadtest/sse_parser.h"

namespace sterna {

// Times in seconds. Open loop: since the request was due, so that a client that was late does not
// hide the wait.
struct RequestResult {
  std::string error;  // its kind, e.g. "timeout", "http 429 queue_full"; empty: succeeded
  std::string error_detail;
  double ttft_seconds = 0;
  double e2e_seconds = 0;
  std::vector<double> gaps_seconds;  // between one piece of text and the next
  int64_t pieces = 0;                // events that carried text
  int64_t prompt_tokens = 0;         // from usage, as the rest
  int64_t output_tokens = 0;
  int64_t energy_millijoules = 0;
  std::string energy_method;  // empty: the server reports no energy

  bool ok() const { return error.empty(); }
};

// Follows the event stream of one answer. `now_seconds` is since the request's start.
class AnswerReader {
 public:
  AnswerReader();
  AnswerReader(const AnswerReader&) = delete;
  AnswerReader& operator=(const AnswerReader&) = delete;
  void Feed(std::string_view bytes, double now_seconds);
  // The stream has ended with this status code.
  RequestResult Finish(int code, double now_seconds);

 private:
  void OnEvent(std::string_view data);
  void Fail(const std::string& kind, const std::string& detail);

  SseParser parser_;
  double now_seconds_ = 0;
  double last_piece_seconds_ = 0;
  std::string start_;  // of the body, for an error that is no event stream
  bool has_usage_ = false;
  bool done_ = false;
  RequestResult result_;
};

struct LoadtestResult {
  std::string model;
  double seconds = 0;  // from the first request's start to the last one's end
  bool interrupted = false;
  int64_t late_starts = 0;  // open loop: requests that began over 10 ms after they were due
  std::vector<RequestResult> requests;
  // The server's metrics just before and after; nullopt where it exports none.
  std::optional<MetricSamples> before;
  std::optional<MetricSamples> after;
};

// Blocks until all is done or `stop` is set. An error means that the server cannot be used at all.
StatusOr<LoadtestResult> RunLoadtest(const LoadtestOptions& options, const std::atomic<bool>* stop);

}  // namespace sterna

#endif  // STERNA_LOADTEST_RUN_H_
