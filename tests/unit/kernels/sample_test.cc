// Sample of the reference and of every CPU level: the rules of kernels/sampling.h.
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using testing::Random;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<std::string> Devices() {
  std::vector<std::string> names = CpuIsaLevels();
  names.push_back("reference");
  return names;
}

class Sample : public ::testing::TestWithParam<std::string> {
 protected:
  Sample()
      : ops_(GetParam() == "reference" ? CreateReferenceOps<float>()
                                       : testing::CpuOps(GetParam(), 2)) {}

  SampleResult Run(const std::vector<float>& logits, const SampleParams& params) {
    SampleResult result;
    ops_->Sample({.logits = testing::ConstView(logits, 1),
                  .params = std::span(&params, 1),
                  .results = std::span(&result, 1)});
    return result;
  }

  // How often each token is drawn at positions 0 .. draws-1.
  std::vector<int> Counts(const std::vector<float>& logits, SampleParams params, int draws) {
    std::vector<int> counts(logits.size());
    for (int i = 0; i < draws; ++i) {
      params.position = i;
      ++counts[Run(logits, params).token];
    }
    return counts;
  }

  // Chi-square of `counts` against `probabilities`; tokens of probability 0 must not occur.
  static void ExpectDistribution(const std::vector<int>& counts,
                                 const std::vector<double>& probabilities) {
    int draws = 0;
    for (int count : counts) draws += count;
    double chi_square = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      const double expected = probabilities[i] * draws;
      if (expected == 0) {
        EXPECT_EQ(counts[i], 0) << "token " << i;
      } else {
        chi_square += std::pow(counts[i] - expected, 2) / expected;
      }
    }
    EXPECT_LT(chi_square, 29.9);  // at most 7 degrees of freedom, one in 10,000
  }

  static std::vector<double> Softmax(const std::vector<float>& logits, double temperature,
                                     const std::vector<bool>& keep) {
    std::vector<double> p(logits.size(), 0.0);
    double total = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      if (keep[i]) total += p[i] = std::exp(logits[i] / temperature);
    }
    for (double& value : p) value /= total;
    return p;
  }

  std::unique_ptr<Ops<float>> ops_;
};

INSTANTIATE_TEST_SUITE_P(Devices, Sample, ::testing::ValuesIn(Devices()),
                         [](const auto& info) { return info.param; });

// Probabilities at temperature 1: .4 .3 .1 .08 .06 .04 .015 .005, in mixed order of id.
const std::vector<float> kLogits = {std::log(0.06f), std::log(0.4f),   std::log(0.005f),
                                    std::log(0.3f),  std::log(0.015f), std::log(0.1f),
                                    std::log(0.04f), std::log(0.08f)};
const std::vector<bool> kAll(8, true);

TEST_P(Sample, TemperatureShapesTheDistribution) {
  ExpectDistribution(Counts(kLogits, {.seed = 11}, 20000), Softmax(kLogits, 1.0, kAll));
  ExpectDistribution(Counts(kLogits, {.temperature = 0.5f, .seed = 12}, 20000),
                     Softmax(kLogits, 0.5, kAll));
  ExpectDistribution(Counts(kLogits, {.temperature = 2.0f, .seed = 13}, 20000),
                     Softmax(kLogits, 2.0, kAll));
}

