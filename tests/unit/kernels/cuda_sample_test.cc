// The CUDA backend's sampling on emulated threads (tests/testing/cuda_emulation.h), against the
// reference in double precision.
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_math.cuh"
#include "kernels/philox.h"
#include "kernels/reference/reference_sampler.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::Random;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Device memory, full of noise.
class Device {
 public:
  explicit Device(size_t bytes) : bytes_(bytes) {
    STERNA_CHECK(cudaMalloc(&data_, bytes) == cudaSuccess);
  }
  ~Device() { cudaFree(data_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  template <typename T = uint8_t>
  T* data() const {
    return static_cast<T*>(data_);
  }
  template <typename T>
  void Write(const std::vector<T>& values) {
    STERNA_CHECK(values.size() * sizeof(T) <= bytes_);
    std::memcpy(data_, values.data(), values.size() * sizeof(T));
  }
  std::span<const uint8_t> bytes() const { return {data<const uint8_t>(), bytes_}; }

 private:
  void* data_ = nullptr;
  size_t bytes_;
};

// One row and what its params point at.
struct Case {
  std::vector<float> logits;
  SampleParams params;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<TokenCount> counts;
  std::vector<bool> allowed;  // empty: all
  // In place of the number that (seed, position) have, in units of 2^-64.
  std::optional<uint64_t> uniform = {};

  SampleParams Params() const {
    SampleParams p = params;
    p.logit_bias = bias;
    p.token_counts = counts;
    return p;
  }
};

std::vector<SampleParams> AllParams(const std::vector<Case>& rows) {
  std::vector<SampleParams> params;
  for (const Case& row : rows) params.push_back(row.Params());
  return params;
}

std::vector<uint32_t> Masks(const std::vector<Case>& rows) {
  const size_t vocabulary = rows[0].logits.size();
  const size_t words = (vocabulary + 31) / 32;
  std::vector<uint32_t> masks(rows.size() * words);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t t = 0; t < vocabulary; ++t) {
      const bool allowed = rows[r].allowed.empty() || rows[r].allowed[t];
      masks[r * words + t / 32] |= uint32_t{allowed} << (t % 32);
    }
  }
  return masks;
}

cuda::SampleWork Or(cuda::SampleWork a, const cuda::SampleWork& b) {
  a.bias |= b.bias;
  a.penalties |= b.penalties;
  a.draws |= b.draws;
  a.cuts |= b.cuts;
  a.logprobs |= b.logprobs;
  return a;
}

// All rows in one launch, of at least the kernels `work` names.
std::vector<SampleResult> SampleOnDevice(const std::vector<Case>& rows,
                                         const cuda::SampleWork& work = {}) {
  const auto vocabulary = static_cast<int32_t>(rows[0].logits.size());
  const std::vector<SampleParams> params = AllParams(rows);
  std::vector<uint8_t> staged(cuda::SampleStagingBytes(params));
  const cuda::SampleWork all = Or(cuda::StageSampleParams(params, vocabulary, staged), work);
  for (size_t r = 0; r < rows.size(); ++r) {
    if (!rows[r].uniform.has_value()) continue;
    std::memcpy(&staged[r * sizeof(cuda::SampleRow) + offsetof(cuda::SampleRow, uniform)],
                &*rows[r].uniform, sizeof(uint64_t));
  }
  std::vector<float> logits;
  bool masked = false;
  for (const Case& row : rows) {
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    masked |= !row.allowed.empty();
  }
  const std::vector<uint32_t> masks = Masks(rows);
  Device device_logits(logits.size() * sizeof(float));
  Device device_masks(masks.size() * sizeof(uint32_t));
  Device staging(staged.size());
  Device workspace(cuda::SampleWorkspaceBytes(std::ssize(rows)));
  Device results(cuda::SampleResultBytes(std::ssize(rows), all.logprobs));
  device_logits.Write(logits);
  device_masks.Write(masks);
  staging.Write(staged);
  const cuda::SampleArgs args = {.logits = device_logits.data<float>(),
                                 .mask = masked ? device_masks.data<const uint32_t>() : nullptr,
                                 .staging = staging.data(),
                                 .workspace = workspace.data(),
                                 .results = results.data(),
                                 .rows = static_cast<int32_t>(rows.size()),
                                 .vocabulary = vocabulary,
                                 .work = all};
  EXPECT_EQ(cuda::LaunchSample(args, nullptr), cudaSuccess);
  std::vector<SampleResult> read(rows.size());
  cuda::ReadSampleResults(results.bytes(), params, vocabulary, read);
  return read;
}
SampleResult SampleOnDevice(const Case& row) { return SampleOnDevice(std::vector<Case>{row})[0]; }

