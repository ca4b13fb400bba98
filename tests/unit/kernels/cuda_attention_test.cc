// The CUDA backend's attention on emulated threads (tests/testing/cuda_emulation.h), against the
// reference in double, and against itself in other company.
#include "tests/unit/kernels/cuda_attention_testing.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/bfloat16.h"
#include "kernels/cuda/attention.h"
#include "kernels/float8.h"

namespace sterna {
namespace {

using testing::Attend;
using testing::AttentionOptions;
using ::testing::ContainerEq;
using ::testing::Each;
using testing::Heads;
using testing::NoisyMemory;
using testing::Queries;
using testing::Random;
using testing::Reference;
using testing::Sequences;
using testing::StepTokens;

// What the arithmetic of attention_tile.cuh may cost. A score is off by 2^-22 for q's parts and by
// eps for each step of its sum, relative to |q| |k|, and its weight by as much times it; a weight
// is rounded to f16, and so is taken wrongly by 2^-11 at most; the sums are of up to `positions`
// terms.
double Bound(const Sequences& sequences, const std::vector<float>& q, int64_t positions) {
  constexpr double kEps = std::numeric_limits<float>::epsilon();
  const int64_t hd = sequences.heads().head_dim;
  double longest_query = 0;
  for (size_t i = 0; i < q.size(); i += static_cast<size_t>(hd)) {
    double length = 0;
    for (int64_t j = 0; j < hd; ++j) length += double{q[i + j]} * q[i + j];
    longest_query = std::max(longest_query, std::sqrt(length));
  }
  const double dims = static_cast<double>(hd);
  const double score = longest_query * sequences.longest_key() / std::sqrt(dims);
  return (0x1p-11 + (0x1p-22 + (dims / 4 + 8) * kEps) * score +
          static_cast<double>(positions + 32) * kEps) *
         sequences.largest_value();
}

void ExpectCloseToReference(const Sequences& sequences, const StepTokens& step,
                            const AttentionOptions& options, const std::string& what) {
  const std::vector<double> expected = Reference(sequences, step, options);
  const std::vector<float> actual = Attend(sequences, step, options);
  const double bound = Bound(sequences, Queries(sequences, step, options.query_deviation),
                             1 + *std::max_element(step.positions.begin(), step.positions.end()));
  const int64_t row = sequences.row_size();
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], bound)
        << what << " position " << step.positions[i / row] << " of sequence "
        << step.sequence[i / row] << " element " << i % row;
  }
}

// The rows of `part` in `all`, which holds o of `step`.
std::vector<float> RowsOf(const std::vector<float>& all, const StepTokens& step,
                          const StepTokens& part, int64_t row_size) {
  std::vector<float> rows;
  for (size_t t = 0; t < part.positions.size(); ++t) {
    for (size_t u = 0; u < step.positions.size(); ++u) {
      if (step.positions[u] != part.positions[t] || step.sequence[u] != part.sequence[t]) continue;
      const auto* row = all.data() + static_cast<int64_t>(u) * row_size;
      rows.insert(rows.end(), row, row + row_size);
    }
  }
  return rows;
}

std::string Name(const Heads& heads, KvType type, const AttentionOptions& options) {
  return "kv_heads " + std::to_string(heads.kv_heads) + " group " + std::to_string(heads.group) +
         " head_dim " + std::to_string(heads.head_dim) + " " + KvTypeName(type) + " window " +
         std::to_string(options.window) + " partials " + std::to_string(options.most_partials);
}

// Lone tokens and chunks of prompts of all lengths, side by side; windows that begin within tiles
// and splits; few and many rows, each in splits of their own blocks and walked through.
TEST(CudaAttention, IsCloseToTheDoubleReference) {
  Random random(1);
  uint64_t order = 1;
  for (const Heads& heads : {Heads{1, 1, 8},
                             {2, 3, 24},
                             {1, 4, 64},
                             {1, 16, 80},
                             {1, 17, 128},
                             {1, 2, 96},
                             {1, 5, 200}}) {
    for (const KvType type : testing::kCudaKvTypes) {
      const Sequences sequences(random, type, heads, {1, 70, 290});
      StepTokens step;
      step.Add(0, 0, 1);
      step.Add(2, 280, 290);  // a chunk,
      step.Add(1, 69, 70);    // a lone token,
      step.Add(1, 3, 5);      // and another part of the same sequence
      for (const AttentionOptions& options :
           {AttentionOptions{.window = 0}, {.window = 40, .most_partials = 0}}) {
        testing::SetCudaThreadOrder(order++);
        ExpectCloseToReference(sequences, step, options, Name(heads, type, options));
      }
    }
  }
}

TEST(CudaAttention, LongContextsAreCloseToTheDoubleReference) {
  Random random(2);
  for (const KvType type : testing::kCudaKvTypes) {
    const Heads heads = {1, 2, 16};
    const Sequences sequences(random, type, heads, {5300, 900});
    StepTokens step;
    step.Add(0, 5299, 5300);
    step.Add(1, 800, 801);
    for (const AttentionOptions& options :
         {AttentionOptions{}, {.most_partials = 0}, {.window = 4500}}) {
      testing::SetCudaThreadOrder(3);
      ExpectCloseToReference(sequences, step, options, Name(heads, type, options));
    }
  }
}