TEST_P(Sample, FiltersKeepTheRightTokens) {
  const std::vector<bool> two = {false, true, false, true, false, false, false, false};
  const std::vector<bool> four = {false, true, false, true, false, true, false, true};
  ExpectDistribution(Counts(kLogits, {.top_k = 4, .seed = 1}, 20000), Softmax(kLogits, 1, four));
  // .4 + .3 reaches .65 but not .75; .88 needs four tokens.
  ExpectDistribution(Counts(kLogits, {.top_p = 0.65f, .seed = 2}, 20000), Softmax(kLogits, 1, two));
  ExpectDistribution(Counts(kLogits, {.top_p = 0.87f, .seed = 3}, 20000),
                     Softmax(kLogits, 1, four));
  // A fifth of the largest is .08, which rounding may put on either side; .19 of it is below.
  ExpectDistribution(Counts(kLogits, {.min_p = 0.19f, .seed = 4}, 20000),
                     Softmax(kLogits, 1, four));
  // Of the four that top_k leaves (sum .88), .7 is more than top_p's .75 * .88 = .66.
  ExpectDistribution(Counts(kLogits, {.top_k = 4, .top_p = 0.75f, .seed = 5}, 20000),
                     Softmax(kLogits, 1, two));
  // min_p comes first: it leaves .88, of which .7 is enough again.
  ExpectDistribution(Counts(kLogits, {.top_p = 0.75f, .min_p = 0.19f, .seed = 6}, 20000),
                     Softmax(kLogits, 1, two));
  // Filters act on the tempered distribution: at 0.5, .16/.2743 + .09/.2743 is over .9.
  ExpectDistribution(Counts(kLogits, {.temperature = 0.5f, .top_p = 0.9f, .seed = 7}, 20000),
                     Softmax(kLogits, 0.5, two));
}

TEST_P(Sample, FiltersAtTheirEnds) {
  EXPECT_EQ(Run(kLogits, {.top_k = 1}).token, 1);
  EXPECT_EQ(Run(kLogits, {.top_p = 0.0f}).token, 1);
  EXPECT_EQ(Run(kLogits, {.min_p = 1.0f}).token, 1);
  EXPECT_EQ(Run(kLogits, {.temperature = 1e-6f}).token, 1);
  for (uint64_t position = 0; position < 50; ++position) {
    EXPECT_EQ(Run(kLogits, {.seed = 9, .position = position}).token,
              Run(kLogits, {.top_k = 1000, .seed = 9, .position = position}).token);
  }
  // top_k among equals keeps the lower ids.
  const std::vector<float> equal(100, 1.0f);
  for (uint64_t position = 0; position < 50; ++position) {
    EXPECT_LT(Run(equal, {.top_k = 3, .position = position}).token, 3);
  }
}

TEST_P(Sample, GreedyTakesTheLargestAndTheLowestIdAmongEquals) {
  EXPECT_EQ(Run({1, 5, 2, 5, 5}, {.temperature = 0}).token, 1);
  std::vector<float> many(3000, -1.0f);
  many[2999] = 3.0f;
  EXPECT_EQ(Run(many, {.temperature = 0}).token, 2999);
  many[1234] = 3.0f;
  EXPECT_EQ(Run(many, {.temperature = 0}).token, 1234);
  EXPECT_EQ(Run({-0.0f, 0.0f}, {.temperature = 0}).token, 0);
}

TEST_P(Sample, BiasAndPenaltiesInTheirDocumentedOrder) {
  const std::vector<float> logits = {2.0f, 1.5f, -1.0f, -1.2f};
  const SampleParams greedy = {.temperature = 0};
  SampleParams p = greedy;
  const std::vector<std::pair<int32_t, float>> bias = {{3, 100.0f}};
  p.logit_bias = bias;
  EXPECT_EQ(Run(logits, p).token, 3);
  const std::vector<std::pair<int32_t, float>> ban = {{0, -100.0f}, {1, -100.0f}};
  p.logit_bias = ban;
  EXPECT_EQ(Run(logits, p).token, 2);

  const std::vector<TokenCount> prompt_only = {{0, 0}};
  p = greedy;
  p.token_counts = prompt_only;
  p.repetition_penalty = 1.4f;  // 2 / 1.4 < 1.5
  EXPECT_EQ(Run(logits, p).token, 1);
  p.repetition_penalty = 1.3f;
  EXPECT_EQ(Run(logits, p).token, 0);
  p.repetition_penalty = 1.0f;
  p.presence_penalty = 2.0f;  // a token of the prompt alone has no presence in the output
  EXPECT_EQ(Run(logits, p).token, 0);

  const std::vector<TokenCount> negatives = {{0, 0}, {1, 0}, {2, 0}};
  p = greedy;
  p.logit_bias = ban;
  p.token_counts = negatives;
  p.repetition_penalty = 1.3f;  // -1 * 1.3 < -1.2
  EXPECT_EQ(Run(logits, p).token, 3);

  const std::vector<TokenCount> output = {{0, 3}};
  p = greedy;
  p.token_counts = output;
  p.frequency_penalty = 0.15f;  // 2 - 0.45
  EXPECT_EQ(Run(logits, p).token, 0);
  p.frequency_penalty = 0.2f;  // 2 - 0.6
  EXPECT_EQ(Run(logits, p).token, 1);
  p.frequency_penalty = 0.15f;
  p.presence_penalty = 0.1f;  // 2 - 0.45 - 0.1
  EXPECT_EQ(Run(logits, p).token, 1);
  // Bias before repetition: (2 + 2) / 2.5 = 1.6, while 2 / 2.5 + 2 would be 2.8.
  const std::vector<std::pair<int32_t, float>> two = {{0, 2.0f}, {1, 0.2f}};
  p = greedy;
  p.logit_bias = two;
  p.token_counts = prompt_only;
  p.repetition_penalty = 2.5f;
  EXPECT_EQ(Run(logits, p).token, 1);
}

