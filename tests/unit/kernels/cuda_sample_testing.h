// What the tests of CUDA sampling share: device buffers around a launch, the reference with a mask,
// and rows that ask for anything.
#ifndef STERNA_TESTS_UNIT_KERNELS_CUDA_SAMPLE_TESTING_H_
#define STERNA_TESTS_UNIT_KERNELS_CUDA_SAMPLE_TESTING_H_

#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/sample.h"
#include "kernels/reference/reference_sampler.h"
#include "tests/testing/drawn_tokens.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna::testing {

inline constexpr float kInf = std::numeric_limits<float>::infinity();

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

// What the step before drew, one token for each row that it may have had.
inline std::vector<int32_t> DrawnBefore(int64_t vocabulary) {
  std::vector<int32_t> drawn;
  for (int64_t row = 0; row < 64; ++row) {
    drawn.push_back(static_cast<int32_t>((row * 37 + 5) % vocabulary));
  }
  return drawn;
}

inline std::vector<SampleParams> AllParams(const std::vector<Case>& rows) {
  std::vector<SampleParams> params;
  for (const Case& row : rows) params.push_back(row.Params());
  return params;
}

inline std::vector<uint32_t> Masks(const std::vector<Case>& rows) {
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

inline cuda::SampleWork Or(cuda::SampleWork a, const cuda::SampleWork& b) {
  a.bias |= b.bias;
  a.penalties |= b.penalties;
  a.draws |= b.draws;
  a.cuts |= b.cuts;
  a.logprobs |= b.logprobs;
  return a;
}

// All rows in one launch, of at least the kernels `work` names.
inline std::vector<SampleResult> SampleOnDevice(const std::vector<Case>& rows,
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
  std::vector<int32_t> drawn = DrawnBefore(vocabulary);
  drawn.resize(std::max(drawn.size(), rows.size()));
  device_logits.Write(logits);
  device_masks.Write(masks);
  staging.Write(staged);
  const cuda::SampleArgs args = {.logits = device_logits.data<float>(),
                                 .mask = masked ? device_masks.data<const uint32_t>() : nullptr,
                                 .staging = staging.data(),
                                 .workspace = workspace.data(),
                                 .results = results.data(),
                                 .drawn = drawn.data(),
                                 .rows = static_cast<int32_t>(rows.size()),
                                 .vocabulary = vocabulary,
                                 .work = all};
  EXPECT_EQ(cuda::LaunchSample(args, nullptr), cudaSuccess);
  std::vector<SampleResult> read(rows.size());
  cuda::ReadSampleResults(results.bytes(), params, vocabulary, read);
  for (size_t r = 0; r < rows.size(); ++r) EXPECT_EQ(drawn[r], read[r].token) << "row " << r;
  return read;
}
inline SampleResult SampleOnDevice(const Case& row) {
  return SampleOnDevice(std::vector<Case>{row})[0];
}

// The reference knows no mask: it chooses from masked logits, and has logprobs from the others.
inline SampleResult Reference(const Case& row) {
  const auto vocabulary = static_cast<int64_t>(row.logits.size());
  std::vector<double> logits = ToDouble(row.logits);
  SampleParams params = row.Params();
  const std::vector<TokenCount> counts = KnownCounts(row.counts, DrawnBefore(vocabulary));
  params.token_counts = counts;
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

inline void ExpectLogprob(float actual, float expected) {
  if (actual == expected) return;  // infinities
  EXPECT_NEAR(actual, expected, 1e-6 * std::max(1.0f, std::abs(expected)));
}

inline void ExpectSame(const SampleResult& actual, const SampleResult& expected) {
  ASSERT_EQ(actual.token, expected.token);
  ExpectLogprob(actual.logprob, expected.logprob);
  ASSERT_EQ(actual.top.size(), expected.top.size());
  for (size_t i = 0; i < actual.top.size(); ++i) {
    ASSERT_EQ(actual.top[i].token, expected.top[i].token) << "top " << i;
    ExpectLogprob(actual.top[i].logprob, expected.top[i].logprob);
  }
}

inline void ExpectSameBits(const SampleResult& a, const SampleResult& b) {
  ASSERT_EQ(a.token, b.token);
  ASSERT_EQ(std::bit_cast<uint32_t>(a.logprob), std::bit_cast<uint32_t>(b.logprob));
  ASSERT_EQ(a.top.size(), b.top.size());
  for (size_t i = 0; i < a.top.size(); ++i) {
    ASSERT_EQ(a.top[i].token, b.top[i].token);
    ASSERT_EQ(std::bit_cast<uint32_t>(a.top[i].logprob), std::bit_cast<uint32_t>(b.top[i].logprob));
  }
}

// Runs the rows at once and compares each with the reference.
inline void ExpectReference(const std::vector<Case>& rows) {
  const std::vector<SampleResult> results = SampleOnDevice(rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    SCOPED_TRACE(::testing::Message() << "row " << r << " of " << rows.size() << ", vocabulary "
                                      << rows[r].logits.size());
    ExpectSame(results[r], Reference(rows[r]));
    if (::testing::Test::HasFatalFailure()) return;
  }
}

// Rows that ask for anything.
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
    return RandomFloats(random_, vocabulary, deviation);
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
    if (OneIn(5)) p.target = Int(0, vocabulary - 1);
    return p;
  }
  void AddCounts(Case& c) {
    for (int32_t t = Int(0, 5); t < std::ssize(c.logits); t += 7) c.counts.push_back({t, t % 3});
    if (OneIn(2)) c.counts.push_back({DrawnToken(Int(0, 63)), 1});
    c.params.repetition_penalty = Float(0.8f, 1.5f);
    c.params.presence_penalty = Float(-0.5f, 1.0f);
    c.params.frequency_penalty = Float(-0.2f, 0.5f);
  }

  Random random_;
};

}  // namespace sterna::testing

#endif  // STERNA_TESTS_UNIT_KERNELS_CUDA_SAMPLE_TESTING_H_
