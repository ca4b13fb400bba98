// The ledger against a fake meter whose truth the test decides.
#include "engine/energy/energy_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kMs = 1'000'000;

// Joules flow as the test says; the counter shows them at once or, like a GPU's, as of the last
// multiple of its update interval.
class FakeMeter final : public EnergyMeter {
 public:
  FakeMeter(FakeClock* clock, int64_t interval_ns) : clock_(clock), interval_ns_(interval_ns) {}

  // Lets `ns` pass at `watts`, which are nanojoules per nanosecond.
  void Run(int64_t ns, double watts) {
    while (ns > 0) {
      const int64_t now = clock_->NowNs();
      const int64_t to_edge = interval_ns_ == 0 ? ns : interval_ns_ - now % interval_ns_;
      const int64_t piece = std::min(ns, to_edge);
      clock_->AdvanceNs(piece);
      truth_nj_ += watts * static_cast<double>(piece);
      if (piece == to_edge) shown_nj_ = std::llround(truth_nj_);
      ns -= piece;
    }
  }
  void SetReading(int64_t nj) { shown_nj_ = nj; }
  void set_broken(bool broken) { broken_ = broken; }
  double truth_nj() const { return truth_nj_; }
  int64_t shown_nj() const { return shown_nj_; }

  StatusOr<int64_t> ReadNanojoules() override {
    if (broken_) return absl::UnavailableError("unplugged");
    return shown_nj_;
  }
  std::string method() const override { return "fake"; }
  std::string scope() const override { return "test"; }
  int64_t update_interval_ns() const override { return interval_ns_; }

 private:
  FakeClock* const clock_;
  const int64_t interval_ns_;
  double truth_nj_ = 0;
  int64_t shown_nj_ = 0;
  bool broken_ = false;
};

int64_t Requests(const EnergyTotals& t) { return t.prefill_nj + t.decode_nj; }

void ExpectBalanced(const EnergyTotals& t) {
  ASSERT_EQ(t.prefill_nj + t.decode_nj + t.idle_nj + t.overhead_nj + t.settlement_nj, t.meter_nj);
}

constexpr EnergyCostModel kCosts = {
    .weight_bytes = 1e6, .macs_per_token = 4e6, .kv_bytes_per_context_token = 2048};

StepWork Decode(int64_t context) { return {.output_tokens = 1, .context_tokens = context}; }
StepWork Prefill(int64_t tokens) {
  return {.prompt_tokens = tokens, .context_tokens = tokens * (tokens + 1) / 2};
}

// One step of `ns` at `watts`; returns the shares.
std::vector<int64_t> Step(EnergyLedger& ledger, FakeMeter& meter, bool was_idle, int64_t ns,
                          double watts, const std::vector<StepWork>& work) {
  std::vector<int64_t> shares(work.size(), -1);
  ledger.BeginStep(was_idle);
  meter.Run(ns, watts);
  ledger.EndStep(work, shares);
  return shares;
}

TEST(SplitByWeightTest, AddsUpAndFollowsTheLargestRemainder) {
  std::vector<int64_t> shares(3);
  SplitByWeight(100, std::vector<int64_t>{1, 1, 1}, shares);
  EXPECT_THAT(shares, ElementsAre(34, 33, 33));
  SplitByWeight(10, std::vector<int64_t>{1, 2, 4}, shares);  // 1.43, 2.86, 5.71
  EXPECT_THAT(shares, ElementsAre(1, 3, 6));
  SplitByWeight(0, std::vector<int64_t>{1, 2, 4}, shares);
  EXPECT_THAT(shares, ElementsAre(0, 0, 0));
  SplitByWeight(7, std::vector<int64_t>{0, 0, 5}, shares);
  EXPECT_THAT(shares, ElementsAre(0, 0, 7));
}

TEST(SplitByWeightTest, HoldsForTheLargestNumbers) {
  const int64_t big = INT64_MAX;
  std::vector<int64_t> shares(2);
  SplitByWeight(big, std::vector<int64_t>{big, big}, shares);
  EXPECT_THAT(shares, ElementsAre(big / 2 + 1, big / 2));
}