TEST_P(Sample, LogprobsAreTheModelsOwn) {
  const std::vector<std::pair<int32_t, float>> bias = {{6, 100.0f}};
  SampleParams p = {.temperature = 0.3f, .num_logprobs = 3};
  p.logit_bias = bias;
  const SampleResult result = Run(kLogits, p);
  EXPECT_EQ(result.token, 6);
  EXPECT_NEAR(result.logprob, std::log(0.04), 1e-6);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].token, 1);
  EXPECT_EQ(result.top[1].token, 3);
  EXPECT_EQ(result.top[2].token, 5);
  EXPECT_NEAR(result.top[2].logprob, std::log(0.1), 1e-6);

  EXPECT_TRUE(Run(kLogits, {.num_logprobs = 0}).top.empty());
  const SampleResult all = Run(kLogits, {.num_logprobs = 20});
  ASSERT_EQ(all.top.size(), 8u);
  double total = 0;
  for (const TokenLogprob& top : all.top) total += std::exp(top.logprob);
  EXPECT_NEAR(total, 1.0, 1e-6);
  const SampleResult ties = Run({1, 2, 1, 2}, {.temperature = 0, .num_logprobs = 4});
  std::vector<int32_t> order;
  for (const TokenLogprob& top : ties.top) order.push_back(top.token);
  EXPECT_THAT(order, ElementsAre(1, 3, 0, 2));
}

TEST_P(Sample, ATargetIsTheTokenWhateverTheRestSays) {
  const std::vector<std::pair<int32_t, float>> bias = {{6, 100.0f}, {0, -100.0f}};
  SampleParams p = {.top_k = 1, .num_logprobs = 1, .target = 0};
  for (const float temperature : {0.0f, 1.0f}) {
    p.temperature = temperature;
    for (const bool biased : {false, true}) {
      if (biased) p.logit_bias = bias;
      for (const auto& [target, probability] : {std::pair(0, 0.06), {1, 0.4}, {5, 0.1}}) {
        p.target = target;
        const SampleResult result = Run(kLogits, p);
        EXPECT_EQ(result.token, target);
        EXPECT_NEAR(result.logprob, std::log(probability), 1e-6);
        ASSERT_EQ(result.top.size(), 1u);
        EXPECT_EQ(result.top[0].token, 1);
        EXPECT_NEAR(result.top[0].logprob, std::log(0.4), 1e-6);
      }
    }
  }
  EXPECT_EQ(Run({1.0f, -kInf}, {.num_logprobs = 0, .target = 1}).logprob, -kInf);
}

