// The CUDA backend's rotary embedding, K/V writes and gathering on emulated threads
// (tests/testing/cuda_emulation.h), against the reference.
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/rope.h"
#include "kernels/float8.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::ConstView;
using ::testing::ContainerEq;
using testing::Random;
using testing::RandomFloats;
using testing::View;

constexpr KvType kTypes[] = {KvType::kF16, KvType::kBf16, KvType::kI8, KvType::kF8};

TEST(CudaRopeTable, EqualsTheReference) {
  Random random(1);
  const std::vector<int32_t> positions = {0, 1, 77, 131071};
  for (const int64_t half : {1, 12, 64, 128}) {
    std::vector<double> inv_freq;
    for (int64_t i = 0; i < half; ++i) {
      inv_freq.push_back(std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half)));
    }
    std::vector<float> cos(positions.size() * inv_freq.size(), -7.0f);
    std::vector<float> sin = cos, expected_cos = cos, expected_sin = cos;
    CreateReferenceOps<float>()->RotaryTable({.positions = positions,
                                              .inv_freq = inv_freq,
                                              .factor = 1.25,
                                              .cos = View(expected_cos, 4),
                                              .sin = View(expected_sin, 4)});
    ASSERT_EQ(cuda::LaunchRotaryTable({.positions = positions.data(),
                                       .inv_freq = inv_freq.data(),
                                       .factor = 1.25,
                                       .tokens = 4,
                                       .half_dim = static_cast<int32_t>(half),
                                       .cos = cos.data(),
                                       .sin = sin.data()},
                                      nullptr),
              cudaSuccess);
    EXPECT_THAT(cos, ContainerEq(expected_cos)) << half;
    EXPECT_THAT(sin, ContainerEq(expected_sin)) << half;
  }
}

// Inputs and outputs of one call; caches begin with all bits set.
struct Rope {
  int32_t heads, kv_heads, head_dim;
  KvType type;
  std::vector<int32_t> slots;
  std::vector<float> q, k, v, cos, sin, q_norm, k_norm;
  std::vector<std::byte> kv_k, kv_v;

  static constexpr int64_t kBlocks = 3;