// Scores in the hundreds, and q far beyond what a half can hold, or far below.
TEST(CudaAttention, LargeAndSmallQueriesKeepTheirBits) {
  Random random(3);
  const Heads heads = {1, 4, 64};
  for (const KvType type : testing::kCudaKvTypes) {
    for (const auto& [q, k] : {std::pair(30.0f, 4.0f), std::pair(1e6f, 1e-4f),
                               std::pair(3e-7f, 1000.0f), std::pair(1e-20f, 1e20f)}) {
      // Half precision's own range is the cache's.
      if (type == KvType::kF16 && (k < 1 || k > 1000)) continue;
      const Sequences sequences(random, type, heads, {100}, k);
      StepTokens step;
      step.Add(0, 97, 100);
      const AttentionOptions options = {.query_deviation = q};
      ExpectCloseToReference(sequences, step, options, Name(heads, type, options));
    }
  }
}

// Positions with the same score, 300 or 3000, each of a channel of its own: q's roundings do not
// cancel as those of a channel that all keys share would, and there are too few to average out.
TEST(CudaAttention, CompetingLargeScoresKeepTheirBits) {
  constexpr int32_t kPositions = 4, kSequences = 16;
  Random random(8);
  const Heads heads = {1, 1, 64};
  for (const KvType type : testing::kCudaKvTypes) {
    for (const float deviation : {1.0f, 10.0f}) {
      Sequences sequences(random, type, heads, std::vector<int32_t>(kSequences, kPositions));
      StepTokens step;
      for (int32_t s = 0; s < kSequences; ++s) step.Add(s, kPositions - 1, kPositions);
      const AttentionOptions options = {.query_deviation = deviation};
      const std::vector<float> q = Queries(sequences, step, deviation);
      const float score = 300.0f * deviation;
      for (int32_t s = 0; s < kSequences; ++s) {
        std::vector<std::pair<float, size_t>> channels;
        for (size_t i = 0; i < 64; ++i)
          channels.emplace_back(q[static_cast<size_t>(s) * 64 + i], i);
        std::ranges::sort(channels, std::greater());
        const auto [last_q, last] = channels[kPositions];
        for (int32_t position = 0; position < kPositions; ++position) {
          // What a key of few bits lacks another channel adds.
          const auto [own_q, own] = channels[static_cast<size_t>(position)];
          std::vector<float> key(64, 0.0f);
          key[own] = Bf16ToFloat(FloatToBf16(score * 8.0f / own_q));
          key[last] = (score * 8.0f - own_q * key[own]) / last_q;
          sequences.PutKey(s, position, key);
        }
      }
      const std::vector<double> expected = Reference(sequences, step, options);
      const std::vector<float> actual = Attend(sequences, step, options);
      for (size_t i = 0; i < expected.size(); ++i) {
        // q's parts hold 2^-23 of it, and a score is rounded three times; weights to 2^-11.
        const double bound = (2 * 0x1p-11 + score * 0x1p-21) * sequences.largest_value();
        ASSERT_NEAR(actual[i], expected[i], bound) << KvTypeName(type) << " " << score << " " << i;
      }
    }
  }
}

TEST(CudaAttention, AWindowOfOneReturnsItsValue) {
  Random random(4);
  const Heads heads = {2, 2, 64};
  for (const KvType type : {KvType::kF16, KvType::kBf16}) {
    const Sequences sequences(random, type, heads, {300});
    StepTokens step;
    step.Add(0, 255, 280);
    const std::vector<float> o = Attend(sequences, step, {.window = 1});
    const std::vector<double> expected = Reference(sequences, step, {.window = 1});
    EXPECT_THAT(testing::ToDouble(o), ContainerEq(expected));
  }
}

// All codes of e4m3 at once, at a scale that is exact; and numbers that need all of a float's
// range.
TEST(CudaAttention, ValuesOfSmallFloatsAreExact) {
  Random random(9);
  const Heads heads = {1, 1, 256};
  const auto expect_exact = [&](KvType type, const std::vector<float>& value) {
    Sequences sequences(random, type, heads, {20});
    sequences.PutValue(0, 17, value);
    StepTokens step;
    step.Add(0, 17, 18);
    EXPECT_THAT(Attend(sequences, step, {.window = 1}), ContainerEq(value)) << KvTypeName(type);
  };
  std::vector<float> codes(256);
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f || code == 0x80) continue;  // NaN, and -0, which leaves as 0
    codes[static_cast<size_t>(code)] = E4m3ToFloat(static_cast<uint8_t>(code)) * 0.25f;
  }
  expect_exact(KvType::kF8, codes);
  std::vector<float> wide(256);
  for (size_t i = 0; i < wide.size(); ++i) {
    wide[i] = std::ldexp(i % 2 == 0 ? 1.9921875f : -1.0078125f, static_cast<int>(i) - 128);
  }
  wide[0] = wide[1] = 0x1p-126f;
  expect_exact(KvType::kBf16, wide);
}