TEST_P(Sample, NanAndInfinityNeverWinNorCrash) {
  std::vector<float> logits(40, kNan);
  logits[33] = -5.0f;
  logits[34] = -kInf;
  for (const SampleParams& p :
       {SampleParams{.temperature = 0, .num_logprobs = 2}, SampleParams{.num_logprobs = 2},
        SampleParams{.top_k = 3, .num_logprobs = 2}, SampleParams{.top_p = 0.5f, .num_logprobs = 2},
        SampleParams{.min_p = 0.1f, .num_logprobs = 2}}) {
    const SampleResult result = Run(logits, p);
    EXPECT_EQ(result.token, 33);
    EXPECT_EQ(result.logprob, 0.0f);
    EXPECT_EQ(result.top[0].token, 33);
    for (const std::vector<float>& row :
         {std::vector<float>(17, kNan), std::vector<float>(17, -kInf),
          std::vector<float>(17, kInf)}) {
      const SampleResult any = Run(row, p);
      EXPECT_GE(any.token, 0);
      EXPECT_LT(any.token, 17);
      EXPECT_FALSE(std::isnan(any.logprob));
    }
    std::vector<float> one(17, 1.0f);
    one[5] = kInf;
    EXPECT_EQ(Run(one, p).token, 5);
  }
}

TEST_P(Sample, TheSeedAndPositionDecide) {
  const std::vector<float> flat(1000, 0.0f);
  const SampleParams p = {.seed = 5, .position = 6};
  EXPECT_EQ(Run(flat, p).token, Run(flat, p).token);
  EXPECT_NE(Run(flat, p).token, Run(flat, {.seed = 6, .position = 6}).token);
  EXPECT_NE(Run(flat, p).token, Run(flat, {.seed = 5, .position = 7}).token);
}

// All rules together, over many shapes of distribution and vocabularies of several chunks: the
// shortcuts draw the token that the full sort draws.
TEST_P(Sample, EqualsTheDoubleReference) {
  auto reference = CreateReferenceOps<double>();
  Random random(77);
  auto uniform = [&](float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random);
  };
  auto one_in = [&](int n) { return std::uniform_int_distribution<int>(1, n)(random) == 1; };
  for (int i = 0; i < 400; ++i) {
    const int64_t vocabulary = std::uniform_int_distribution<int64_t>(1, 5000)(random);
    const std::vector<float> logits =
        testing::RandomFloats(random, vocabulary, uniform(0.1f, 4.0f));
    std::vector<std::pair<int32_t, float>> bias;
    std::vector<TokenCount> counts;
    SampleParams p;
    p.temperature = one_in(5) ? 0.0f : uniform(0.2f, 2.0f);
    if (one_in(2)) p.top_k = std::uniform_int_distribution<int32_t>(1, 200)(random);
    if (one_in(2)) p.top_p = uniform(0.05f, 0.999f);
    if (one_in(3)) p.min_p = uniform(0.001f, 0.3f);
    if (one_in(3)) {
      for (int32_t t = 0; t < vocabulary; t += 7) counts.push_back({t, t % 3});
      p.token_counts = counts;
      p.repetition_penalty = uniform(0.8f, 1.5f);
      p.presence_penalty = uniform(-0.5f, 1.0f);
      p.frequency_penalty = uniform(-0.2f, 0.5f);
    }
    if (one_in(3)) {
      for (int32_t t = 0; t < vocabulary; t += 11) bias.push_back({t, uniform(-2, 2)});
      p.logit_bias = bias;
    }
    p.seed = i;
    p.position = i * 3;
    p.num_logprobs = one_in(2) ? 5 : -1;
    if (one_in(5)) {
      p.target =
          std::uniform_int_distribution<int32_t>(0, static_cast<int32_t>(vocabulary) - 1)(random);
    }
    const std::vector<double> logits64 = testing::ToDouble(logits);
    SampleResult expected;
    reference->Sample({.logits = testing::ConstView(logits64, 1),
                       .params = std::span(&p, 1),
                       .results = std::span(&expected, 1)});
    const SampleResult actual = Run(logits, p);
    ASSERT_EQ(actual.token, expected.token) << "case " << i;
    EXPECT_NEAR(actual.logprob, expected.logprob, 2e-5);
    ASSERT_EQ(actual.top.size(), expected.top.size());
    for (size_t n = 0; n < actual.top.size(); ++n) {
      EXPECT_EQ(actual.top[n].token, expected.top[n].token);
      EXPECT_NEAR(actual.top[n].logprob, expected.top[n].logprob, 2e-5);
    }
  }
}

}  // namespace
}  // namespace sterna
