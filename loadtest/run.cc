#include "loadtest/run.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "loadtest/http_client.h"
#include "loadtest/prompts.h"
#include "loadtest/statistics.h"

namespace sterna {
namespace {

using Json = nlohmann::json;
using SteadyClock = std::chrono::steady_clock;

constexpr std::chrono::seconds kTimeout(30);
constexpr double kLateSeconds = 0.010;

double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

std::string ErrorKind(const Status& status) {
  if (absl::IsUnavailable(status)) return "no connection";
  if (absl::IsDeadlineExceeded(status)) return "timeout";
  if (absl::IsCancelled(status)) return "interrupted";
  return "broken connection";
}

StatusOr<std::string> FindModel(const LoadtestOptions& options, HttpClient& client) {
  if (!options.model.empty()) return options.model;
  STERNA_ASSIGN_OR_RETURN(const std::string body, client.Fetch("GET", "/v1/models", "", kTimeout));
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  const Json::json_pointer first("/data/0/id");
  if (!json.is_object() || !json.contains(first) || !json[first].is_string()) {
    return absl::InternalError(absl::StrCat("/v1/models names no model: ", body.substr(0, 300)));
  }
  return json[first].get<std::string>();
}

std::optional<MetricSamples> FetchMetrics(HttpClient& client) {
  const StatusOr<std::string> text = client.Fetch("GET", "/metrics", "", kTimeout);
  if (!text.ok()) return std::nullopt;
  return ParsePrometheusText(*text);
}

// After the last answer the server may still be about to count it: waits until it says that nothing
// runs, briefly.
std::optional<MetricSamples> FetchSettledMetrics(HttpClient& client) {
  std::optional<MetricSamples> samples;
  for (int i = 0; i < 40; ++i) {
    samples = FetchMetrics(client);
    if (!samples.has_value() || (SumOfSamples(*samples, "sterna_requests_running") == 0 &&
                                 SumOfSamples(*samples, "sterna_requests_waiting") == 0)) {
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return samples;
}

// Sends requests from several threads, each of which takes the next one due.
class Sender {
 public:
  Sender(const LoadtestOptions& options, const Endpoint& endpoint, const std::string& model,
         const std::vector<PromptJson>& prompts, const std::atomic<bool>* stop)
      : options_(options),
        endpoint_(endpoint),
        model_(model),
        prompts_(prompts),
        stop_(stop),
        arrivals_(options.rate > 0 ? options.rate : 1, static_cast<uint64_t>(options.seed)) {}

  // All at once and closed-loop, outside the measurement.
  std::vector<RequestResult> WarmUp() {
    limit_ = options_.warmup;
    Run(/*open_loop=*/false, options_.concurrency, 0);
    return TakeResults();
  }

  void Measure(LoadtestResult* result) {
    limit_ = options_.requests;
    const bool open_loop = options_.rate > 0;
    start_ = SteadyClock::now();
    Run(open_loop, open_loop ? options_.max_in_flight : options_.concurrency,
        options_.duration_seconds);
    result->seconds = SecondsSince(start_);
    result->requests = TakeResults();
    MutexLock lock(mutex_);
    result->late_starts = late_starts_;
  }

 private:
  struct Due {
    int64_t index;
    double at_seconds;  // since start_; 0 in a closed loop: now
  };

  std::vector<RequestResult> TakeResults() {
    MutexLock lock(mutex_);
    return std::exchange(results_, {});
  }

  void Run(bool open_loop, int64_t num_threads, double duration_seconds) {
    {
      MutexLock lock(mutex_);
      issued_ = 0;
    }
    if (limit_ > 0) num_threads = std::min(num_threads, limit_);
    std::vector<std::thread> threads;
    for (int64_t i = 0; i < num_threads; ++i) {
      threads.emplace_back([this, open_loop, duration_seconds] {
        HttpClient client(endpoint_, stop_);
        while (const std::optional<Due> due = NextDue(open_loop, duration_seconds)) {
          if (open_loop && !SleepUntil(due->at_seconds)) break;
          SendOne(client, *due, open_loop);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
  }

  std::optional<Due> NextDue(bool open_loop, double duration_seconds) {
    if (stop_->load()) return std::nullopt;
    MutexLock lock(mutex_);
    if (limit_ > 0 && issued_ >= limit_) return std::nullopt;
    Due due{.index = issued_, .at_seconds = 0};
    if (open_loop) due.at_seconds = arrivals_.Next();
    const double now = open_loop ? due.at_seconds : SecondsSince(start_);
    if (duration_seconds > 0 && now >= duration_seconds) return std::nullopt;
    ++issued_;
    return due;
  }

  // False when interrupted.
  bool SleepUntil(double at_seconds) {
    while (!stop_->load()) {
      const double left = at_seconds - SecondsSince(start_);
      if (left <= 0) return true;
      std::this_thread::sleep_for(std::chrono::duration<double>(std::min(left, 0.05)));
    }
    return false;
  }

  std::string Body(int64_t index) const {
    Json body = {{"model", model_},
                 {"max_tokens", options_.max_tokens},
                 {"temperature", options_.temperature},
                 {"seed", options_.seed + index},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}}}};
    if (options_.ignore_eos) body["ignore_eos"] = true;
    const Json prompt = Json::parse(prompts_[static_cast<size_t>(index) % prompts_.size()]);
    if (options_.endpoint == "chat") {
      body["messages"] = Json::array({{{"role", "user"}, {"content", prompt}}});
    } else {
      body["prompt"] = prompt;
    }
    return body.dump();
  }

  void SendOne(HttpClient& client, const Due& due, bool open_loop) {
    const std::string body = Body(due.index);
    SteadyClock::time_point start = SteadyClock::now();
    bool late = false;
    if (open_loop) {
      start = start_ + std::chrono::duration_cast<SteadyClock::duration>(
                           std::chrono::duration<double>(due.at_seconds));
      late = SecondsSince(start) > kLateSeconds;
    }
    AnswerReader reader;
    const StatusOr<int> code = client.Send(
        "POST", options_.endpoint == "chat" ? "/v1/chat/completions" : "/v1/completions", body,
        std::chrono::duration_cast<std::chrono::nanoseconds>(
            std::chrono::duration<double>(options_.timeout_seconds)),
        [&](std::string_view piece) { reader.Feed(piece, SecondsSince(start)); });
    RequestResult result;
    if (code.ok()) {
      result = reader.Finish(*code, SecondsSince(start));
    } else {
      result.error = ErrorKind(code.status());
      result.error_detail = code.status().ToString();
    }
    const bool failed_at_once = !result.ok() && !open_loop;
    {
      MutexLock lock(mutex_);
      results_.push_back(std::move(result));
      if (late) ++late_starts_;
    }
    // A client that is turned away in a closed loop would otherwise only spin.
    if (failed_at_once) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }

  const LoadtestOptions& options_;
  const Endpoint& endpoint_;
  const std::string& model_;
  const std::vector<PromptJson>& prompts_;
  const std::atomic<bool>* const stop_;
  SteadyClock::time_point start_ = SteadyClock::now();
  int64_t limit_ = 0;  // requests to send; 0: no limit

  Mutex mutex_;
  PoissonArrivals arrivals_ STERNA_GUARDED_BY(mutex_);
  int64_t issued_ STERNA_GUARDED_BY(mutex_) = 0;
  int64_t late_starts_ STERNA_GUARDED_BY(mutex_) = 0;
  std::vector<RequestResult> results_ STERNA_GUARDED_BY(mutex_);
};

}  // namespace

StatusOr<LoadtestResult> RunLoadtest(const LoadtestOptions& options,
                                     const std::atomic<bool>* stop) {
  STERNA_ASSIGN_OR_RETURN(const Endpoint endpoint, ParseUrl(options.url));
  HttpClient client(endpoint, stop);
  LoadtestResult result;
  STERNA_ASSIGN_OR_RETURN(result.model, FindModel(options, client));
  STERNA_ASSIGN_OR_RETURN(const std::vector<PromptJson> prompts,
                          MakePrompts(options, result.model, client));
  Sender sender(options, endpoint, result.model, prompts, stop);
  if (options.warmup > 0) {
    for (const RequestResult& warm : sender.WarmUp()) {
      if (warm.ok() || stop->load()) continue;
      return absl::InternalError(
          absl::StrCat("a warm-up request failed: ", warm.error, ": ", warm.error_detail));
    }
  }
  result.before = FetchSettledMetrics(client);
  sender.Measure(&result);
  result.interrupted = stop->load();
  // `stop` would break off this request, too.
  const std::atomic<bool> never{false};
  HttpClient after(endpoint, &never);
  result.after = FetchSettledMetrics(after);
  return result;
}

}  // namespace sterna