// With a step in flight a request may end: those beside it bear no more for that.
TEST(EnergyLedgerTest, TheShareOfARequestThatHasEndedIsOverhead) {
  FakeClock clock(5);
  FakeMeter meter(&clock, 0);
  EnergyLedger ledger(&meter, &clock, kCosts);
  const std::vector<int64_t> whole =
      Step(ledger, meter, true, 2 * kMs, 40, {Prefill(16), Decode(100)});
  StepWork ended = Prefill(16);
  ended.request_ended = true;
  const std::vector<int64_t> shares = Step(ledger, meter, false, 2 * kMs, 40, {ended, Decode(100)});
  EXPECT_THAT(shares, ElementsAre(0, whole[1]));
  EXPECT_EQ(ledger.totals().overhead_nj, whole[0]);
  EXPECT_EQ(ledger.totals().prefill_nj, whole[0]);
  EXPECT_EQ(ledger.totals().decode_nj, 2 * whole[1]);
  ExpectBalanced(ledger.totals());
}

TEST(EnergyLedgerTest, ImmediateMeterIsAttributedToTheNanojoule) {
  FakeClock clock(5);
  FakeMeter meter(&clock, 0);
  meter.Run(3 * kMs, 7);  // before the ledger exists: nobody asked for anything
  EnergyLedger ledger(&meter, &clock, kCosts);
  meter.Run(10 * kMs, 5);  // idle
  const std::vector<int64_t> shares =
      Step(ledger, meter, /*was_idle=*/true, 2 * kMs, 40, {Prefill(16), Decode(100)});
  meter.Run(1 * kMs, 20);  // between steps while work waits
  const std::vector<int64_t> more = Step(ledger, meter, false, 1 * kMs, 30, {Decode(10)});
  meter.Run(4 * kMs, 5);
  ledger.Settle();

  const EnergyTotals& t = ledger.totals();
  EXPECT_EQ(t.idle_nj, 3 * kMs * 7 + 10 * kMs * 5 + 4 * kMs * 5);
  EXPECT_EQ(t.overhead_nj, 1 * kMs * 20);
  EXPECT_EQ(shares[0] + shares[1], 2 * kMs * 40);
  EXPECT_EQ(more[0], 1 * kMs * 30);
  EXPECT_EQ(t.prefill_nj, shares[0]);
  EXPECT_EQ(t.decode_nj, shares[1] + more[0]);
  EXPECT_EQ(t.settlement_nj, 0);
  EXPECT_EQ(t.meter_nj, meter.shown_nj());
}

TEST(EnergyLedgerTest, SharesFollowThePredictedCost) {
  FakeClock clock;
  FakeMeter meter(&clock, 0);
  EnergyLedger ledger(&meter, &clock, kCosts);
  const std::vector<int64_t> shares =
      Step(ledger, meter, true, kMs, 100, {Prefill(3), Decode(1000), Decode(1)});
  // Weights: 1e6 bytes over 5 tokens; 4e6 multiply-adds a token; 2048 bytes a context token.
  const auto cost = [](double tokens, double context) {
    return 120 * (1e6 * tokens / 5 + 2048 * context) + 10 * 4e6 * tokens;
  };
  const double total = cost(3, 6) + cost(1, 1000) + cost(1, 1);
  const double step_nj = 100.0 * kMs;
  EXPECT_NEAR(static_cast<double>(shares[0]), step_nj * cost(3, 6) / total, 1.5);
  EXPECT_NEAR(static_cast<double>(shares[1]), step_nj * cost(1, 1000) / total, 1.5);
  EXPECT_NEAR(static_cast<double>(shares[2]), step_nj * cost(1, 1) / total, 1.5);
}

