// What the engine tells a transport about one request: a locked buffer that coalesces tokens until
// they are taken, so that a slow reader never holds up the engine (prompt and max_tokens bound its
// size), and
// cancellation in the other direction.
//
// Lifetime: shared by the engine and one reader. Every accepted request's stream ends in exactly
// one Completion. Thread contract: all methods may be called from any thread; one reader at a time.
#ifndef STERNA_ENGINE_TOKEN_STREAM_H_
#define STERNA_ENGINE_TOKEN_STREAM_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "kernels/sampling.h"

namespace sterna {

enum class FinishReason { kStop, kLength, kCancelled, kFailed };

// "stop", "length", "cancelled", "failed".
std::string_view FinishReasonName(FinishReason reason);

// Of the output, or of the prompt where its logprobs were asked for.
struct OutputToken {
  int32_t id = 0;
  float logprob = 0.0f;           // meaningful when logprobs were asked for
  std::vector<TokenLogprob> top;  // the most likely alternatives, if asked for
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t energy_nj = 0;      // this request's share of the measured joules, in nanojoules
  std::string energy_method;  // EnergyMeter::method()
};

struct Completion {
  FinishReason reason = FinishReason::kStop;
  Status error;                            // for kFailed and kCancelled (engine/errors.h)
  std::optional<std::string> stop_string;  // the one that matched
  std::optional<int32_t> stop_token;       // the end or stop token that ended it
  Usage usage;
};

// Everything that came since the last Take. `text` lags `tokens` while it may be part of a
// character or of a stop string; the last update brings the rest. A token that ended generation is
// counted in usage and in `tokens`, but its text is not in `text`.
struct StreamUpdate {
  // The prompt's that were asked for; the last comes before the first of `tokens`, and
  // before the end unless the request was cut short.
  std::vector<OutputToken> prompt_logprobs;
  std::vector<OutputToken> tokens;
  std::string text;
  std::optional<Completion> end;  // the last update

  bool empty() const {
    return prompt_logprobs.empty() && tokens.empty() && text.empty() && !end.has_value();
  }
};

class TokenStream {
 public:
  // Reader.

  // `on_ready` runs (on the engine thread, so it must only hand over) whenever the stream turns
  // from empty to non-empty, and at once if it is non-empty now. Replaces the previous one; it is
  // not running any more when this returns. Do not call from within `on_ready`.
  void SetReadyCallback(std::function<void()> on_ready) STERNA_EXCLUDES(callback_mutex_, mutex_);
  // Takes everything there is; empty() when there is nothing.
  StreamUpdate Take() STERNA_EXCLUDES(mutex_);
  // Blocks until there is something, then takes it. For tests and the command line.
  StreamUpdate WaitAndTake() STERNA_EXCLUDES(mutex_);
  // Asks the engine to end the request; its Completion (kCancelled unless it finished before)
  // follows within a step. Harmless at any time, any number of times.
  void Cancel();

  // Engine.

  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  // `wake` is called by Cancel, so that an engine that waits notices. Set once, before sharing.
  void SetCancelCallback(std::function<void()> wake) { on_cancel_ = std::move(wake); }
  // `update.end` may be set once; nothing may be pushed after it.
  void Push(StreamUpdate update) STERNA_EXCLUDES(callback_mutex_, mutex_);

 private:
  std::atomic<bool> cancelled_{false};
  std::function<void()> on_cancel_;
  Mutex mutex_;
  CondVar ready_;
  StreamUpdate pending_ STERNA_GUARDED_BY(mutex_);
  bool ended_ STERNA_GUARDED_BY(mutex_) = false;
  // Held while the callback runs, so that SetReadyCallback can promise that the old one has
  // returned.
  Mutex callback_mutex_;
  std::function<void()> on_ready_ STERNA_GUARDED_BY(callback_mutex_);
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TOKEN_STREAM_H_
