#include "engine/schedule/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>
#include <vector>

namespace sterna {
namespace {

// Sequences, a pool and a scheduler, and the engine's part of a step: advance, append, finish.
class Simulation {
 public:
  Simulation(const SchedulerOptions& options, int64_t num_blocks)
      : pool_(num_blocks), scheduler_(options, &pool_) {}

  Sequence* Add(int64_t prompt_tokens, int64_t output_tokens, int32_t priority = 0,
                int64_t first_scored = Sequence::kScoresNone) {
    const uint64_t order = sequences_.size();
    sequences_.push_back(
        std::make_unique<Sequence>(std::vector<int32_t>(prompt_tokens, static_cast<int32_t>(order)),
                                   priority, order, &pool_, first_scored));
    wanted_.push_back(output_tokens);
    next_logits_.push_back(std::min(first_scored, prompt_tokens) - 1);
    scheduler_.Add(sequences_.back().get());
    return sequences_.back().get();
  }

  StepPlan Step() {
    const StepPlan plan = scheduler_.Plan();
    last_num_logits_ = BuildStepBatch(plan).num_logits();
    for (const ScheduledSequence& w : plan.work) {
      // Rows of logits are the last of what is computed; each position has one, in order.
      const int64_t num_logits = w.sequence->NumLogits(w.num_tokens);
      const int64_t end = w.sequence->num_computed() + w.num_tokens;
      int64_t& next = next_logits_[w.sequence->order()];
      EXPECT_LE(num_logits, w.num_tokens);
      if (num_logits > 0) {
        EXPECT_EQ(end - num_logits, next);
      } else {
        EXPECT_LE(end, next);
      }
      next += num_logits;
      w.sequence->Advance(w.num_tokens);
      if (w.sequence->num_to_compute() > 0) continue;
      w.sequence->AppendToken(0);
      if (w.sequence->num_output_tokens() == wanted_[w.sequence->order()]) {
        w.sequence->Finish();
        scheduler_.Remove(w.sequence);
      }
    }
    preemptions_ += static_cast<int64_t>(plan.preempted.size());
    const Status status = scheduler_.CheckIntegrity();
    EXPECT_TRUE(status.ok()) << status;
    return plan;
  }

  bool Busy() const { return scheduler_.num_running() + scheduler_.num_waiting() > 0; }
  int64_t preemptions() const { return preemptions_; }
  int64_t last_num_logits() const { return last_num_logits_; }
  BlockPool& pool() { return pool_; }
  Scheduler& scheduler() { return scheduler_; }
  Sequence& at(size_t i) { return *sequences_[i]; }