TEST(EnergyLedgerTest, SharesDoNotDependOnTheOrder) {
  std::mt19937 random(7);
  std::vector<StepWork> work;
  for (int i = 0; i < 40; ++i) work.push_back(i % 5 == 0 ? Prefill(i + 1) : Decode(31 * i));
  std::vector<int64_t> reference;
  for (int round = 0; round < 20; ++round) {
    std::vector<size_t> order(work.size());
    std::iota(order.begin(), order.end(), size_t{0});
    if (round > 0) std::shuffle(order.begin(), order.end(), random);
    std::vector<StepWork> shuffled;
    for (size_t i : order) shuffled.push_back(work[i]);
    FakeClock clock;
    FakeMeter meter(&clock, 0);
    EnergyLedger ledger(&meter, &clock, kCosts);
    const std::vector<int64_t> shares = Step(ledger, meter, true, 1'234'567, 3, shuffled);
    std::vector<int64_t> sorted(work.size());
    for (size_t i = 0; i < order.size(); ++i) sorted[order[i]] = shares[i];
    if (round == 0) reference = sorted;
    EXPECT_EQ(sorted, reference);
  }
}

TEST(EnergyLedgerTest, AStepWithoutWorkIsOverhead) {
  FakeClock clock;
  FakeMeter meter(&clock, 0);
  EnergyLedger ledger(&meter, &clock, kCosts);
  EXPECT_THAT(Step(ledger, meter, true, kMs, 9, {{}, {}}), ElementsAre(0, 0));
  Step(ledger, meter, false, kMs, 9, {});
  EXPECT_EQ(ledger.totals().overhead_nj, 2 * 9 * kMs);
  EXPECT_EQ(Requests(ledger.totals()), 0);
  ExpectBalanced(ledger.totals());
}

TEST(EnergyLedgerTest, AModelWithoutCostsStillSplitsEverything) {
  FakeClock clock;
  FakeMeter meter(&clock, 0);
  EnergyLedger ledger(&meter, &clock, {});
  EXPECT_THAT(Step(ledger, meter, true, kMs, 1, {Decode(5), Decode(9)}),
              ElementsAre(kMs / 2, kMs / 2));
}

TEST(EnergyLedgerTest, AMixedSequenceCountsInBothPhases) {
  FakeClock clock;
  FakeMeter meter(&clock, 0);
  EnergyLedger ledger(&meter, &clock, kCosts);
  Step(ledger, meter, true, kMs, 4,
       {{.prompt_tokens = 3, .output_tokens = 1, .context_tokens = 9}});
  EXPECT_EQ(ledger.totals().prefill_nj, 3 * kMs);
  EXPECT_EQ(ledger.totals().decode_nj, 1 * kMs);
}

TEST(EnergyLedgerTest, ZeroAndNegativeDeltasChargeNothing) {
  FakeClock clock;
  FakeMeter meter(&clock, 0);
  meter.SetReading(1000);
  EnergyLedger ledger(&meter, &clock, kCosts);
  EXPECT_THAT(Step(ledger, meter, true, 0, 0, {Decode(1)}), ElementsAre(0));
  meter.SetReading(400);  // reset: counts on from here
  EXPECT_THAT(Step(ledger, meter, false, 0, 0, {Decode(1)}), ElementsAre(0));
  ledger.BeginStep(false);
  meter.SetReading(450);
  std::vector<int64_t> shares(1);
  ledger.EndStep(std::vector<StepWork>{Decode(1)}, shares);
  EXPECT_THAT(shares, ElementsAre(50));
  EXPECT_EQ(ledger.totals().meter_nj, 1050);
  ExpectBalanced(ledger.totals());
}

