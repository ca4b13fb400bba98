// "Bit-exact under load" at the level of ops: a row has the same bits alone, in any chunk of a
// batch, and with any number of threads.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::Quantized;
using testing::Random;
using testing::RandomFloats;
using testing::View;

constexpr int64_t kRows = 37;

// Computes rows begin .. end-1 of an op whose inputs are fixed; the bytes of their outputs, row by
// row.
using RunRows = std::function<std::string(Ops<float>& ops, int64_t begin, int64_t end)>;

template <typename T>
std::string BytesOf(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

void ExpectInvariant(const RunRows& run) {
  for (const std::string& level : testing::ProductLevels()) {
    const std::string whole = run(*testing::CpuOps(level, 1), 0, kRows);
    ASSERT_FALSE(whole.empty());
    for (const int threads : {1, 2, 3}) {
      auto ops = testing::CpuOps(level, threads);
      for (const int64_t chunk : {int64_t{1}, int64_t{2}, int64_t{7}, int64_t{8}, kRows}) {
        std::string pieces;
        for (int64_t begin = 0; begin < kRows; begin += chunk) {
          pieces += run(*ops, begin, std::min(begin + chunk, kRows));
        }
        EXPECT_TRUE(pieces == whole) << level << ", " << threads << " threads, chunks of " << chunk;
      }
    }
  }
}

template <typename T>
Mat<const T> Rows(const std::vector<T>& values, int64_t begin, int64_t end) {
  const int64_t cols = std::ssize(values) / kRows;
  return {values.data() + begin * cols, end - begin, cols};
}

// Each row's codes, scales and sums together.
std::string BytesOf(const Quantized<float>& out) {
  std::string bytes;
  for (int64_t r = 0; r < out.mat.rows; ++r) {
    const int64_t groups = out.mat.num_groups();
    bytes.append(reinterpret_cast<const char*>(&out.q[r * out.mat.stride]), out.mat.stride);
    bytes.append(reinterpret_cast<const char*>(&out.scale[r * groups]), groups * sizeof(float));
    bytes.append(reinterpret_cast<const char*>(&out.sum[r * groups]), groups * sizeof(int32_t));
  }
  return bytes;
}

QuantizedMat<float> Rows(const Quantized<float>& q, int64_t begin, int64_t end) {
  QuantizedMat<float> part = q.mat;
  part.q += begin * part.stride;
  part.scale += begin * part.num_groups();
  part.sum += begin * part.num_groups();
  part.rows = end - begin;
  return part;
}

TEST(Invariance, TernaryLinear) {
  Random random(1);
  for (const int64_t group : {0, 128}) {
    TernaryMatrix w = testing::RandomTernary(random, 514, 1100);
    if (group == 0) {
      w.SetRowScales(testing::RandomScales(random, 514));
    } else {
      w.SetGroupScales(testing::RandomScales(random, 514 * CeilDiv(1100, group)), group);
    }
    Quantized<float> q(kRows, 1100, group);
    testing::FillRandom(random, q);
    const std::vector<float> before = RandomFloats(random, kRows * 514);
    ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
      std::vector<float> y(before.begin() + begin * 514, before.begin() + end * 514);
      ops.TernaryLinear({.q = Rows(q, begin, end),
                         .w = &w,
                         .bias = {},
                         .accumulate = true,
                         .y = View(y, end - begin)});
      return BytesOf(y);
    });
  }
}

TEST(Invariance, GatedLinear) {
  Random random(7);
  constexpr int64_t kOutputs = 217;
  const TernaryMatrix gate = testing::RandomTernary(random, kOutputs, 700);
  const TernaryMatrix up = testing::RandomTernary(random, kOutputs, 700);
  Quantized<float> q(kRows, 700);
  testing::FillRandom(random, q);
  for (const Activation activation : {Activation::kSilu, Activation::kReluSquared}) {
    ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
      std::vector<float> h((end - begin) * kOutputs);
      ops.GatedLinear({.gate = {.q = Rows(q, begin, end), .w = &gate, .bias = {}},
                       .up = {.q = Rows(q, begin, end), .w = &up, .bias = {}},
                       .activation = activation,
                       .h = View(h, end - begin)});
      return BytesOf(h);
    });
  }
}

TEST(Invariance, DenseLinear) {
  Random random(2);
  constexpr int64_t kOutputs = 451;  // four panels and five row blocks, the last not full
  for (const int64_t cols : {777, 800}) {
    const std::vector<float> x = RandomFloats(random, kRows * cols);
    const std::vector<float> w = RandomFloats(random, kOutputs * cols);
    const std::vector<uint16_t> bf16 = testing::ToBf16(w);
    const testing::DenseTiles tiles(bf16, kOutputs, cols), int8(w, kOutputs, cols);
    for (const DenseMatrix& m :
         {testing::DenseRows(w, kOutputs, cols), tiles.view(), int8.view()}) {
      ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
        std::vector<float> y((end - begin) * kOutputs);
        ops.DenseLinear({.x = Rows(x, begin, end), .w = m, .y = View(y, end - begin)});
        return BytesOf(y);
      });
    }
  }
}

TEST(Invariance, Norms) {
  Random random(3);
  constexpr int64_t kCols = 5003;
  const std::vector<float> x = RandomFloats(random, kRows * kCols);
  const std::vector<float> weight = RandomFloats(random, kCols);
  ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
    std::vector<float> y((end - begin) * kCols);
    ops.RmsNorm(
        {.x = Rows(x, begin, end), .weight = weight, .eps = 1e-5f, .y = View(y, end - begin)});
    return BytesOf(y);
  });
  for (const int64_t group : {0, 128}) {
    ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
      Quantized<float> out(end - begin, kCols, group);
      ops.RmsNormQuantize(
          {.x = Rows(x, begin, end), .weight = weight, .eps = 1e-5f, .out = out.mat});
      return BytesOf(out);
    });
  }
}