 private:
  BlockPool pool_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<int64_t> wanted_;
  std::vector<int64_t> next_logits_;  // the position of the first that no step has had
  int64_t preemptions_ = 0;
  int64_t last_num_logits_ = 0;  // of the last step
};

constexpr SchedulerOptions kRoomy = {.max_step_tokens = 64,
                                     .max_step_prompt_tokens = 64,
                                     .max_chunk_tokens = 64,
                                     .max_sequences = 8};

TEST(SchedulerTest, PromptsRunInChunksWithinTheBudget) {
  Simulation s({.max_step_tokens = 10,
                .max_step_prompt_tokens = 10,
                .max_chunk_tokens = 4,
                .max_sequences = 8},
               100);
  s.Add(9, 2);
  s.Add(3, 2);
  StepPlan plan = s.Step();
  ASSERT_EQ(plan.work.size(), 2u);
  EXPECT_EQ(plan.work[0].num_tokens, 4);
  EXPECT_EQ(plan.work[1].num_tokens, 3);
  plan = s.Step();  // the second decodes now and comes first
  ASSERT_EQ(plan.work.size(), 2u);
  EXPECT_EQ(plan.work[0].sequence->order(), 1u);
  EXPECT_EQ(plan.work[0].num_tokens, 1);
  EXPECT_EQ(plan.work[1].num_tokens, 4);
}

TEST(SchedulerTest, PromptsTakeNoMoreThanTheirsHoweverFewDecode) {
  Simulation s({.max_step_tokens = 30,
                .max_step_prompt_tokens = 10,
                .max_chunk_tokens = 8,
                .max_sequences = 20},
               100);
  s.Add(1, 100);
  s.Step();
  s.Add(25, 1);  // an old one in chunks, a new one beside it
  s.Add(9, 1);
  std::vector<int64_t> chunks;
  for (int i = 0; i < 4; ++i) {
    int64_t prompts = 0;
    const StepPlan plan = s.Step();
    EXPECT_EQ(plan.work[0].num_tokens, 1) << "the first one decodes";
    for (size_t w = 1; w < plan.work.size(); ++w) prompts += plan.work[w].num_tokens;
    chunks.push_back(prompts);
  }
  EXPECT_EQ(chunks, (std::vector<int64_t>{10, 10, 10, 4}));
}

TEST(SchedulerTest, ScoredPromptsTakeNoMoreRowsThanTheirs) {
  Simulation s({.max_step_tokens = 20,
                .max_step_prompt_tokens = 20,
                .max_chunk_tokens = 20,
                .max_sequences = 8,
                .max_scored_tokens = 6},
               100);
  s.Add(10, 1, 0, /*first_scored=*/1);  // nine tokens are told of
  s.Add(6, 1, 0, /*first_scored=*/1);   // five
  s.Add(5, 1);                          // none, but nobody is overtaken
  StepPlan plan = s.Step();
  ASSERT_EQ(plan.work.size(), 1u) << "the second, and who comes after it, wait for rows";
  EXPECT_EQ(plan.work[0].num_tokens, 6);
  plan = s.Step();
  ASSERT_EQ(plan.work.size(), 3u);
  EXPECT_EQ(plan.work[0].num_tokens, 4);
  EXPECT_EQ(plan.work[1].num_tokens, 3);
  EXPECT_EQ(plan.work[2].num_tokens, 5);
  EXPECT_EQ(s.last_num_logits(), 3 + 1 + 3 + 1);
  plan = s.Step();
  ASSERT_EQ(plan.work.size(), 1u);
  EXPECT_EQ(plan.work[0].num_tokens, 3);
  EXPECT_FALSE(s.Busy());
}

// What was told of before a preemption takes no rows again, and none of the budget.
TEST(SchedulerTest, ARecomputedPromptIsNotScoredAgain) {
  Simulation s({.max_step_tokens = 32,
                .max_step_prompt_tokens = 32,
                .max_chunk_tokens = 32,
                .max_sequences = 8,
                .max_scored_tokens = 8},
               4);
  Sequence* first = s.Add(15, 40);
  s.Step();
  Sequence* scored = s.Add(20, 1, 0, /*first_scored=*/1);
  s.Step();
  EXPECT_EQ(scored->num_computed(), 8);
  first->Preempt();  // not what happens here, but the rules are one sequence's own
  scored->Preempt();
  EXPECT_EQ(scored->NumLogits(8), 0);
  EXPECT_EQ(scored->NumLogits(12), 4);
  EXPECT_EQ(scored->NumLogits(20), 12);
  EXPECT_EQ(scored->NumScores(20), 11) << "the last row is the one that draws";
  EXPECT_EQ(scored->MostTokensFor(0), 8);
  EXPECT_EQ(scored->MostTokensFor(10), 18);
  EXPECT_EQ(scored->MostTokensFor(11), 20);
  EXPECT_EQ(first->NumLogits(14), 0);
  EXPECT_EQ(first->NumScores(15), 0);
  EXPECT_EQ(first->MostTokensFor(0), first->num_tokens());
}

TEST(SchedulerTest, DecodesAreNeverStarvedByPrompts) {
  Simulation s({.max_step_tokens = 4,
                .max_step_prompt_tokens = 4,
                .max_chunk_tokens = 4,
                .max_sequences = 8},
               1000);
  s.Add(1, 100);
  s.Step();
  s.Add(1000, 1);
  for (int i = 0; i < 50; ++i) {
    const StepPlan plan = s.Step();
    ASSERT_GE(plan.work.size(), 1u);
    EXPECT_EQ(plan.work[0].sequence->order(), 0u);
    EXPECT_LE(plan.num_tokens(), 4);
  }
}

TEST(SchedulerTest, HigherPriorityIsAdmittedFirstAndPreemptedLast) {
  Simulation s({.max_step_tokens = 64,
                .max_step_prompt_tokens = 64,
                .max_chunk_tokens = 64,
                .max_sequences = 1},
               100);
  s.Add(4, 1, /*priority=*/0);
  s.Add(4, 1, /*priority=*/5);
  EXPECT_EQ(s.Step().work[0].sequence->order(), 1u);
  EXPECT_EQ(s.Step().work[0].sequence->order(), 0u);

  Simulation t(kRoomy, 4);
  t.Add(kKvBlockTokens, 40, /*priority=*/1);
  t.Add(kKvBlockTokens, 40, /*priority=*/2);
  while (t.preemptions() == 0) t.Step();
  EXPECT_EQ(t.at(0).state(), SequenceState::kWaiting);
  EXPECT_EQ(t.at(1).state(), SequenceState::kRunning);
}

TEST(SchedulerTest, TheYoungestIsPreemptedAndRecomputesEverything) {
  Simulation s(kRoomy, 4);
  s.Add(kKvBlockTokens, 40);
  s.Add(kKvBlockTokens, 40);
  while (s.preemptions() == 0) s.Step();
  EXPECT_EQ(s.at(0).state(), SequenceState::kRunning);
  EXPECT_EQ(s.at(1).state(), SequenceState::kWaiting);
  EXPECT_EQ(s.at(1).num_computed(), 0);
  EXPECT_GT(s.at(1).num_output_tokens(), 0);
  EXPECT_GT(s.at(1).high_water(), kKvBlockTokens);
  while (s.Busy()) s.Step();
  EXPECT_EQ(s.at(1).num_output_tokens(), 40);
}

TEST(SchedulerTest, NobodyOvertakesAWaitingSequenceThatDoesNotFitYet) {
  Simulation s(kRoomy, 6);
  s.Add(3 * kKvBlockTokens, 10);
  s.Add(4 * kKvBlockTokens, 1);  // does not fit beside the first
  s.Add(1, 1);                   // would fit, but came later
  const StepPlan plan = s.Step();
  EXPECT_EQ(plan.work.size(), 1u);
  while (s.at(0).state() == SequenceState::kRunning) {
    EXPECT_EQ(s.at(2).state(), SequenceState::kWaiting);
    s.Step();
  }
}

TEST(SchedulerTest, BatchArraysDescribeThePlan) {
  Simulation s({.max_step_tokens = 64,
                .max_step_prompt_tokens = 64,
                .max_chunk_tokens = 20,
                .max_sequences = 8},
               100);
  s.Add(30, 2);
  s.Add(5, 2);
  s.Step();
  const StepPlan plan = s.scheduler().Plan();
  const StepBatch batch = BuildStepBatch(plan);
  ASSERT_EQ(batch.num_tokens(), 11);  // one decode token, and positions 20..29
  EXPECT_EQ(batch.num_sequences, 2);
  EXPECT_EQ(batch.max_blocks, 2);
  EXPECT_EQ(batch.positions[0], 5);
  EXPECT_EQ(batch.positions[1], 20);
  EXPECT_EQ(batch.positions[10], 29);
  EXPECT_EQ(batch.logit_rows, (std::vector<int32_t>{0, 10}));
  for (int64_t t = 0; t < batch.num_tokens(); ++t) {
    const int64_t block = batch.positions[t] / kKvBlockTokens;
    EXPECT_EQ(batch.slots[t],
              batch.block_tables[batch.sequence[t] * batch.max_blocks + block] * kKvBlockTokens +
                  batch.positions[t] % kKvBlockTokens);
  }
}

// Random loads over caches that barely hold the longest sequence: everything finishes, within a
// budget that every step keeps, and the blocks add up after every step.
TEST(SchedulerTest, RandomLoadsAlwaysFinish) {
  int64_t preemptions = 0;
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int64_t low, int64_t high) {
      return std::uniform_int_distribution<int64_t>(low, high)(random);
    };
    const SchedulerOptions options = {.max_step_tokens = pick(1, 40),
                                      .max_step_prompt_tokens = pick(1, 40),
                                      .max_chunk_tokens = pick(1, 40),
                                      .max_sequences = pick(1, 10),
                                      .max_scored_tokens = pick(1, 40)};
    Simulation s(options, 10);
    int added = 0;
    for (int step = 0; added < 40 || s.Busy(); ++step) {
      ASSERT_LT(step, 200000) << "seed " << seed << " does not end";
      if (added < 40 && pick(0, 2) == 0) {
        const int64_t prompt = pick(1, 8 * kKvBlockTokens);
        s.Add(prompt, pick(1, 10 * kKvBlockTokens - prompt), static_cast<int32_t>(pick(0, 2)),
              pick(0, 2) == 0 ? pick(1, 9 * kKvBlockTokens) : Sequence::kScoresNone);
        ++added;
      }
      const bool busy = s.Busy();
      const StepPlan plan = s.Step();
      ASSERT_LE(plan.num_tokens(), options.max_step_tokens);
      ASSERT_LE(s.last_num_logits(),
                options.max_scored_tokens + static_cast<int64_t>(plan.work.size()));
      int64_t prompts = 0;
      for (const ScheduledSequence& w : plan.work) {
        if (w.num_tokens > 1 || std::ranges::count(plan.admitted, w.sequence) > 0) {
          prompts += w.num_tokens;
        }
      }
      ASSERT_LE(prompts, options.max_step_prompt_tokens);
      ASSERT_EQ(!plan.work.empty(), busy) << "an idle step while work waits would hang the engine";
    }
    EXPECT_EQ(s.pool().num_used(), 0);
    preemptions += s.preemptions();
  }
  EXPECT_GT(preemptions, 100) << "the loads no longer exercise preemption";
}