TEST(EnergyLedgerTest, AFailingSourceChargesNothingAndTheGapIsSettled) {
  for (const int64_t interval_ns : {int64_t{0}, 100 * kMs}) {
    FakeClock clock;
    FakeMeter meter(&clock, interval_ns);
    EnergyLedger ledger(&meter, &clock, kCosts);
    for (int i = 0; i < 100; ++i) Step(ledger, meter, i == 0, 10 * kMs, 50, {Decode(1)});
    const EnergyTotals before = ledger.totals();
    meter.set_broken(true);
    for (int i = 0; i < 100; ++i) {
      EXPECT_THAT(Step(ledger, meter, false, 10 * kMs, 50, {Decode(1)}), ElementsAre(0));
      ExpectBalanced(ledger.totals());
    }
    EXPECT_EQ(ledger.totals().meter_nj, before.meter_nj);
    meter.set_broken(false);
    ledger.BeginStep(false);
    EXPECT_EQ(ledger.totals().meter_nj, meter.shown_nj());
    EXPECT_EQ(Requests(ledger.totals()), Requests(before));
    EXPECT_GE(ledger.totals().settlement_nj - before.settlement_nj, 1000 * kMs * 50 * 9 / 10);
    // And attribution goes on.
    for (int i = 0; i < 100; ++i) Step(ledger, meter, false, 10 * kMs, 50, {Decode(1)});
    EXPECT_NEAR(static_cast<double>(Requests(ledger.totals()) - Requests(before)),
                1000.0 * kMs * 50, 100.0 * kMs * 50);
    ExpectBalanced(ledger.totals());
  }
}

// A busy server with bursts and pauses, short decode steps and longer prefill steps that draw more
// power, seen through meters of different sluggishness.
struct Simulation {
  EnergyTotals totals;
  double true_requests_nj = 0;
  double true_idle_nj = 0;
  double true_overhead_nj = 0;
  double charged_request_nj = 0;  // one request that runs the whole time
  double true_request_nj = 0;
  double worst_settlement_nj = 0;
};

Simulation Simulate(int64_t interval_ns, uint32_t seed, int bursts) {
  std::mt19937 random(seed);
  const auto uniform = [&](double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random);
  };
  FakeClock clock(static_cast<int64_t>(uniform(0, 1e9)));
  FakeMeter meter(&clock, interval_ns);
  EnergyLedger ledger(&meter, &clock, kCosts);
  Simulation s;
  const auto spend = [&](double ns, double watts, double& account) {
    const double before = meter.truth_nj();
    meter.Run(static_cast<int64_t>(ns), watts);
    account += meter.truth_nj() - before;
  };
  for (int burst = 0; burst < bursts; ++burst) {
    for (double pause = uniform(0, 3e9); pause > 0; pause -= 1e9) {
      spend(std::min(pause, 1e9), 80 + uniform(-2, 2), s.true_idle_nj);
      if (pause > 1e9) ledger.Settle();
    }
    const int steps = static_cast<int>(uniform(1, 400));
    for (int i = 0; i < steps; ++i) {
      if (i > 0) spend(uniform(0.02e6, 0.2e6), 150, s.true_overhead_nj);
      ledger.BeginStep(i == 0);
      const bool prefill = i % 20 == 0;
      const std::vector<StepWork> work = {prefill ? Prefill(200) : Decode(50), Decode(300)};
      double step_nj = 0;
      spend(prefill ? uniform(10e6, 20e6) : uniform(3e6, 8e6),
            (prefill ? 420 : 350) + uniform(-15, 15), step_nj);
      std::vector<int64_t> shares(2);
      ledger.EndStep(work, shares);
      s.true_requests_nj += step_nj;
      const double part = static_cast<double>(shares[1]) /
                          std::max(1.0, static_cast<double>(shares[0] + shares[1]));
      s.charged_request_nj += static_cast<double>(shares[1]);
      s.true_request_nj += part * step_nj;
      EXPECT_GE(shares[0], 0);
      EXPECT_GE(shares[1], 0);
      ExpectBalanced(ledger.totals());
      s.worst_settlement_nj = std::max(
          s.worst_settlement_nj, std::abs(static_cast<double>(ledger.totals().settlement_nj)));
    }
  }
  EXPECT_EQ(ledger.totals().meter_nj, meter.shown_nj());
  s.totals = ledger.totals();
  return s;
}

class EnergyLedgerSimulationTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(EnergyLedgerSimulationTest, EstimatesComeCloseToTheTruthAndSettlementStaysSmall) {
  const int64_t interval_ns = GetParam();
  for (const uint32_t seed : {1u, 2u, 3u}) {
    const Simulation s = Simulate(interval_ns, seed, 200);
    const double meter_nj = static_cast<double>(s.totals.meter_nj);
    SCOPED_TRACE(absl::StrCat("seed ", seed, ", meter ", meter_nj / 1e9, " J, settlement ",
                              static_cast<double>(s.totals.settlement_nj) / 1e9, " J"));
    // What was charged against what was drawn: within 3 % of the truth over a long run.
    EXPECT_NEAR(static_cast<double>(Requests(s.totals)) / s.true_requests_nj, 1.0, 0.03);
    EXPECT_NEAR(s.charged_request_nj / s.true_request_nj, 1.0, 0.03);
    EXPECT_NEAR(static_cast<double>(s.totals.idle_nj) / s.true_idle_nj, 1.0, 0.05);
    EXPECT_LT(static_cast<double>(s.totals.overhead_nj), 0.05 * meter_nj);
    // The documented bound: gain (20 intervals) times the range of power, plus the counter's lag.
    EXPECT_LE(s.worst_settlement_nj, static_cast<double>(interval_ns) * (20 + 10) * 440);
  }
}

// At once; RAPL; NVML.
INSTANTIATE_TEST_SUITE_P(Intervals, EnergyLedgerSimulationTest,
                         ::testing::Values(0, 1 * kMs, 100 * kMs),
                         [](const auto& info) { return absl::StrCat(info.param / kMs, "ms"); });

TEST(EnergyLedgerTest, ImmediateMeterHasNoSettlementAtAll) {
  const Simulation s = Simulate(0, 9, 50);
  EXPECT_EQ(s.worst_settlement_nj, 0);
  EXPECT_NEAR(static_cast<double>(Requests(s.totals)), s.true_requests_nj, 0.51 * 50 * 400);
}

TEST(EnergyLedgerTest, SlowMeterFollowsAChangeOfPower) {
  FakeClock clock;
  FakeMeter meter(&clock, 100 * kMs);
  EnergyLedger ledger(&meter, &clock, kCosts);
  for (int i = 0; i < 2000; ++i) Step(ledger, meter, i == 0, 5 * kMs, 100, {Decode(1)});
  for (int i = 0; i < 2000; ++i) Step(ledger, meter, false, 5 * kMs, 300, {Decode(1)});
  const int64_t before = Requests(ledger.totals());
  for (int i = 0; i < 1000; ++i) Step(ledger, meter, false, 5 * kMs, 300, {Decode(1)});
  EXPECT_NEAR(static_cast<double>(Requests(ledger.totals()) - before), 5000.0 * kMs * 300,
              0.01 * 5000.0 * kMs * 300);
  // What was not charged while the estimate caught up: at most 20 intervals of the difference.
  EXPECT_NEAR(static_cast<double>(ledger.totals().settlement_nj), 2000.0 * kMs * 200,
              0.15 * 2000.0 * kMs * 200);
}

TEST(EnergyLedgerTest, ACounterThatStopsIsNotChargedForLong) {
  FakeClock clock;
  FakeMeter meter(&clock, 100 * kMs);
  EnergyLedger ledger(&meter, &clock, kCosts);
  for (int i = 0; i < 1000; ++i) Step(ledger, meter, i == 0, 5 * kMs, 100, {Decode(1)});
  const int64_t before = Requests(ledger.totals());
  for (int i = 0; i < 100'000; ++i) Step(ledger, meter, false, 5 * kMs, 0, {Decode(1)});
  EXPECT_LT(Requests(ledger.totals()) - before, 4000 * kMs * 100);
  ExpectBalanced(ledger.totals());
}

}  // namespace
}  // namespace sterna
