#include "engine/schedule/sequence.h"

#include <algorithm>

#include "base/check.h"

namespace sterna {

Sequence::Sequence(std::vector<int32_t> prompt, int32_t priority, uint64_t order, BlockPool* pool,
                   int64_t first_scored)
    : tokens_(std::move(prompt)),
      num_prompt_tokens_(static_cast<int64_t>(tokens_.size())),
      num_known_(num_prompt_tokens_),
      priority_(priority),
      order_(order),
      next_logits_(std::min(first_scored, num_prompt_tokens_) - 1),
      blocks_(pool) {
  STERNA_CHECK(!tokens_.empty() && first_scored >= 1);
}

int64_t Sequence::NumLogits(int64_t num_tokens) const {
  return std::clamp<int64_t>(num_computed_ + num_tokens - next_logits_, 0, num_tokens);
}

int64_t Sequence::NumScores(int64_t num_tokens) const {
  const int64_t first = std::max(num_computed_, next_logits_);
  const int64_t end = std::min(num_computed_ + num_tokens, num_prompt_tokens_ - 1);
  return std::max<int64_t>(end - first, 0);
}

int64_t Sequence::MostTokensFor(int64_t num_scores) const {
  if (NumScores(num_to_compute()) <= num_scores) return num_to_compute();
  return std::max(num_computed_, next_logits_) + num_scores - num_computed_;
}

void Sequence::Start() {
  STERNA_CHECK(state_ == SequenceState::kWaiting);
  state_ = SequenceState::kRunning;
}

void Sequence::Preempt() {
  STERNA_CHECK(state_ == SequenceState::kRunning);
  state_ = SequenceState::kWaiting;
  blocks_.Clear();
  num_computed_ = 0;
}

void Sequence::Finish() {
  STERNA_CHECK(state_ != SequenceState::kFinished);
  state_ = SequenceState::kFinished;
  blocks_.Clear();
}

void Sequence::Advance(int64_t num_tokens) {
  STERNA_CHECK(state_ == SequenceState::kRunning && num_tokens <= num_to_compute());
  num_computed_ += num_tokens;
  high_water_ = std::max(high_water_, num_computed_);
  next_logits_ = std::max(next_logits_, num_computed_);
}

void Sequence::AppendToken(int32_t token) {
  if (num_known_ == num_tokens()) tokens_.push_back(token);
  tokens_[static_cast<size_t>(num_known_++)] = token;
}

}  // namespace sterna