// With a step in flight a sequence whose last token is being drawn has nothing to compute: nobody
// is thrown out for want of the blocks that it gives back when that step is done.
TEST(SchedulerTest, WaitsForABlockOfASequenceThatIsAboutToEnd) {
  for (const bool ending : {true, false}) {
    Simulation s(kRoomy, 4);
    Sequence* first = s.Add(10, 100);
    Sequence* second = s.Add(16, 100);
    while (second->num_tokens() < 2 * kKvBlockTokens) s.Step();
    ASSERT_EQ(s.pool().num_free(), 0);
    const StepPlan last = s.scheduler().Plan();
    ASSERT_EQ(last.work.size(), 2u);
    for (Sequence* sequence : {first, second}) sequence->Advance(1);
    second->ExpectToken(-2);
    if (!ending) first->ExpectToken(-3);

    const StepPlan plan = s.scheduler().Plan();
    EXPECT_EQ(plan.work.size(), ending ? 0u : 1u);
    EXPECT_EQ(plan.preempted.size(), ending ? 0u : 1u);
    if (!ending) continue;
    second->AppendToken(7);
    EXPECT_EQ(second->tokens().back(), 7);
    EXPECT_EQ(second->num_tokens(), 2 * kKvBlockTokens + 1) << "the token takes its place";
    first->Finish();
    s.scheduler().Remove(first);
    EXPECT_EQ(s.scheduler().Plan().work.size(), 1u);
    EXPECT_TRUE(s.scheduler().CheckIntegrity().ok());
  }
}

}  // namespace
}  // namespace sterna