  Rope(Random& random, int32_t heads, int32_t kv_heads, int32_t head_dim, KvType type, bool norms)
      : heads(heads), kv_heads(kv_heads), head_dim(head_dim), type(type), slots({31, 0, 17, 47}) {
    const auto t = static_cast<int64_t>(slots.size());
    q = RandomFloats(random, t * heads * head_dim);
    k = RandomFloats(random, t * kv_heads * head_dim);
    v = RandomFloats(random, t * kv_heads * head_dim);
    for (const float angle : RandomFloats(random, t * head_dim / 2, 2.0f)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    if (norms) {
      q_norm = RandomFloats(random, head_dim);
      k_norm = RandomFloats(random, head_dim);
    }
    kv_k.assign(
        static_cast<size_t>(kBlocks * kv_heads * KvView<float>::HeadBlockBytes(type, head_dim)),
        std::byte{0xff});
    kv_v = kv_k;
  }

  cuda::RopeAppendKvArgs Args() {
    return {.q = q.data(),
            .k = k.data(),
            .v = v.data(),
            .cos = cos.data(),
            .sin = sin.data(),
            .slots = slots.data(),
            .q_norm = q_norm.empty() ? nullptr : q_norm.data(),
            .k_norm = k_norm.empty() ? nullptr : k_norm.data(),
            .norm_eps = 1e-6f,
            .type = type,
            .kv_k = kv_k.data(),
            .kv_v = kv_v.data(),
            .tokens = static_cast<int32_t>(slots.size()),
            .heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim};
  }
  // The same by the reference.
  void RunReference() {
    const auto t = static_cast<int64_t>(slots.size());
    CreateReferenceOps<float>()->RopeAppendKv(
        {.q = View(q, t),
         .k = View(k, t),
         .v = ConstView(v, t),
         .cos = ConstView(cos, t),
         .sin = ConstView(sin, t),
         .slots = slots,
         .q_norm = q_norm,
         .k_norm = k_norm,
         .norm_eps = 1e-6f,
         .kv = {type, kv_k.data(), kv_v.data(), kBlocks, kv_heads, head_dim}});
  }
};

TEST(CudaRopeAppendKv, EqualsTheReferenceBitForBit) {
  Random random(2);
  uint64_t order = 0;
  for (const KvType type : kTypes) {
    for (const int32_t hd : {2, 8, 24, 64, 80, 128, 256}) {
      Rope actual(random, 5, 2, hd, type, false);
      Rope expected = actual;
      testing::SetCudaThreadOrder(order++);
      ASSERT_EQ(cuda::LaunchRopeAppendKv(actual.Args(), nullptr), cudaSuccess);
      expected.RunReference();
      EXPECT_THAT(actual.q, ContainerEq(expected.q)) << hd;
      EXPECT_THAT(actual.k, ContainerEq(expected.k)) << hd;
      EXPECT_EQ(actual.kv_k, expected.kv_k) << hd;
      EXPECT_EQ(actual.kv_v, expected.kv_v) << hd;
    }
  }
}

TEST(CudaRopeAppendKv, NormsAreCloseToTheReference) {
  constexpr double kEps = std::numeric_limits<float>::epsilon();
  Random random(3);
  for (const int32_t hd : {8, 80, 128}) {
    Rope actual(random, 3, 1, hd, KvType::kF16, true);
    Rope expected = actual;
    testing::SetCudaThreadOrder(5);
    ASSERT_EQ(cuda::LaunchRopeAppendKv(actual.Args(), nullptr), cudaSuccess);
    expected.RunReference();
    const auto expect_near = [&](const std::vector<float>& a, const std::vector<float>& e) {
      for (size_t i = 0; i < e.size(); ++i) {
        const size_t half = static_cast<size_t>(hd) / 2;
        const size_t pair = i / hd * hd + (i % hd + half) % hd;
        // A pair keeps its length; two sums of squares are off by a part of their terms each.
        ASSERT_NEAR(a[i], e[i], (hd / 2 + 20) * kEps * std::hypot(e[i], e[pair])) << hd;
      }
    };
    expect_near(actual.q, expected.q);
    expect_near(actual.k, expected.k);
    EXPECT_EQ(actual.kv_v, expected.kv_v);
  }
}

// Ties, carries, subnormal halves, what is too large or not a number.
TEST(CudaRopeAppendKv, RoundsSpecialValuesAsTheReference) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Random random(4);
  for (const KvType type : kTypes) {
    Rope actual(random, 1, 1, 16, type, false);
    // Ties of int8, and of e4m3, whose largest magnitude makes the scale 1.
    const std::vector<float> ties =
        type == KvType::kF8
            ? std::vector<float>{448,     -432,     1.0625f,   1.1875f,   -1.0625f,
                                 17,      0x1p-10f, -0x3p-10f, 0x1.ep-7f, 0x1p-6f - 0x1p-20f,
                                 0x1p-6f, 464,      0x1.fp-7f, 1e-6f,     -447.9999f,
                                 240}
            : std::vector<float>{127,    -126.5f, 0.5f, 1.5f, 2.5f, -2.5f, -0.5f, -127,
                                 126.5f, 1,       2,    3,    4,    5,     6,     7};
    const std::vector<std::vector<float>> rows = {
        {0.0f, -0.0f, 1.0f + 0x1p-11f, 1.0f + 0x3p-11f, 2.0f - 0x1p-12f, 65504.0f, -65519.0f, 1e9f,
         0x1p-14f - 0x1p-25f, 0x1p-24f, 0x1p-25f, -0x3p-25f, 1e-40f, 65520.0f, -1e30f, 3.0f},
        ties,
        {1e-6f, -1e-7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4e-6f},
        {kInfinity, -kInfinity, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}};
    actual.v.clear();
    for (const auto& row : rows) actual.v.insert(actual.v.end(), row.begin(), row.end());
    if (type != KvType::kF16) actual.v[20] = std::numeric_limits<float>::quiet_NaN();
    Rope expected = actual;
    ASSERT_EQ(cuda::LaunchRopeAppendKv(actual.Args(), nullptr), cudaSuccess);
    expected.RunReference();
    EXPECT_EQ(actual.kv_v, expected.kv_v);
  }
}