// The reference knows no mask: it chooses from masked logits, and has logprobs from the others.
SampleResult Reference(const Case& row) {
  const auto vocabulary = static_cast<int64_t>(row.logits.size());
  std::vector<double> logits = testing::ToDouble(row.logits);
  SampleParams params = row.Params();
  if (row.allowed.empty()) return ReferenceSampleRow(logits.data(), vocabulary, params);
  SampleResult result;
  params.num_logprobs = static_cast<int32_t>(vocabulary);
  const SampleResult own = ReferenceSampleRow(logits.data(), vocabulary, params);
  for (size_t t = 0; t < logits.size(); ++t) {
    if (!row.allowed[t]) logits[t] = -kInf;
  }
  params.num_logprobs = -1;
  result.token = ReferenceSampleRow(logits.data(), vocabulary, params).token;
  if (row.params.num_logprobs < 0) return result;
  const auto is_chosen = [&](const TokenLogprob& top) { return top.token == result.token; };
  result.logprob = std::ranges::find_if(own.top, is_chosen)->logprob;
  const int64_t count = std::min<int64_t>(row.params.num_logprobs, vocabulary);
  result.top.assign(own.top.begin(), own.top.begin() + count);
  return result;
}

void ExpectLogprob(float actual, float expected) {
  if (actual == expected) return;  // infinities
  EXPECT_NEAR(actual, expected, 1e-6 * std::max(1.0f, std::abs(expected)));
}

void ExpectSame(const SampleResult& actual, const SampleResult& expected) {
  ASSERT_EQ(actual.token, expected.token);
  ExpectLogprob(actual.logprob, expected.logprob);
  ASSERT_EQ(actual.top.size(), expected.top.size());
  for (size_t i = 0; i < actual.top.size(); ++i) {
    ASSERT_EQ(actual.top[i].token, expected.top[i].token) << "top " << i;
    ExpectLogprob(actual.top[i].logprob, expected.top[i].logprob);
  }
}

void ExpectSameBits(const SampleResult& a, const SampleResult& b) {
  ASSERT_EQ(a.token, b.token);
  ASSERT_EQ(std::bit_cast<uint32_t>(a.logprob), std::bit_cast<uint32_t>(b.logprob));
  ASSERT_EQ(a.top.size(), b.top.size());
  for (size_t i = 0; i < a.top.size(); ++i) {
    ASSERT_EQ(a.top[i].token, b.top[i].token);
    ASSERT_EQ(std::bit_cast<uint32_t>(a.top[i].logprob), std::bit_cast<uint32_t>(b.top[i].logprob));
  }
}

// Runs the rows at once and compares each with the reference.
void ExpectReference(const std::vector<Case>& rows) {
  const std::vector<SampleResult> results = SampleOnDevice(rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    SCOPED_TRACE(::testing::Message() << "row " << r << " of " << rows.size() << ", vocabulary "
                                      << rows[r].logits.size());
    ExpectSame(results[r], Reference(rows[r]));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

// Rows that ask for anything, alone and together.
class RandomCases {
 public:
  explicit RandomCases(uint64_t seed) : random_(seed) {}

  bool OneIn(int n) { return Int(1, n) == 1; }
  int32_t Int(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(random_);
  }
  float Float(float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random_);
  }
  std::vector<float> Logits(int64_t vocabulary, float deviation) {
    return testing::RandomFloats(random_, vocabulary, deviation);
  }
  Case Next(int32_t vocabulary) {
    Case c = {.logits = Logits(vocabulary, Float(0.1f, 4.0f)), .params = Params(vocabulary)};
    if (OneIn(3)) AddCounts(c);
    if (OneIn(3)) {
      for (int32_t t = Int(0, 5); t < vocabulary; t += 11) c.bias.push_back({t, Float(-2, 2)});
    }
    if (OneIn(3)) {
      for (int32_t t = 0; t < vocabulary; ++t) c.allowed.push_back(OneIn(2));
      c.allowed[static_cast<size_t>(Int(0, vocabulary - 1))] = true;
    }
    return c;
  }

 private:
  SampleParams Params(int32_t vocabulary) {
    SampleParams p;
    p.temperature = OneIn(5) ? 0.0f : Float(0.2f, 2.0f);
    if (OneIn(2)) p.top_k = Int(1, OneIn(4) ? 2 * vocabulary : 200);
    if (OneIn(2)) p.top_p = Float(0.05f, 0.999f);
    if (OneIn(3)) p.min_p = Float(0.001f, 0.3f);
    p.seed = random_();
    p.position = random_();
    const int32_t kinds[] = {-1, 0, 1, 20, cuda::kMostTopLogprobs};
    p.num_logprobs = kinds[Int(0, 4)];
    return p;
  }
  void AddCounts(Case& c) {
    for (int32_t t = Int(0, 5); t < std::ssize(c.logits); t += 7) c.counts.push_back({t, t % 3});
    c.params.repetition_penalty = Float(0.8f, 1.5f);
    c.params.presence_penalty = Float(-0.5f, 1.0f);
    c.params.frequency_penalty = Float(-0.2f, 0.5f);
  }

  Random random_;
};

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
