#include "engine/schedule/scheduler.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sterna {
namespace {

bool Before(const Sequence* a, const Sequence* b) {
  if (a->priority() != b->priority()) return a->priority() > b->priority();
  return a->order() < b->order();
}

void InsertInOrder(std::vector<Sequence*>& sequences, Sequence* sequence) {
  sequences.insert(std::upper_bound(sequences.begin(), sequences.end(), sequence, Before),
                   sequence);
}

}  // namespace

int64_t StepPlan::num_tokens() const {
  int64_t total = 0;
  for (const ScheduledSequence& w : work) total += w.num_tokens;
  return total;
}

StepBatch BuildStepBatch(const StepPlan& plan) {
  StepBatch batch;
  batch.num_sequences = static_cast<int64_t>(plan.work.size());
  for (const ScheduledSequence& w : plan.work) {
    batch.max_blocks = std::max(batch.max_blocks,
                                BlockTable::BlocksFor(w.sequence->num_computed() + w.num_tokens));
  }
  batch.block_tables.assign(batch.num_sequences * batch.max_blocks, 0);
  for (int64_t s = 0; s < batch.num_sequences; ++s) {
    const Sequence& sequence = *plan.work[s].sequence;
    const auto blocks = sequence.blocks().blocks();
    const int64_t used = std::min<int64_t>(static_cast<int64_t>(blocks.size()), batch.max_blocks);
    std::copy_n(blocks.begin(), used, batch.block_tables.begin() + s * batch.max_blocks);
    const int64_t end = sequence.num_computed() + plan.work[s].num_tokens;
    for (int64_t position = sequence.num_computed(); position < end; ++position) {
      batch.token_ids.push_back(sequence.tokens()[position]);
      batch.positions.push_back(static_cast<int32_t>(position));
      batch.slots.push_back(sequence.blocks().Slot(position));
      batch.sequence.push_back(static_cast<int32_t>(s));
    }
    const int64_t num_logits = sequence.NumLogits(plan.work[s].num_tokens);
    for (int64_t row = batch.num_tokens() - num_logits; row < batch.num_tokens(); ++row) {
      batch.logit_rows.push_back(static_cast<int32_t>(row));
    }
  }
  return batch;
}

Scheduler::Scheduler(const SchedulerOptions& options, BlockPool* pool)
    : options_(options), pool_(pool) {
  STERNA_CHECK(options.max_step_tokens >= 1 && options.max_step_prompt_tokens >= 1 &&
               options.max_chunk_tokens >= 1 && options.max_sequences >= 1 &&
               options.max_scored_tokens >= 1);
}

void Scheduler::Add(Sequence* sequence) {
  STERNA_CHECK(sequence->state() == SequenceState::kWaiting);
  InsertInOrder(waiting_, sequence);
}

void Scheduler::Remove(Sequence* sequence) {
  STERNA_CHECK(sequence->state() == SequenceState::kFinished);
  std::erase(running_, sequence);
  std::erase(waiting_, sequence);
}

StepPlan Scheduler::Plan() {
  StepPlan plan;
  Budget budget = {.tokens = options_.max_step_tokens, .scores = options_.max_scored_tokens};
  PlanDecodes(plan, budget);
  budget.tokens = std::min(budget.tokens, options_.max_step_prompt_tokens);
  PlanChunks(plan, budget);
  // Blocks that a preemption has freed belong to the older sequences that needed them.
  if (plan.preempted.empty()) Admit(plan, budget);
  return plan;
}

void Scheduler::PlanDecodes(StepPlan& plan, Budget& budget) {
  // By index: preemption shortens running_, always behind the sequence it makes room for.
  for (size_t i = 0; i < running_.size() && budget.tokens > 0; ++i) {
    Sequence* sequence = running_[i];
    if (sequence->num_to_compute() != 1) continue;
    if (!ReserveOrPreempt(sequence, plan)) break;
    plan.work.push_back({sequence, 1});
    --budget.tokens;
  }
}

void Scheduler::PlanChunk(Sequence* sequence, StepPlan& plan, Budget& budget) {
  const int64_t chunk =
      std::min({options_.max_chunk_tokens, budget.tokens, sequence->MostTokensFor(budget.scores)});
  if (chunk == 0) return;
  plan.work.push_back({sequence, chunk});
  budget.tokens -= chunk;
  budget.scores -= sequence->NumScores(chunk);
}

void Scheduler::PlanChunks(StepPlan& plan, Budget& budget) {
  for (Sequence* sequence : running_) {
    if (sequence->num_to_compute() > 1) PlanChunk(sequence, plan, budget);
  }
}

void Scheduler::Admit(StepPlan& plan, Budget& budget) {
  while (budget.tokens > 0 && !waiting_.empty() && num_running() < options_.max_sequences) {
    Sequence* sequence = waiting_.front();
    if (sequence->MostTokensFor(budget.scores) == 0) return;
    // One block to spare for whoever runs already, or the newcomer would soon be preempted again.
    const int64_t spare = running_.empty() ? 0 : 1;
    if (BlockTable::BlocksFor(sequence->num_tokens()) + spare > pool_->num_free()) return;
    STERNA_CHECK(sequence->blocks().Reserve(sequence->num_tokens()));
    waiting_.erase(waiting_.begin());
    sequence->Start();
    InsertInOrder(running_, sequence);
    PlanChunk(sequence, plan, budget);
    plan.admitted.push_back(sequence);
  }
}

bool Scheduler::ReserveOrPreempt(Sequence* sequence, StepPlan& plan) {
  const auto is_ending = [](const Sequence* s) { return s->num_to_compute() == 0; };
  while (!sequence->blocks().Reserve(sequence->num_tokens())) {
    // Its blocks come back when the step in flight is done: sooner than anyone is recomputed.
    if (std::any_of(running_.begin(), running_.end(), is_ending)) return false;
    Sequence* victim = running_.back();
    running_.pop_back();
    victim->Preempt();
    InsertInOrder(waiting_, victim);
    plan.preempted.push_back(victim);
    if (victim == sequence) return false;
  }
  return true;
}

Status Scheduler::CheckIntegrity() const {
  STERNA_RETURN_IF_ERROR(pool_->CheckIntegrity());
  int64_t owned = 0;
  for (const Sequence* sequence : running_) {
    const auto held = static_cast<int64_t>(sequence->blocks().blocks().size());
    owned += held;
    if (sequence->state() != SequenceState::kRunning ||
        held < BlockTable::BlocksFor(sequence->num_computed())) {
      return absl::InternalError(absl::StrCat("running sequence ", sequence->order(), " holds ",
                                              held, " blocks for ", sequence->num_computed(),
                                              " tokens"));
    }
  }
  for (const Sequence* sequence : waiting_) {
    if (sequence->state() != SequenceState::kWaiting || !sequence->blocks().blocks().empty()) {
      return absl::InternalError(
          absl::StrCat("waiting sequence ", sequence->order(), " holds blocks"));
    }
  }
  if (owned != pool_->num_used()) {
    return absl::InternalError(
        absl::StrCat(pool_->num_used(), " blocks are in use, but sequences own ", owned));
  }
  return absl::OkStatus();
}

}  // namespace sterna
