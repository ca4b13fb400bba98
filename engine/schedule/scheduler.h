// Decides what runs next: a deterministic function of the sequences and the free blocks. It has no
// clock, device or I/O of its own.
//
// Policy. Order is priority (higher first), then arrival. Every step has a token budget, and
// one for the tokens of prompts that are scored, each of which takes a row of logits. Running
// sequences that decode (one token to compute) come first, so that prompts never starve them; then,
// within a budget of their own, running prompts in chunks; then waiting sequences are admitted, in
// order and without overtaking, while the budgets, the sequence limit and the free blocks for all
// their tokens allow it. A running sequence with nothing to compute, the token that ends it being
// drawn, is passed over.
// When a decoding sequence needs a block and none is free, the last running sequence in order is
// preempted: its blocks go back and it waits to be recomputed. The first in order is never
// preempted, and any accepted sequence fits the cache alone, so every sequence finishes. Thread
// contract: the engine thread alone.
#ifndef STERNA_ENGINE_SCHEDULE_SCHEDULER_H_
#define STERNA_ENGINE_SCHEDULE_SCHEDULER_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/cache/block_pool.h"
#include "engine/schedule/sequence.h"
#include "engine/schedule/step_batch.h"

namespace sterna {

struct SchedulerOptions {
  int64_t max_step_tokens;         // >= 1
  int64_t max_step_prompt_tokens;  // >= 1: of all that do more than decode, in one step
  int64_t max_chunk_tokens;        // >= 1: of one sequence in one step
  int64_t max_sequences;           // >= 1: running at once
  int64_t max_scored_tokens = 1;   // >= 1: of prompts that are scored, in one step
};

struct ScheduledSequence {
  Sequence* sequence;
  int64_t num_tokens;  // to compute in this step, starting at num_computed
};

struct StepPlan {
  std::vector<ScheduledSequence> work;
  std::vector<Sequence*> admitted;   // those of `work` that were waiting
  std::vector<Sequence*> preempted;  // now waiting again

  int64_t num_tokens() const;
};

// The arrays of one forward pass that carries out `plan`. Rows of logits are in the order of
// plan.work, those of one sequence (Sequence::NumLogits) in the order of its tokens.
StepBatch BuildStepBatch(const StepPlan& plan);

class Scheduler {
 public:
  // `pool` must outlive the scheduler.
  Scheduler(const SchedulerOptions& options, BlockPool* pool);

  // The sequence, which must be waiting and outlive its stay, takes its place in the order.
  void Add(Sequence* sequence);
  // Takes a finished sequence out.
  void Remove(Sequence* sequence);
  // What to compute next; empty when there is nothing to do.
  StepPlan Plan();

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  // Blocks in use are exactly those of the running sequences, each with room for all it has
  // computed.
  Status CheckIntegrity() const;

 private:
  // What a step may still take.
  struct Budget {
    int64_t tokens;
    int64_t scores;
  };
  void PlanDecodes(StepPlan& plan, Budget& budget);
  void PlanChunks(StepPlan& plan, Budget& budget);
  void Admit(StepPlan& plan, Budget& budget);
  // The next chunk of `sequence`, of no tokens where the budget is spent.
  void PlanChunk(Sequence* sequence, StepPlan& plan, Budget& budget);
  // Makes room for all tokens of `sequence`, preempting from the end of the order as needed. False
  // when `sequence` itself was preempted, or is to wait for a sequence that is about to end.
  bool ReserveOrPreempt(Sequence* sequence, StepPlan& plan);

  SchedulerOptions options_;
  BlockPool* pool_;
  std::vector<Sequence*> running_;  // in order
  std::vector<Sequence*> waiting_;  // in order
};

}  // namespace sterna

#endif  // STERNA_ENGINE_SCHEDULE_SCHEDULER_H_
