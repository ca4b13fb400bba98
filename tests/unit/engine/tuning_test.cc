#include "engine/tuning.h"

#include "gtest/gtest.h"
#include "tests/testing/tiny_model.h"

namespace sterna {
namespace {

TEST(TuningTest, AShortlistOnlyWhereTheDeviceReadsIt) {
  const auto scalar = CreateCpuOps({.num_threads = 1, .isa = "scalar"});
  const auto best = CreateCpuOps({.num_threads = 1});
  ASSERT_TRUE(scalar.ok() && best.ok());
  const auto use_of = [](const StatusOr<HeadOptions>& head) { return head->shortlist; };
  const HeadOptions automatic = {.shortlist = ShortlistUse::kAuto};
  EXPECT_EQ(use_of(HeadFor(automatic, **scalar)), ShortlistUse::kOff);
  EXPECT_EQ(use_of(HeadFor({.type = HeadType::kInt8, .shortlist = ShortlistUse::kAuto}, **best)),
            ShortlistUse::kOff);
  EXPECT_EQ(use_of(HeadFor({}, **best)), ShortlistUse::kOff);
  EXPECT_EQ(HeadFor({.shortlist = ShortlistUse::kOn}, **scalar).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      HeadFor({.type = HeadType::kInt8, .shortlist = ShortlistUse::kOn}, **best).status().code(),
      absl::StatusCode::kInvalidArgument);
  if ((*best)->max_shortlist_rows() > 0) {
    EXPECT_EQ(use_of(HeadFor(automatic, **best)), ShortlistUse::kAuto);
  }
}

TEST(TuningTest, PromptTokensAreWhatTheTimeAllowsWithinBounds) {
  EXPECT_EQ(ChoosePromptTokens(/*tokens_per_second=*/1000, /*seconds=*/0.25), 192);
  EXPECT_EQ(ChoosePromptTokens(1000, 0.5), 448);
  EXPECT_EQ(ChoosePromptTokens(20, 0.25), 64) << "a prompt always gets on";
  EXPECT_EQ(ChoosePromptTokens(1e12, 0.25), 512);
}

TEST(TuningTest, MeasuresThePromptRateOfAModelOfAnyDepth) {
  const auto ops = CreateCpuOps({.num_threads = 2});
  ASSERT_TRUE(ops.ok());
  for (const int64_t layers : {1, 5}) {
    ModelConfig config = testing::TinyConfig();
    config.num_layers = layers;
    config.max_positions = 40;  // less than the probe
    const ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/false);
    const auto rate = MeasurePromptRate(config, weights, ops->get());
    ASSERT_TRUE(rate.ok()) << rate.status();
    EXPECT_GT(*rate, 1.0);
    EXPECT_LT(*rate, 1e9);
    TuneOps(weights, ops->get());
  }
}

}  // namespace
}  // namespace sterna