// The heart of it: bits of a row do not depend on its company.
TEST(CudaAttention, RowsAreTheSameBitsInAnyStep) {
  Random random(5);
  for (const Heads& heads : {Heads{2, 1, 8}, {1, 4, 64}, {1, 17, 24}}) {
    for (const KvType type : testing::kCudaKvTypes) {
      for (const int32_t window : {0, 100}) {
        if ((window == 0) == (heads.group == 1 || KvView<float>::HasScales(type))) continue;
        const Sequences sequences(random, type, heads, {290, 270, 31});
        const std::string name = Name(heads, type, {.window = window});
        StepTokens prompt;
        prompt.Add(0, 240, 290);
        testing::SetCudaThreadOrder(0);
        const std::vector<float> expected = Attend(sequences, prompt, {.window = window});
        testing::SetCudaThreadOrder(7);
        const std::vector<float> walked =
            Attend(sequences, prompt, {.window = window, .most_partials = 0});
        ASSERT_THAT(walked, ContainerEq(expected)) << name;
        for (const auto& [begin, end] :
             {std::pair(240, 241), std::pair(253, 260), std::pair(287, 290)}) {
          StepTokens chunk;
          chunk.Add(0, begin, end);
          const std::vector<float> rows = RowsOf(expected, prompt, chunk, sequences.row_size());
          ASSERT_THAT(Attend(sequences, chunk, {.window = window}), ContainerEq(rows))
              << name << " " << begin;
          ASSERT_THAT(Attend(sequences, chunk,
                             {.window = window,
                              .most_partials = 3,
                              .more_table_columns = 300,
                              .most_thread_blocks = 2}),
                      ContainerEq(rows))
              << name << " " << begin;
          StepTokens mixed;
          mixed.Add(2, 30, 31);
          mixed.Add(1, 200, 202);
          mixed.Add(0, begin, end);
          mixed.Add(1, 269, 270);
          ASSERT_THAT(RowsOf(Attend(sequences, mixed, {.window = window}), mixed, chunk,
                             sequences.row_size()),
                      ContainerEq(rows))
              << name << " " << begin;
        }
      }
    }
  }
}

TEST(CudaAttention, PaddingBecomesZerosAndReadsNothing) {
  Random random(6);
  const Heads heads = {2, 2, 64};
  for (const KvType type : testing::kCudaKvTypes) {
    const Sequences sequences(random, type, heads, {40});
    StepTokens step;
    step.Add(0, 37, 40);
    const std::vector<float> alone = Attend(sequences, step, {});
    for (int i = 0; i < 21; ++i) {
      step.positions.push_back(-1);
      step.sequence.push_back(1 << 28);
    }
    const std::vector<float> o = Attend(sequences, step, {});
    EXPECT_EQ(std::memcmp(o.data(), alone.data(), alone.size() * sizeof(float)), 0);
    EXPECT_THAT(std::span(o).subspan(alone.size()), Each(0.0f));
  }
}

// A plan serves all layers: launches leave it as it was.
TEST(CudaAttention, APlanServesManyLaunches) {
  Random random(7);
  const Heads heads = {1, 2, 64};
  const Sequences sequences(random, KvType::kF16, heads, {600});
  StepTokens step;
  step.Add(0, 599, 600);
  const std::vector<float> expected = Attend(sequences, step, {});
  const std::vector<float> q = Queries(sequences, step, 1.0f);
  const std::vector<int32_t> tables = sequences.Tables(sequences.table_width());
  std::vector<float> o(q.size());
  cuda::AttentionArgs args = {
      .step = {.shape = {.heads = 2,
                         .kv_heads = 1,
                         .head_dim = 64,
                         .max_blocks = static_cast<int32_t>(sequences.table_width())},
               .positions = step.positions.data(),
               .sequence = step.sequence.data(),
               .tokens = 1,
               .workspace = nullptr},
      .q = q.data(),
      .type = KvType::kF16,
      .k = sequences.view().k,
      .v = sequences.view().v,
      .block_tables = tables.data(),
      .scale = 0.125f,
      .o = o.data()};
  const NoisyMemory workspace(cuda::AttentionWorkspaceBytes(args.step.shape, 1));
  args.step.workspace = workspace.data();
  ASSERT_EQ(cuda::LaunchAttentionPlan(args.step, nullptr), cudaSuccess);
  for (int layer = 0; layer < 3; ++layer) {
    std::fill(o.begin(), o.end(), -7.0f);
    ASSERT_EQ(cuda::LaunchAttention(args, nullptr), cudaSuccess);
    EXPECT_THAT(o, ContainerEq(expected)) << layer;
  }
  args.type = KvType::kFull;
  EXPECT_EQ(cuda::LaunchAttention(args, nullptr), cudaErrorInvalidValue);
  args.type = KvType::kF16;
  args.step.shape.head_dim = 60;
  EXPECT_EQ(cuda::LaunchAttention(args, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::LaunchAttentionPlan(args.step, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::AttentionWorkspaceBytes(args.step.shape, 1), 0u);
}

}  // namespace
}  // namespace sterna