// Every tie between two e4m3 numbers and the floats beside it, and as many of bfloat16.
TEST(CudaRopeAppendKv, RoundsToSmallFloatsAsTheReference) {
  Random random(8);
  for (const KvType type : {KvType::kBf16, KvType::kF8}) {
    Rope actual(random, 1, 1, 256, type, false);
    size_t next = 0;
    for (int code = 0; code < 0x7e; ++code) {
      const float tie = type == KvType::kF8
                            ? (E4m3ToFloat(static_cast<uint8_t>(code)) +
                               E4m3ToFloat(static_cast<uint8_t>(code + 1))) /
                                  2
                            : std::bit_cast<float>(static_cast<uint32_t>(code) << 24 | 0x7f8000);
      for (const float x : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, 1e9f),
                            -std::nextafter(tie, 1e9f), -tie}) {
        // Beginning with what makes the scale 1.
        if (next % 256 == 0) actual.v[next++] = kLargestE4m3;
        actual.v[next++] = x;
      }
    }
    ASSERT_LE(next, actual.v.size());
    std::fill(actual.v.begin() + static_cast<int64_t>(next), actual.v.end(), kLargestE4m3);
    Rope expected = actual;
    ASSERT_EQ(cuda::LaunchRopeAppendKv(actual.Args(), nullptr), cudaSuccess);
    expected.RunReference();
    EXPECT_EQ(actual.kv_v, expected.kv_v) << KvTypeName(type);
  }
}

TEST(CudaRopeAppendKv, PaddingIsLeftAlone) {
  Random random(5);
  for (const KvType type : kTypes) {
    Rope actual(random, 2, 2, 24, type, false);
    actual.slots = {-1, -1, -1, -1};
    const Rope before = actual;
    ASSERT_EQ(cuda::LaunchRopeAppendKv(actual.Args(), nullptr), cudaSuccess);
    EXPECT_EQ(actual.q, before.q);
    EXPECT_EQ(actual.k, before.k);
    EXPECT_EQ(actual.kv_k, before.kv_k);
    EXPECT_EQ(actual.kv_v, before.kv_v);
  }
}

TEST(CudaRopeAppendKv, RefusesWhatItCannotDo) {
  Random random(6);
  Rope rope(random, 2, 1, 24, KvType::kF16, false);
  cuda::RopeAppendKvArgs args = rope.Args();
  args.type = KvType::kFull;
  EXPECT_EQ(cuda::LaunchRopeAppendKv(args, nullptr), cudaErrorInvalidValue);
  args = rope.Args();
  args.head_dim = 258;
  EXPECT_EQ(cuda::LaunchRopeAppendKv(args, nullptr), cudaErrorInvalidValue);
}

TEST(CudaRopeGatherRows, TakesTheRowsThatAreNamed) {
  Random random(7);
  const std::vector<int32_t> rows = {4, 0, 4, 2};
  for (const int64_t cols : {1, 31, 300}) {
    const std::vector<float> x = RandomFloats(random, 5 * cols);
    std::vector<float> y(rows.size() * static_cast<size_t>(cols), -7.0f);
    std::vector<float> expected = y;
    CreateReferenceOps<float>()->GatherRows(
        {.x = ConstView(x, 5), .rows = rows, .y = View(expected, 4)});
    ASSERT_EQ(cuda::LaunchGatherRows({.x = x.data(),
                                      .rows = rows.data(),
                                      .num_rows = 4,
                                      .cols = static_cast<int32_t>(cols),
                                      .y = y.data()},
                                     nullptr),
              cudaSuccess);
    EXPECT_THAT(y, ContainerEq(expected));
  }
}

}  // namespace
}  // namespace sterna