// One sequence whose last kRows tokens are computed in chunks: rope, append, then attention that
// reads what earlier chunks have appended.
TEST(Invariance, RopeAndAttentionInChunks) {
  constexpr int64_t kHeads = 6, kKvHeads = 2, kHeadDim = 64, kBlocks = 6;
  // The rows go over position 64, where attention begins another span; those before are zeros.
  constexpr int64_t kFirst = 50;
  Random random(4);
  const std::vector<float> q = RandomFloats(random, kRows * kHeads * kHeadDim);
  const std::vector<float> k = RandomFloats(random, kRows * kKvHeads * kHeadDim);
  const std::vector<float> v = RandomFloats(random, kRows * kKvHeads * kHeadDim);
  const std::vector<float> norm = RandomFloats(random, kHeadDim);
  const std::vector<int32_t> table = {2, 0, 1, 5, 4, 3};
  std::vector<double> inv_freq(kHeadDim / 2);
  for (size_t i = 0; i < inv_freq.size(); ++i) inv_freq[i] = std::pow(1e4, -double(i) / 32);
  for (const auto& [type, window] :
       {std::pair(KvType::kFull, 0), std::pair(KvType::kF16, 0), std::pair(KvType::kF16, 20),
        std::pair(KvType::kF16, 60), std::pair(KvType::kI8, 0), std::pair(KvType::kI8, 20)}) {
    std::vector<std::byte> cache_k(kBlocks * kKvHeads *
                                   KvView<float>::HeadBlockBytes(type, kHeadDim));
    std::vector<std::byte> cache_v(cache_k);
    const KvView<float> kv = {type, cache_k.data(), cache_v.data(), kBlocks, kKvHeads, kHeadDim};
    ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
      const int64_t n = end - begin;
      std::vector<int32_t> positions(n), slots(n), sequence(n, 0);
      std::iota(positions.begin(), positions.end(), kFirst + begin);
      for (int64_t i = 0; i < n; ++i) {
        slots[i] = table[positions[i] / 16] * 16 + positions[i] % 16;
      }
      std::vector<float> cos(n * kHeadDim / 2), sin(cos);
      ops.RotaryTable(
          {.positions = positions, .inv_freq = inv_freq, .cos = View(cos, n), .sin = View(sin, n)});
      std::vector<float> q_part(&q[begin * kHeads * kHeadDim], &q[0] + end * kHeads * kHeadDim);
      std::vector<float> k_part(&k[begin * kKvHeads * kHeadDim], &k[0] + end * kKvHeads * kHeadDim);
      ops.RopeAppendKv({.q = View(q_part, n),
                        .k = View(k_part, n),
                        .v = Rows(v, begin, end),
                        .cos = testing::ConstView(cos, n),
                        .sin = testing::ConstView(sin, n),
                        .slots = slots,
                        .q_norm = norm,
                        .k_norm = norm,
                        .norm_eps = 1e-6f,
                        .kv = kv});
      std::vector<float> o(q_part.size());
      ops.PagedAttention({.q = testing::ConstView(q_part, n),
                          .kv = kv,
                          .positions = positions,
                          .sequence = sequence,
                          .block_tables = testing::ConstView(table, 1),
                          .scale = 0.125f,
                          .window = window,
                          .o = View(o, n)});
      return BytesOf(o);
    });
  }
}

TEST(Invariance, EmbedGatherAndSample) {
  Random random(5);
  constexpr int64_t kVocabulary = 9001;
  const std::vector<float> logits = RandomFloats(random, kRows * kVocabulary, 2.0f);
  std::vector<int32_t> ids(kRows);
  for (int64_t i = 0; i < kRows; ++i) ids[i] = static_cast<int32_t>(i * 11 % kRows);
  const DenseMatrix table = testing::DenseRows(logits, kRows, kVocabulary);
  ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
    std::vector<float> embedded((end - begin) * kVocabulary), gathered(embedded);
    const std::span<const int32_t> part(ids.data() + begin, end - begin);
    ops.EmbedTokens({.token_ids = part, .table = table, .x = View(embedded, end - begin)});
    ops.GatherRows({.x = Rows(logits, 0, kRows), .rows = part, .y = View(gathered, end - begin)});
    EXPECT_EQ(embedded, gathered);
    EXPECT_EQ(embedded[0], logits[ids[begin] * kVocabulary]);
    return BytesOf(embedded);
  });
  std::vector<SampleParams> params(kRows);
  for (int64_t i = 0; i < kRows; ++i) {
    params[i] = {.temperature = i % 3 == 0 ? 0.0f : 0.9f, .seed = 3, .position = uint64_t(i)};
    params[i].top_k = i % 4 == 1 ? 40 : 0;
    params[i].top_p = i % 5 == 2 ? 0.9f : 1.0f;
    params[i].num_logprobs = static_cast<int32_t>(i % 4) - 1;
  }
  ExpectInvariant([&](Ops<float>& ops, int64_t begin, int64_t end) {
    std::vector<SampleResult> results(end - begin);
    ops.Sample({.logits = Rows(logits, begin, end),
                .params = std::span(params).subspan(begin, end - begin),
                .results = results});
    std::string bytes;
    for (const SampleResult& result : results) {
      std::vector<float> numbers = {static_cast<float>(result.token), result.logprob};
      for (const TokenLogprob& top : result.top) {
        numbers.insert(numbers.end(), {static_cast<float>(top.token), top.logprob});
      }
      bytes += BytesOf(numbers);
    }
    return bytes;
  });
}

}  // namespace
}  // namespace sterna
