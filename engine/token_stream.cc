#include "engine/token_stream.h"

#include <iterator>

#include "base/check.h"

namespace sterna {
namespace {

void Append(std::vector<OutputToken>& from, std::vector<OutputToken>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kFailed:
      return "failed";
  }
  return "unknown";
}

void TokenStream::SetReadyCallback(std::function<void()> on_ready) {
  MutexLock callback_lock(callback_mutex_);
  on_ready_ = std::move(on_ready);
  bool ready;
  {
    MutexLock lock(mutex_);
    ready = !pending_.empty();
  }
  if (ready && on_ready_) on_ready_();
}

StreamUpdate TokenStream::Take() {
  MutexLock lock(mutex_);
  return std::exchange(pending_, StreamUpdate());
}

StreamUpdate TokenStream::WaitAndTake() {
  MutexLock lock(mutex_);
  // A stream that has ended and was read to the end stays empty; waiting then would be for ever.
  while (pending_.empty() && !ended_) ready_.Wait(mutex_);
  return std::exchange(pending_, StreamUpdate());
}

void TokenStream::Cancel() {
  if (!cancelled_.exchange(true, std::memory_order_acq_rel) && on_cancel_) on_cancel_();
}

void TokenStream::Push(StreamUpdate update) {
  if (update.empty()) return;
  bool was_empty;
  {
    MutexLock lock(mutex_);
    STERNA_CHECK(!ended_);
    was_empty = pending_.empty();
    Append(update.prompt_logprobs, pending_.prompt_logprobs);
    Append(update.tokens, pending_.tokens);
    pending_.text += update.text;
    ended_ = update.end.has_value();
    pending_.end = std::move(update.end);
    ready_.NotifyAll();
  }
  if (!was_empty) return;
  MutexLock callback_lock(callback_mutex_);
  if (on_ready_) on_ready_();
}

}  // namespace sterna
