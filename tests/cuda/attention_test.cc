// RopeAppendKv and PagedAttention of the CUDA backend: the cache's bytes as the reference writes
// them, attention over them within what half precision rounds.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/cuda/on_device.h"

namespace sterna {
namespace {

using ::testing::ContainerEq;
using testing::CudaOpsTest;
using testing::OnDevice;
using testing::Random;
using testing::RandomFloats;
using testing::View;

constexpr double kHalfEps = 0x1p-11;  // half precision rounds by so much
constexpr float kNormEps = 1e-5f;

// One layer's cache on both sides, some sequences in it.
struct AttentionProblem {
  int64_t heads, kv_heads, head_dim;
  KvType type;
  std::vector<int32_t> lengths;
  int64_t max_blocks = 0;
  int64_t num_blocks = 0;
  std::vector<int32_t> tables;               // [sequences, max_blocks]
  std::vector<int32_t> positions, sequence;  // of the tokens that attend
  std::vector<int32_t> all_slots;            // of all tokens of all sequences
  std::vector<int32_t> all_positions;
  std::vector<float> q, k, v;  // of all tokens

  AttentionProblem(Random& random, int64_t heads, int64_t kv_heads, int64_t head_dim, KvType type,
                   std::vector<int32_t> lengths, int32_t most_queries)
      : heads(heads),
        kv_heads(kv_heads),
        head_dim(head_dim),
        type(type),
        lengths(std::move(lengths)) {
    for (const int32_t length : this->lengths) {
      max_blocks = std::max(max_blocks, CeilDiv(length, kKvBlockTokens));
      num_blocks += CeilDiv(length, kKvBlockTokens);
    }
    std::vector<int32_t> order(static_cast<size_t>(num_blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    size_t next = 0;
    for (size_t s = 0; s < this->lengths.size(); ++s) {
      const int32_t length = this->lengths[s];
      for (int64_t b = 0; b < max_blocks; ++b) {
        tables.push_back(b < CeilDiv(length, kKvBlockTokens) ? order[next++] : 0);
      }
      for (int32_t p = 0; p < length; ++p) {
        const int32_t block =
            tables[s * static_cast<size_t>(max_blocks) + static_cast<size_t>(p / kKvBlockTokens)];
        all_slots.push_back(block * static_cast<int32_t>(kKvBlockTokens) +
                            p % static_cast<int32_t>(kKvBlockTokens));
        all_positions.push_back(p);
        if (p >= length - most_queries) {
          positions.push_back(p);
          sequence.push_back(static_cast<int32_t>(s));
        }
      }
    }
    const auto tokens = std::ssize(all_slots);
    q = RandomFloats(random, tokens * heads * head_dim);
    k = RandomFloats(random, tokens * kv_heads * head_dim);
    v = RandomFloats(random, tokens * kv_heads * head_dim);
  }
  int64_t tokens() const { return std::ssize(all_slots); }
  int64_t queries() const { return std::ssize(positions); }
  int64_t cache_bytes() const {
    return num_blocks * kv_heads * KvView<float>::HeadBlockBytes(type, head_dim);
  }
  KvView<float> ViewOf(std::byte* k_data, std::byte* v_data) const {
    return {.type = type,
            .k = k_data,
            .v = v_data,
            .num_blocks = num_blocks,
            .num_kv_heads = kv_heads,
            .head_dim = head_dim};
  }
};

// RopeAppendKv, then PagedAttention over what it has written.
class CudaAttentionTest : public CudaOpsTest {
 protected:
  void Run(const AttentionProblem& p, int32_t window);
};

void CudaAttentionTest::Run(const AttentionProblem& p, int32_t window) {
  const int64_t half = p.head_dim / 2;
  std::vector<double> inv_freq;
  for (int64_t i = 0; i < half; ++i) {
    inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half)));
  }
  // The reference, in float, and its cache.
  std::vector<float> cos(static_cast<size_t>(p.tokens() * half)), sin(cos), q = p.q, k = p.k;
  reference_->RotaryTable({.positions = p.all_positions,
                           .inv_freq = inv_freq,
                           .cos = View(cos, p.tokens()),
                           .sin = View(sin, p.tokens())});
  std::vector<std::byte> k_cache(static_cast<size_t>(p.cache_bytes())), v_cache(k_cache);
  reference_->RopeAppendKv({.q = View(q, p.tokens()),
                            .k = View(k, p.tokens()),
                            .v = testing::ConstView(p.v, p.tokens()),
                            .cos = testing::ConstView(cos, p.tokens()),
                            .sin = testing::ConstView(sin, p.tokens()),
                            .slots = p.all_slots,
                            .norm_eps = kNormEps,
                            .kv = p.ViewOf(k_cache.data(), v_cache.data())});
  // The device's tables of cos and sin may be off by an ulp: it gets the reference's.
  OnDevice<float> device_cos(*ops_, cos), device_sin(*ops_, sin);
  OnDevice<float> device_q(*ops_, p.q), device_k(*ops_, p.k), device_v(*ops_, p.v);
  OnDevice<int32_t> slots(*ops_, p.all_slots), positions(*ops_, p.positions),
      sequence(*ops_, p.sequence), tables(*ops_, p.tables);
  const std::vector<std::byte> stale(static_cast<size_t>(p.cache_bytes()), std::byte{0xff});
  OnDevice<std::byte> device_k_cache(*ops_, stale), device_v_cache(*ops_, stale);
  const KvView<float> kv = p.ViewOf(device_k_cache.data(), device_v_cache.data());
  ops_->RopeAppendKv({.q = device_q.AsRows(p.tokens()),
                      .k = device_k.AsRows(p.tokens()),
                      .v = AsConst(device_v.AsRows(p.tokens())),
                      .cos = AsConst(device_cos.AsRows(p.tokens())),
                      .sin = AsConst(device_sin.AsRows(p.tokens())),
                      .slots = slots.span(),
                      .norm_eps = kNormEps,
                      .kv = kv});
  EXPECT_THAT(device_q.Read(), ContainerEq(q));
  EXPECT_THAT(device_k.Read(), ContainerEq(k));
  const std::vector<std::byte> k_written = device_k_cache.Read(), v_written = device_v_cache.Read();
  for (const int32_t slot : p.all_slots) {
    for (int64_t h = 0; h < p.kv_heads; ++h) {
      const auto at = static_cast<size_t>(kv.Offset(slot, h));
      const auto bytes = static_cast<size_t>(p.head_dim * KvView<float>::ElementBytes(p.type));
      ASSERT_EQ(std::memcmp(&k_written[at], &k_cache[at], bytes), 0) << "k of slot " << slot;
      ASSERT_EQ(std::memcmp(&v_written[at], &v_cache[at], bytes), 0) << "v of slot " << slot;
    }
  }
  // Attention in double over the cache as it was written.
  std::vector<float> queries;
  int64_t token = 0, next = 0;
  for (size_t s = 0; s < p.lengths.size(); ++s) {
    for (int32_t position = 0; position < p.lengths[s]; ++position, ++token) {
      if (next == p.queries() || p.sequence[static_cast<size_t>(next)] != static_cast<int32_t>(s) ||
          p.positions[static_cast<size_t>(next)] != position) {
        continue;
      }
      const float* row = q.data() + token * p.heads * p.head_dim;
      queries.insert(queries.end(), row, row + p.heads * p.head_dim);
      ++next;
    }
  }
  std::vector<float> expected(queries.size());
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(p.head_dim)));
  reference_->PagedAttention({.q = testing::ConstView(queries, p.queries()),
                              .kv = p.ViewOf(k_cache.data(), v_cache.data()),
                              .positions = p.positions,
                              .sequence = p.sequence,
                              .block_tables = testing::ConstView(p.tables, std::ssize(p.lengths)),
                              .scale = scale,
                              .window = window,
                              .o = View(expected, p.queries())});
  OnDevice<float> in(*ops_, queries), o(*ops_, Noise(std::ssize(queries)));
  ops_->PagedAttention({.q = AsConst(in.AsRows(p.queries())),
                        .kv = kv,
                        .positions = positions.span(),
                        .sequence = sequence.span(),
                        .block_tables = AsConst(tables.AsRows(std::ssize(p.lengths))),
                        .scale = scale,
                        .window = window,
                        .o = o.AsRows(p.queries())});
  const std::vector<float> actual = o.Read();
  // Weights and values are rounded to half precision on their way: an error of the largest value.
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_TRUE(std::isfinite(actual[i])) << "at " << i;
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  EXPECT_LT(std::sqrt(difference / norm), 8 * kHalfEps)
      << p.heads << "/" << p.kv_heads << " heads of " << p.head_dim << ", window " << window;
}

TEST_F(CudaAttentionTest, OverACacheThatRopeAppendKvHasWritten) {
  const bool slow = testing::DeviceUnderTestIsSlow();
  for (const KvType type : {KvType::kF16, KvType::kBf16, KvType::kI8, KvType::kF8}) {
    for (const int32_t window : {0, 50}) {
      Run(AttentionProblem(random_, 4, 2, 64, type, {1, 40, 300}, 3), window);
      Run(AttentionProblem(random_, 5, 1, 24, type, {70, 17}, 100), window);
      Run(AttentionProblem(random_, 3, 3, 128, type, {33}, 33), window);
      if (slow) continue;
      Run(AttentionProblem(random_, 20, 5, 128, type, {1, 700, 64, 4001}, 1), window);
      Run(AttentionProblem(random_, 32, 8, 128, type, {2048, 100, 31}, 700), window);
      Run(AttentionProblem(random_, 16, 2, 256, type, {1000, 500}, 20), window);
    }
  }
}

}  // namespace
}  // namespace sterna
