// Progress of one request: its tokens, how many of them are computed, and the blocks that hold
// their K and V. There is no prefill and no decode state: a step lets `num_computed` catch up with
// `tokens`, which covers prompt chunks, decoding and recomputation after preemption alike. A step
// may be planned before the one before it is done: a place is then kept for the token that it
// draws. Thread contract: the engine thread alone.
#ifndef STERNA_ENGINE_SCHEDULE_SEQUENCE_H_
#define STERNA_ENGINE_SCHEDULE_SEQUENCE_H_

#include <cstdint>
#include <limits>
#include <vector>

#include "engine/cache/block_table.h"

namespace sterna {

enum class SequenceState {
  kWaiting,   // new or preempted: owns no blocks
  kRunning,   // owns blocks for every computed token
  kFinished,  // owns no blocks and never will again
};

class Sequence {
 public:
  static constexpr int64_t kScoresNone = std::numeric_limits<int64_t>::max();

  // `order` is unique and rises with arrival: the tie-breaker of every scheduling decision.
  // `first_scored`, 1 or more: of the prompt's tokens from this position on is wanted how likely
  // each is, given those before it.
  Sequence(std::vector<int32_t> prompt, int32_t priority, uint64_t order, BlockPool* pool,
           int64_t first_scored = kScoresNone);
  virtual ~Sequence() = default;

  SequenceState state() const { return state_; }
  int32_t priority() const { return priority_; }
  uint64_t order() const { return order_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t num_prompt_tokens() const { return num_prompt_tokens_; }
  int64_t num_output_tokens() const { return num_known_ - num_prompt_tokens_; }  // known
  // Those known, and those whose place is kept.
  int64_t num_tokens() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t num_computed() const { return num_computed_; }
  int64_t num_to_compute() const { return num_tokens() - num_computed_; }
  // Most tokens that were ever computed: recomputation is what lies below it.
  int64_t high_water() const { return high_water_; }
  // Logits are wanted once of a token: of each that another is drawn after, and of each that one of
  // the prompt follows which is scored. What is recomputed gives none again.
  // Of the next `num_tokens` to be computed, the last so many.
  int64_t NumLogits(int64_t num_tokens) const;
  // Of these, those that score the prompt.
  int64_t NumScores(int64_t num_tokens) const;
  // The most tokens to compute next that score at most `num_scores` of the prompt.
  int64_t MostTokensFor(int64_t num_scores) const;
  BlockTable& blocks() { return blocks_; }
  const BlockTable& blocks() const { return blocks_; }

  // Transitions; each CHECK-fails from a state it does not start in.
  void Start();    // waiting -> running; blocks are reserved
  void Preempt();  // running -> waiting; gives its blocks back, everything is to be computed again
  void Finish();   // waiting or running -> finished; gives its blocks back

  // `num_tokens` more are computed.
  void Advance(int64_t num_tokens);
  // Keeps a place for the next token, which is being drawn; `placeholder`, a DrawnToken, tells the
  // device which it is.
  void ExpectToken(int32_t placeholder) { tokens_.push_back(placeholder); }
  // The next token is known: it takes the place kept for it, if any.
  void AppendToken(int32_t token);

 private:
  std::vector<int32_t> tokens_;  // prompt, then output, then places kept
  int64_t num_prompt_tokens_;
  int64_t num_known_;
  int32_t priority_;
  uint64_t order_;
  int64_t num_computed_ = 0;
  int64_t high_water_ = 0;
  int64_t next_logits_;  // position of the first whose logits have not been asked for
  SequenceState state_ = SequenceState::kWaiting;
  BlockTable blocks_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_SCHEDULE_SEQUENCE_H_
