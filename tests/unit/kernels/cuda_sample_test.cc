// The CUDA backend's sampling on emulated threads (tests/testing/cuda_emulation.h), against the
// reference in double precision.
#include "tests/unit/kernels/cuda_sample_testing.h"
// First: it stands for headers that others include.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_math.cuh"
#include "kernels/philox.h"

namespace sterna {
namespace {

using testing::Case;
using testing::Device;
using testing::ExpectReference;
using testing::ExpectSame;
using testing::ExpectSameBits;
using testing::kInf;
using testing::RandomCases;
using testing::Reference;
using testing::SampleOnDevice;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class CudaSampleVocabulary : public ::testing::TestWithParam<int32_t> {};

INSTANTIATE_TEST_SUITE_P(CudaSample, CudaSampleVocabulary, ::testing::Values(1, 7, 1000, 5000),
                         ::testing::PrintToStringParamName());

TEST_P(CudaSampleVocabulary, EqualsTheReferenceWhateverIsAsked) {
  RandomCases random(static_cast<uint64_t>(GetParam()));
  for (uint64_t order = 0; order < 4; ++order) {
    testing::SetCudaThreadOrder(order);
    std::vector<Case> rows;
    for (int r = 0; r < 10; ++r) rows.push_back(random.Next(GetParam()));
    ExpectReference(rows);
    if (HasFatalFailure()) return;
  }
}

// Several times the tokens of a block's threads and of their batches.
TEST(CudaSample, EqualsTheReferenceWithALargeVocabulary) {
  RandomCases random(2);
  for (uint64_t order = 0; order < 4; ++order) {
    testing::SetCudaThreadOrder(order);
    std::vector<Case> rows;
    for (int r = 0; r < 3; ++r) rows.push_back(random.Next(40000 + static_cast<int32_t>(order)));
    ExpectReference(rows);
    if (HasFatalFailure()) return;
  }
}

// The largest sums that there may be: every token as likely as any, so that the draw is known.
TEST(CudaSample, SumsDoNotOverflowInTheLargestVocabulary) {
  testing::SetCudaThreadOrder(0);
  const SampleParams kinds[] = {{.seed = 3}, {.top_p = 0.75f, .seed = 4}};
  for (const SampleParams& params : kinds) {
    const Case flat = {.logits = std::vector<float>(cuda::kMostVocabulary, 1.0f), .params = params};
    const double kept = params.top_p * cuda::kMostVocabulary;
    EXPECT_EQ(SampleOnDevice(flat).token,
              static_cast<int32_t>(PhiloxUniform(params.seed, 0) * kept));
  }
}

TEST(CudaSample, WeightsAreExponentialsInSteps) {
  EXPECT_EQ(cuda::WeightOf(3.0f, 3.0f, 1e9), cuda::kWeightOne);
  EXPECT_EQ(cuda::WeightOf(-kInf, -kInf, 1.0), cuda::kWeightOne);
  EXPECT_EQ(cuda::WeightOf(1.0f, kInf, 1.0), 0u);
  EXPECT_EQ(cuda::WeightOf(-kInf, 1.0f, 1.0), 0u);
  RandomCases random(10);
  for (int i = 0; i < 10000; ++i) {
    const float depth = random.Float(0.0f, 35.0f);
    const double exact = std::exp(-static_cast<double>(depth)) * cuda::kWeightOne;
    const auto weight = static_cast<double>(cuda::WeightOf(-depth, 0.0f, cuda::kLog2E));
    ASSERT_NEAR(weight, exact, 0.6) << depth;
    ASSERT_NEAR(cuda::Exp2(-20.0 * depth), std::exp2(-20.0 * depth),
                1e-13 * std::exp2(-20.0 * depth));
  }
}

// Logits of few values, exact penalties: every cut is among equals.
TEST(CudaSample, AmongEqualsLowerIdsComeFirst) {
  RandomCases random(3);
  for (uint64_t order = 0; order < 14; ++order) {
    testing::SetCudaThreadOrder(order);
    std::vector<Case> rows;
    for (int r = 0; r < 8; ++r) {
      Case c = random.Next(order % 2 == 0 ? 1500 : 40);
      for (float& logit : c.logits) logit = std::round(logit);
      for (auto& [token, bias] : c.bias) bias = std::round(bias);
      c.params.repetition_penalty = 2.0f;
      c.params.presence_penalty = 0.5f;
      c.params.frequency_penalty = 0.25f;
      rows.push_back(c);
    }
    ExpectReference(rows);
    if (HasFatalFailure()) return;
  }
  Case signs = {.logits = {-0.0f, 0.0f}, .params = {.temperature = 0, .num_logprobs = 2}};
  EXPECT_EQ(SampleOnDevice(signs).token, 0);
  EXPECT_EQ(SampleOnDevice(signs).top[0].token, 0);
}

TEST(CudaSample, FiltersAtTheirEnds) {
  RandomCases random(4);
  for (const int32_t vocabulary : {7, 1000}) {
    testing::SetCudaThreadOrder(static_cast<uint64_t>(vocabulary));
    const std::vector<SampleParams> ends = {
        {.top_k = 1},           {.top_k = vocabulary - 1},
        {.top_k = vocabulary},  {.top_k = 1 << 30},
        {.top_p = 0.0f},        {.top_p = 1e-30f},
        {.top_p = 0.99999994f}, {.top_p = 1.0f},
        {.min_p = 1.0f},        {.min_p = 1e-30f},
        {.temperature = 1e-6f}, {.temperature = 1e-42f, .top_p = 0.5f},
        {.temperature = 1e6f},  {.top_k = 5, .top_p = 0.0f, .min_p = 1.0f}};
    std::vector<Case> rows;
    for (const SampleParams& params : ends) {
      for (uint64_t position = 0; position < 3; ++position) {
        rows.push_back({.logits = random.Logits(vocabulary, 2.0f), .params = params});
        rows.back().params.position = position;
      }
    }
    ExpectReference(rows);
    if (HasFatalFailure()) return;
  }
}

// Logits that fall with the id, and a number near 1: the token is the last of those that are kept.
TEST(CudaSample, CutsEndAtTheVeryToken) {
  SampleParams last = {.seed = 1};
  for (uint64_t position = 0; position < 300000; ++position) {
    if (PhiloxUniform(last.seed, position) > PhiloxUniform(last.seed, last.position)) {
      last.position = position;
    }
  }
  const SampleParams kinds[] = {{.top_k = 1},
                                {.top_k = 1234},
                                {.top_k = 2998},
                                {.top_k = 2999},
                                {.top_k = 3000},
                                {.top_p = 0.01f},
                                {.top_p = 0.5f},
                                {.top_p = 0.9f},
                                {.top_p = 0.999f},
                                {.min_p = 0.5f},
                                {.top_k = 1000, .min_p = 0.5f},
                                {.top_k = 500, .min_p = 0.5f},
                                {.top_p = 0.75f, .min_p = 0.25f},
                                {.top_k = 1000, .top_p = 0.75f},
                                {.temperature = 2.0f, .top_k = 2000, .top_p = 0.9f, .min_p = 0.5f}};
  for (const int32_t plateau : {1, 7, 400}) {
    testing::SetCudaThreadOrder(static_cast<uint64_t>(plateau));
    std::vector<Case> rows;
    for (const SampleParams& kind : kinds) {
      rows.push_back({.logits = {}, .params = kind});
      rows.back().params.seed = last.seed;
      rows.back().params.position = last.position;
      for (int32_t t = 0; t < 3000; ++t) {
        rows.back().logits.push_back(1.0f - 0.001f * static_cast<float>(t / plateau * plateau));
      }
    }
    ExpectReference(rows);
    if (HasFatalFailure()) return;
  }
}

TEST(CudaSample, DrawsAtTheEndsOfTokens) {
  struct {
    std::vector<float> logits;
    uint64_t uniform;
    int32_t token;
  } kinds[] = {{{-100, 0, 0, -100}, 0, 1},
               {{-100, 0, 0, -100}, (uint64_t{1} << 63) - (1 << 11), 1},
               {{-100, 0, 0, -100}, uint64_t{1} << 63, 2},
               {{-100, 0, 0, -100}, ~uint64_t{0}, 2}};
  for (const auto& kind : kinds) {
    for (const SampleParams& params : {SampleParams{}, {.top_k = 3}, {.top_p = 0.9f}}) {
      Case c = {.logits = kind.logits, .params = params};
      c.uniform = kind.uniform;
      EXPECT_EQ(SampleOnDevice(c).token, kind.token) << kind.uniform;
    }
  }
}

// More tokens within a bucket than fit into the list of a block.
TEST(CudaSample, CutsWithinBucketsOfAnySize) {
  RandomCases random(5);
  testing::SetCudaThreadOrder(5);
  std::vector<Case> rows;
  for (const float deviation : {0.0f, 0.001f, 1.0f}) {
    for (const SampleParams& params :
         {SampleParams{.temperature = 100.0f, .top_k = 2500},
          {.temperature = 100.0f, .top_p = 0.7f},
          {.temperature = 100.0f, .top_k = 4000, .top_p = 0.5f, .min_p = 0.97f}}) {
      rows.push_back({.logits = random.Logits(6000, deviation), .params = params});
      rows.back().params.seed = rows.size();
    }
  }
  ExpectReference(rows);
}

TEST(CudaSample, NanAndInfinity) {
  std::vector<std::vector<float>> kinds;
  kinds.push_back(std::vector<float>(400, kNan));
  kinds.back()[333] = -5.0f;
  kinds.back()[334] = -kInf;
  for (const float all : {kNan, kInf, -kInf}) kinds.push_back(std::vector<float>(17, all));
  kinds.push_back(std::vector<float>(17, 1.0f));
  kinds.back()[5] = kInf;
  kinds.back()[6] = kNan;
  kinds.push_back(kinds.back());
  kinds.back()[9] = kInf;
  kinds.push_back({-std::numeric_limits<float>::max(), std::numeric_limits<float>::max(), 0.0f});
  uint64_t order = 0;
  for (const std::vector<float>& logits : kinds) {
    testing::SetCudaThreadOrder(order++);
    std::vector<Case> rows;
    for (const SampleParams& params : {SampleParams{.temperature = 0},
                                       {},
                                       {.top_k = 3},
                                       {.top_p = 0.5f},
                                       {.min_p = 0.1f},
                                       {.top_k = 2, .top_p = 0.5f, .min_p = 0.1f}}) {
      for (const int32_t num_logprobs : {-1, 0, 2}) {
        rows.push_back({.logits = logits, .params = params});
        rows.back().params.position = rows.size();
        rows.back().params.num_logprobs = num_logprobs;
      }
    }
    ExpectReference(rows);
    if (HasFatalFailure()) return;
  }
}

TEST(CudaSample, AMaskThatLeavesOneTokenDecides) {
  RandomCases random(6);
  testing::SetCudaThreadOrder(6);
  std::vector<Case> rows;
  for (const int32_t token : {0, 1, 31, 32, 500, 998, 999}) {
    for (int i = 0; i < 2; ++i) {
      rows.push_back(random.Next(999 + 1));
      rows.back().params.target = -1;  // would be the token whatever is allowed
      rows.back().allowed.assign(1000, false);
      rows.back().allowed[static_cast<size_t>(token)] = true;
    }
  }
  const std::vector<SampleResult> results = SampleOnDevice(rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    EXPECT_TRUE(rows[r].allowed[static_cast<size_t>(results[r].token)]);
  }
  ExpectReference(rows);
}

// A row's bits are its own: alone, among others, with kernels that others want, in any order.
TEST(CudaSample, ARowDependsOnItselfAlone) {
  RandomCases random(7);
  std::vector<Case> rows;
  for (int r = 0; r < 10; ++r) rows.push_back(random.Next(3000));
  for (Case& row : rows) row.allowed.clear();
  testing::SetCudaThreadOrder(0);
  const std::vector<SampleResult> together = SampleOnDevice(rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    testing::SetCudaThreadOrder(100 + r);
    ExpectSameBits(SampleOnDevice(rows[r]), together[r]);
    const cuda::SampleWork everything = {true, true, true, true, true};
    ExpectSameBits(SampleOnDevice({rows[r], rows[r]}, everything)[1], together[r]);
    if (HasFatalFailure()) return;
  }
}

// Chi-square of draws at positions 0 .. draws-1, all in one launch; tokens of probability 0 must
// not occur.
void ExpectDistribution(const std::vector<float>& logits, const SampleParams& params, int draws,
                        const std::vector<double>& weights) {
  std::vector<Case> rows(static_cast<size_t>(draws), {.logits = logits, .params = params});
  for (size_t r = 0; r < rows.size(); ++r) rows[r].params.position = r;
  std::vector<int> counts(logits.size());
  for (const SampleResult& result : SampleOnDevice(rows))
    ++counts[static_cast<size_t>(result.token)];
  double total = 0;
  for (const double weight : weights) total += weight;
  double chi_square = 0;
  for (size_t t = 0; t < counts.size(); ++t) {
    const double expected = weights[t] / total * draws;
    if (expected == 0) {
      EXPECT_EQ(counts[t], 0) << "token " << t;
    } else {
      chi_square += std::pow(counts[t] - expected, 2) / expected;
    }
  }
  EXPECT_LT(chi_square, 29.9);  // at most 7 degrees of freedom, one in 10,000
}

// Probabilities at temperature 1, in mixed order of id.
const std::vector<double> kProbabilities = {0.06, 0.4, 0.005, 0.3, 0.015, 0.1, 0.04, 0.08};

std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(CudaSample, DrawsFollowTheDistribution) {
  testing::SetCudaThreadOrder(0);
  const std::vector<float> logits = LogitsOf(kProbabilities);
  ExpectDistribution(logits, {.seed = 1}, 2000, kProbabilities);
  std::vector<double> sharp;
  for (const double p : kProbabilities) sharp.push_back(p * p);
  ExpectDistribution(logits, {.temperature = 0.5f, .seed = 2}, 500, sharp);
}

TEST(CudaSample, FilteredDrawsFollowTheDistribution) {
  testing::SetCudaThreadOrder(0);
  const std::vector<float> logits = LogitsOf(kProbabilities);
  const std::vector<double> four = {0, 0.4, 0, 0.3, 0, 0.1, 0, 0.08};
  ExpectDistribution(logits, {.min_p = 0.19f, .seed = 3}, 200, four);
  ExpectDistribution(logits, {.top_k = 4, .seed = 4}, 120, four);
  ExpectDistribution(logits, {.top_p = 0.87f, .seed = 5}, 120, four);
}

// Logprobs are of the logits before bias and penalties, for tokens in either list, both or none.
TEST(CudaSample, LogprobsAreTheModelsOwn) {
  testing::SetCudaThreadOrder(8);
  const std::vector<float> logits = {2.0f, 1.0f, 0.0f, -1.0f, 0.5f};
  double total = 0;
  for (const float logit : logits) total += std::exp(logit);
  std::vector<Case> rows;
  for (int32_t token = 0; token < 5; ++token) {
    Case c = {.logits = logits, .params = {.temperature = 0, .num_logprobs = 1}};
    if (token != 4) c.bias = {{token, 50.0f}};
    c.counts = {{0, 1}, {1, 0}, {3, 2}};
    if (token == 4) c.bias = {{0, -50.0f}, {1, -50.0f}};
    c.params.repetition_penalty = 1.25f;
    c.params.presence_penalty = 1.0f;
    rows.push_back(c);
  }
  const std::vector<SampleResult> results = SampleOnDevice(rows);
  for (size_t r = 0; r < 5; ++r) {
    EXPECT_EQ(results[r].token, static_cast<int32_t>(r));
    EXPECT_NEAR(results[r].logprob, logits[r] - std::log(total), 1e-6);
    EXPECT_EQ(results[r].top[0].token, 0);
    EXPECT_NEAR(results[r].top[0].logprob, 2.0 - std::log(total), 1e-6);
  }
}

TEST(CudaSample, StagesWhatIsAskedAndNoMore) {
  const std::vector<TokenCount> counts = {{3, 1}, {4, 0}};
  const std::vector<std::pair<int32_t, float>> bias = {{2, 1.5f}};
  std::vector<SampleParams> params(3);
  params[0] = {.temperature = 0, .token_counts = counts};  // no penalty is on
  std::vector<uint8_t> staged(cuda::SampleStagingBytes(std::span(params).first(1)));
  EXPECT_EQ(staged.size(), sizeof(cuda::SampleRow));
  EXPECT_EQ(cuda::StageSampleParams(std::span(params).first(1), 10, staged), cuda::SampleWork());
  params[0].top_k = 5;  // of no account without a temperature
  EXPECT_EQ(cuda::StageSampleParams(std::span(params).first(1), 10, staged), cuda::SampleWork());

  params[1] = {.top_p = 0.5f, .presence_penalty = 1.0f, .logit_bias = bias, .token_counts = counts};
  params[2] = {.num_logprobs = 0};
  staged.resize(cuda::SampleStagingBytes(params));
  EXPECT_EQ(staged.size(), 3 * sizeof(cuda::SampleRow) + 3 * sizeof(cuda::SampleEntry));
  EXPECT_EQ(cuda::StageSampleParams(params, 10, staged),
            (cuda::SampleWork{true, true, true, true, true}));
  cuda::SampleRow row;
  std::memcpy(&row, &staged[sizeof(row)], sizeof(row));
  EXPECT_EQ(row.bias_entries, 1u);
  EXPECT_EQ(row.counts_entries, 2u);
  EXPECT_EQ(row.counts_offset_bytes, row.bias_offset_bytes + sizeof(cuda::SampleEntry));
  cuda::SampleEntry entry;
  std::memcpy(&entry, &staged[row.bias_offset_bytes], sizeof(entry));
  EXPECT_EQ(entry.token, 2);
  EXPECT_EQ(std::bit_cast<float>(entry.value), 1.5f);
}

// One captured launch serves steps whose rows ask for different things.
TEST(CudaSample, AGraphServesEveryStepOfItsShape) {
  testing::SetCudaThreadOrder(9);
  RandomCases random(9);
  const int32_t vocabulary = 600;
  const cuda::SampleWork work = {.draws = true, .cuts = true};
  Device logits(2 * vocabulary * sizeof(float));
  Device staging(2 * sizeof(cuda::SampleRow));
  Device workspace(cuda::SampleWorkspaceBytes(2));
  Device results(cuda::SampleResultBytes(2, false));
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_EQ(cuda::LaunchSample({.logits = logits.data<float>(),
                                .mask = nullptr,
                                .staging = staging.data(),
                                .workspace = workspace.data(),
                                .results = results.data(),
                                .rows = 2,
                                .vocabulary = vocabulary,
                                .work = work},
                               stream),
            cudaSuccess);
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
  const SampleParams steps[] = {{.temperature = 0}, {.top_k = 3}, {.top_p = 0.5f}, {}};
  for (const SampleParams& params : steps) {
    const std::vector<SampleParams> both = {params, {.top_k = 10, .top_p = 0.9f}};
    std::vector<float> values = random.Logits(2 * vocabulary, 2.0f);
    std::vector<uint8_t> staged(cuda::SampleStagingBytes(both));
    cuda::StageSampleParams(both, vocabulary, staged);
    logits.Write(values);
    staging.Write(staged);
    ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    std::vector<SampleResult> read(2);
    cuda::ReadSampleResults(results.bytes(), both, vocabulary, read);
    for (int r = 0; r < 2; ++r) {
      const float* row = &values[static_cast<size_t>(r * vocabulary)];
      ExpectSame(read[static_cast<size_t>(r)],
                 Reference({.logits = {row, row + vocabulary}, .params = both[r]}));
    }
  }
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
}

TEST(CudaSample, RefusesWhatIsOutOfBounds) {
  alignas(16) uint8_t buffer[64];
  float logits[4];
  const cuda::SampleArgs good = {.logits = logits,
                                 .mask = nullptr,
                                 .staging = buffer,
                                 .workspace = buffer,
                                 .results = buffer,
                                 .rows = 1,
                                 .vocabulary = 4,
                                 .work = {}};
  std::vector<cuda::SampleArgs> bad(7, good);
  bad[0].rows = 0;
  bad[1].rows = cuda::kMostSampleRows + 1;
  bad[2].vocabulary = 0;
  bad[3].vocabulary = cuda::kMostVocabulary + 1;
  bad[4].logits = nullptr;
  bad[5].staging = buffer + 4;
  bad[6].results = nullptr;
  for (const cuda::SampleArgs& args : bad) {
    EXPECT_EQ(cuda::LaunchSample(args, nullptr), cudaErrorInvalidValue);
  }
  testing::SetCudaError(cudaErrorLaunchFailure);
  EXPECT_EQ(cuda::LaunchSample(good, nullptr), cudaErrorLaunchFailure);
  testing::SetCudaError(cudaSuccess);
}

}  // namespace
}  // namespace sterna
