// RopeAppendKv and PagedAttention of every CPU level against the reference in double, and of the
// reference against what the cache's types are by definition.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/bfloat16.h"
#include "kernels/float8.h"
#include "kernels/half_float.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::ConstView;
using testing::Random;
using testing::RandomFloats;
using testing::View;

constexpr double kEps = std::numeric_limits<float>::epsilon();

constexpr KvType kCpuKvTypes[] = {KvType::kFull, KvType::kF16, KvType::kI8};

// How the cache holds a vector, by definition: bytes, the numbers that they are, and where there is
// one a scale.
template <typename F>
struct Stored {
  std::vector<uint8_t> bytes;
  std::vector<F> numbers;
  float scale = 0;

  Stored(KvType type, std::span<const F> x) {
    const auto append = [this](auto value) {
      const auto* p = reinterpret_cast<const uint8_t*>(&value);
      bytes.insert(bytes.end(), p, p + sizeof(value));
    };
    F absmax = F(1e-5f);
    for (const F value : x) absmax = std::max(absmax, std::abs(value));
    const F s = (type == KvType::kF8 ? F(448) : F(127)) / absmax;
    if (KvView<F>::HasScales(type)) scale = static_cast<float>(1 / s);
    for (const F value : x) {
      switch (type) {
        case KvType::kFull:
          append(value);
          numbers.push_back(value);
          break;
        case KvType::kF16:
          append(FloatToHalf(static_cast<float>(value)));
          numbers.push_back(HalfToFloat(FloatToHalf(static_cast<float>(value))));
          break;
        case KvType::kBf16:
          append(FloatToBf16(static_cast<float>(value)));
          numbers.push_back(Bf16ToFloat(FloatToBf16(static_cast<float>(value))));
          break;
        case KvType::kI8:
          append(static_cast<int8_t>(std::nearbyint(value * s)));
          numbers.push_back(std::nearbyint(value * s) * F(scale));
          break;
        case KvType::kF8:
          append(FloatToE4m3(static_cast<float>(value * s)));
          numbers.push_back(E4m3ToFloat(FloatToE4m3(static_cast<float>(value * s))) * F(scale));
          break;
      }
    }
  }
};

template <typename F>
struct Cache {
  std::vector<std::byte> k, v;
  KvView<F> view;

  // All NaN, whatever the type.
  Cache(KvType type, int64_t blocks, int64_t kv_heads, int64_t head_dim)
      : k(blocks * kv_heads * KvView<F>::HeadBlockBytes(type, head_dim), std::byte{0xff}), v(k) {
    view = {type, k.data(), v.data(), blocks, kv_heads, head_dim};
  }
  Cache(const Cache&) = delete;
  Cache& operator=(const Cache&) = delete;

  // Stores x [head_dim] in `data`, k or v; of floats, so that every F stores the same.
  void Put(const float* x, std::vector<std::byte>& data, int64_t slot, int64_t head) {
    const std::span<const float> floats(x, view.head_dim);
    const Stored<float> rounded(view.type, floats);
    const Stored<F> full(view.type, std::vector<F>(floats.begin(), floats.end()));
    const auto& bytes = view.type == KvType::kFull ? full.bytes : rounded.bytes;
    std::memcpy(data.data() + view.Offset(slot, head), bytes.data(), bytes.size());
    if (view.HasScales(view.type)) {
      std::memcpy(data.data() + view.ScaleOffset(slot, head), &rounded.scale, sizeof(float));
    }
  }
  void ExpectHolds(const Stored<F>& x, const std::vector<std::byte>& data, int64_t slot,
                   int64_t head) const {
    EXPECT_EQ(std::memcmp(data.data() + view.Offset(slot, head), x.bytes.data(), x.bytes.size()), 0)
        << "slot " << slot << " head " << head;
    if (view.HasScales(view.type)) {
      float scale;
      std::memcpy(&scale, data.data() + view.ScaleOffset(slot, head), sizeof(scale));
      EXPECT_EQ(scale, x.scale) << "slot " << slot << " head " << head;
    }
  }
};

// Sequences of different lengths, their last tokens to be attended in one call. Where the second
// begins, its positions go on from the first's.
struct Problem {
  int64_t heads, kv_heads, head_dim;
  std::vector<int32_t> lengths = {1, 6, 16, 77};
  std::vector<int32_t> positions, sequence;
  std::vector<float> keys, values;  // [sequence][position][kv_heads * head_dim]
  std::vector<float> q;

  Problem(Random& random, int64_t heads, int64_t kv_heads, int64_t head_dim)
      : heads(heads), kv_heads(kv_heads), head_dim(head_dim) {
    const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    keys = RandomFloats(random, total * kv_heads * head_dim);
    values = RandomFloats(random, total * kv_heads * head_dim);
    for (int32_t s = 0; s < std::ssize(lengths); ++s) {
      for (int32_t p = std::max(0, lengths[s] - 5); p < lengths[s]; ++p) {
        positions.push_back(p);
        sequence.push_back(s);
      }
    }
    q = RandomFloats(random, tokens() * heads * head_dim);
  }
  int64_t tokens() const { return std::ssize(positions); }
};

// Block tables that hand out the physical blocks in the order given.
std::vector<int32_t> Tables(const Problem& problem, const std::vector<int32_t>& order) {
  std::vector<int32_t> tables(problem.lengths.size() * 5, -1);
  size_t next = 0;
  for (int64_t s = 0; s < std::ssize(problem.lengths); ++s) {
    for (int64_t b = 0; b < CeilDiv(problem.lengths[s], kKvBlockTokens); ++b) {
      tables[s * 5 + b] = order[next++];
    }
  }
  return tables;
}

template <typename F>
std::vector<F> Attend(Ops<F>& ops, const Problem& problem, const std::vector<int32_t>& tables,
                      int32_t window, KvType type = KvType::kFull) {
  Cache<F> cache(type, 8, problem.kv_heads, problem.head_dim);
  int64_t token = 0;
  for (int64_t s = 0; s < std::ssize(problem.lengths); ++s) {
    for (int32_t p = 0; p < problem.lengths[s]; ++p, ++token) {
      const int64_t slot = tables[s * 5 + p / kKvBlockTokens] * kKvBlockTokens + p % kKvBlockTokens;
      for (int64_t h = 0; h < problem.kv_heads; ++h) {
        const int64_t from = (token * problem.kv_heads + h) * problem.head_dim;
        cache.Put(&problem.keys[from], cache.k, slot, h);
        cache.Put(&problem.values[from], cache.v, slot, h);
      }
    }
  }
  const std::vector<F> q(problem.q.begin(), problem.q.end());
  std::vector<F> o(q.size(), F(-7));
  ops.PagedAttention({.q = ConstView(q, problem.tokens()),
                      .kv = cache.view,
                      .positions = problem.positions,
                      .sequence = problem.sequence,
                      .block_tables = ConstView(tables, std::ssize(problem.lengths)),
                      .scale = F(1) / std::sqrt(F(problem.head_dim)),
                      .window = window,
                      .o = View(o, problem.tokens())});
  return o;
}

// The numbers that a cache of this type would hold of x, vectors of head_dim.
std::vector<float> Rounded(KvType type, const std::vector<float>& x, int64_t head_dim) {
  std::vector<float> all;
  for (auto i = x.begin(); i < x.end(); i += head_dim) {
    const std::vector<float> numbers = Stored<float>(type, std::span(i, head_dim)).numbers;
    all.insert(all.end(), numbers.begin(), numbers.end());
  }
  return all;
}

struct Shape {
  int64_t heads, kv_heads, head_dim;
};

constexpr Shape kShapes[] = {{4, 4, 64}, {8, 2, 128}, {20, 5, 80}, {3, 1, 6}, {34, 2, 20}};

TEST(PagedAttention, IsCloseToTheDoubleReference) {
  for (const std::string& level : CpuIsaLevels()) {
    auto ops = testing::CpuOps(level, 2);
    Random random(5);
    for (const Shape& shape : kShapes) {
      const Problem problem(random, shape.heads, shape.kv_heads, shape.head_dim);
      const std::vector<int32_t> tables = Tables(problem, {0, 1, 2, 3, 4, 5, 6, 7});
      for (const auto& [window, type] :
           {std::pair(0, KvType::kFull), std::pair(1, KvType::kFull), std::pair(16, KvType::kFull),
            std::pair(33, KvType::kFull), std::pair(0, KvType::kF16), std::pair(33, KvType::kF16),
            std::pair(0, KvType::kI8), std::pair(33, KvType::kI8)}) {
        const std::vector<double> expected =
            Attend(*CreateReferenceOps<double>(), problem, tables, window, type);
        const std::vector<float> actual = Attend(*ops, problem, tables, window, type);
        // An error of a score is a relative error of its weight. |q . k| is taken at its largest
        // over all vectors; the weighted mean of v adds the roundings of at most 77 positions.
        const double hd = static_cast<double>(shape.head_dim);
        auto largest = [](const std::vector<float>& x) {
          return std::abs(*std::max_element(
              x.begin(), x.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
        };
        const double score = 4 * 4 * std::sqrt(hd);  // 4 deviations of the values, over sqrt(hd)
        const double bound = ((hd / 4 + 8) * score + 77 + 32) * kEps * largest(problem.values);
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR(actual[i], expected[i], bound) << level << " window " << window << " " << i;
        }
      }
    }
  }
}

// The oracle reads every type as numbers: the same as from a cache of floats that holds them.
TEST(PagedAttention, TheReferenceReadsWhatTheTypesAre) {
  Random random(15);
  const auto ops = CreateReferenceOps<float>();
  for (const Shape& shape : kShapes) {
    const Problem problem(random, shape.heads, shape.kv_heads, shape.head_dim);
    const std::vector<int32_t> tables = Tables(problem, {4, 1, 7, 0, 2, 6, 3, 5});
    for (const KvType type : kKvTypes) {
      Problem rounded = problem;
      rounded.keys = Rounded(type, problem.keys, shape.head_dim);
      rounded.values = Rounded(type, problem.values, shape.head_dim);
      EXPECT_EQ(Attend(*ops, problem, tables, 33, type), Attend(*ops, rounded, tables, 33))
          << KvTypeName(type);
    }
  }
}

TEST(PagedAttention, ShuffledBlocksGiveTheSameBits) {
  for (const std::string& level : CpuIsaLevels()) {
    auto ops = testing::CpuOps(level, 2);
    Random random(6);
    for (const Shape& shape : kShapes) {
      const Problem problem(random, shape.heads, shape.kv_heads, shape.head_dim);
      for (const KvType type : kCpuKvTypes) {
        const std::vector<float> contiguous =
            Attend(*ops, problem, Tables(problem, {0, 1, 2, 3, 4, 5, 6, 7}), 0, type);
        const std::vector<float> shuffled =
            Attend(*ops, problem, Tables(problem, {5, 7, 2, 0, 6, 3, 1, 4}), 0, type);
        EXPECT_EQ(contiguous, shuffled) << level;
      }
    }
  }
}

TEST(PagedAttention, AWindowSeesOnlyItsPositions) {
  const int64_t width = 2 * 32;
  auto ops = testing::CpuOps("auto");
  Random random(7);
  Problem problem(random, 4, 2, 32);
  const std::vector<int32_t> tables = Tables(problem, {0, 1, 2, 3, 4, 5, 6, 7});
  for (const KvType type : kCpuKvTypes) {
    Problem changed = problem;
    // The last sequence's first 50 positions: outside of the windows of positions 72 to 76.
    std::fill_n(changed.keys.begin() + (1 + 6 + 16) * width, 50 * width, 1e3f);
    const std::vector<float> before = Attend(*ops, problem, tables, 20, type);
    EXPECT_EQ(Attend(*ops, changed, tables, 20, type), before);
    EXPECT_NE(Attend(*ops, changed, tables, 0, type), before);
  }
  // A window of one position returns that position's value.
  const std::vector<float> own = Attend(*ops, problem, tables, 1);
  const int64_t last = problem.tokens() - 1;
  for (int64_t i = 0; i < 32; ++i) {
    EXPECT_EQ(own[last * 4 * 32 + i], problem.values[(1 + 6 + 16 + 76) * width + i]);
  }
}

template <typename F>
struct Roped {
  std::vector<F> q, k;
};

template <typename F>
Roped<F> RunRope(Ops<F>& ops, const std::vector<float>& q, const std::vector<float>& k,
                 const std::vector<float>& v, const std::vector<float>& angles,
                 std::span<const float> norm, int64_t head_dim, KvType type) {
  const std::vector<int32_t> slots = {31, 0, 17};
  Roped<F> out = {{q.begin(), q.end()}, {k.begin(), k.end()}};
  const std::vector<F> values(v.begin(), v.end());
  std::vector<F> cos, sin;
  for (float angle : angles) {
    cos.push_back(std::cos(angle));  // of a float angle in float: the same inputs for both
    sin.push_back(std::sin(angle));
  }
  Cache<F> cache(type, 2, 2, head_dim);
  ops.RopeAppendKv({.q = View(out.q, 3),
                    .k = View(out.k, 3),
                    .v = ConstView(values, 3),
                    .cos = ConstView(cos, 3),
                    .sin = ConstView(sin, 3),
                    .slots = slots,
                    .q_norm = norm,
                    .k_norm = norm,
                    .norm_eps = F(1e-6f),
                    .kv = cache.view});
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t h = 0; h < 2; ++h) {
      const auto stored = [&](const std::vector<F>& x) {
        return Stored<F>(type, {&x[(t * 2 + h) * head_dim], static_cast<size_t>(head_dim)});
      };
      cache.ExpectHolds(stored(out.k), cache.k, slots[t], h);
      cache.ExpectHolds(stored(values), cache.v, slots[t], h);
    }
  }
  return out;
}

TEST(RopeAppendKv, RotatesNormsAndStores) {
  for (const std::string& level : CpuIsaLevels()) {
    auto ops = testing::CpuOps(level);
    auto reference = CreateReferenceOps<double>();
    Random random(8);
    for (const int64_t hd : {2, 20, 64, 128}) {
      const std::vector<float> q = RandomFloats(random, 3 * 6 * hd);
      const std::vector<float> k = RandomFloats(random, 3 * 2 * hd);
      const std::vector<float> v = RandomFloats(random, 3 * 2 * hd);
      const std::vector<float> angles = RandomFloats(random, 3 * hd / 2, 2.0f);
      const std::vector<float> weight = RandomFloats(random, hd);
      for (const auto& [with_norm, type] :
           {std::pair(false, KvType::kFull), std::pair(true, KvType::kF16),
            std::pair(false, KvType::kI8)}) {
        const std::span<const float> norm = with_norm ? std::span(weight) : std::span<float>();
        const Roped<float> actual = RunRope(*ops, q, k, v, angles, norm, hd, type);
        const Roped<double> expected = RunRope(*reference, q, k, v, angles, norm, hd, type);
        // A pair keeps its length, so that bounds the error; the norm adds that of a sum.
        const double relative = (with_norm ? static_cast<double>(hd) / 4 + 20 : 4) * kEps;
        for (size_t i = 0; i < q.size(); ++i) {
          const size_t pair = i / hd * hd + (i % hd + hd / 2) % hd;
          const double length = std::hypot(expected.q[i], expected.q[pair]);
          ASSERT_NEAR(actual.q[i], expected.q[i], relative * length) << level;
        }
        for (size_t i = 0; i < k.size(); ++i) {
          const size_t pair = i / hd * hd + (i % hd + hd / 2) % hd;
          const double length = std::hypot(expected.k[i], expected.k[pair]);
          ASSERT_NEAR(actual.k[i], expected.k[i], relative * length) << level;
        }
      }
    }
  }
}

// The reference stores every type by its definition, in either float.
TEST(RopeAppendKv, TheReferenceStoresEveryType) {
  Random random(16);
  for (const int64_t hd : {2, 20, 128}) {
    const std::vector<float> q = RandomFloats(random, 3 * 2 * hd);
    const std::vector<float> k = RandomFloats(random, 3 * 2 * hd);
    const std::vector<float> v = RandomFloats(random, 3 * 2 * hd, 1e4f);
    const std::vector<float> angles = RandomFloats(random, 3 * hd / 2, 2.0f);
    for (const KvType type : kKvTypes) {
      RunRope(*CreateReferenceOps<float>(), q, k, v, angles, {}, hd, type);
      RunRope(*CreateReferenceOps<double>(), q, k, v, angles, {}, hd, type);
    }
  }
}

// Has RopeAppendKv store v as the value of the fourth token, in a cache of one head.
void AppendAtSlot3(Ops<float>& ops, const std::vector<float>& v, Cache<float>& cache) {
  std::vector<float> q(v.size()), k(v.size()), cos(v.size() / 2), sin(v.size() / 2);
  const std::vector<int32_t> slots = {3};
  ops.RopeAppendKv({.q = View(q, 1),
                    .k = View(k, 1),
                    .v = ConstView(v, 1),
                    .cos = ConstView(cos, 1),
                    .sin = ConstView(sin, 1),
                    .slots = slots,
                    .norm_eps = 1e-6f,
                    .kv = cache.view});
}

// Ties, carries into the exponent, subnormal halves, what is too large, infinities and NaNs: as
// FloatToHalf rounds, whose own ties and specials are spelled out.
TEST(RopeAppendKv, RoundsToHalf) {
  const std::pair<float, uint16_t> spelled_out[] = {
      {0.0f, 0},
      {-0.0f, 0x8000},
      {1.0f, 0x3c00},
      {1.0f + 0x1p-11f, 0x3c00},  // a tie, to even
      {1.0f + 0x3p-11f, 0x3c02},  // a tie, to even
      {1.0f + 0x1p-11f + 0x1p-23f, 0x3c01},
      {2.0f - 0x1p-12f, 0x4000},  // carries into the exponent
      {65504.0f, 0x7bff},
      {-65519.0f, 0xfbff},
      {1e9f, 0x7bff},
      {-std::numeric_limits<float>::infinity(), 0xfbff},
      {std::bit_cast<float>(0xff800001), 0xfe00},  // NaN
      {0x1p-14f, 0x0400},                          // the smallest normal half
      {0x1p-14f - 0x1p-25f, 0x0400},               // a tie, to even, out of the subnormal ones
      {0x1p-24f, 0x0001},
      {0x1p-25f, 0x0000},  // a tie, to even
      {-0x3p-25f, 0x8002},
      {1e-40f, 0},
  };
  std::vector<float> v;
  for (const auto& [x, half] : spelled_out) {
    EXPECT_EQ(FloatToHalf(x), half) << x;
    v.push_back(x);
  }
  for (uint32_t half = 0; half < 0x10000; ++half) {
    if ((half & 0x7fff) > 0x7bff) continue;
    ASSERT_EQ(FloatToHalf(HalfToFloat(static_cast<uint16_t>(half))), half);
  }
  Random random(9);
  for (const float x : RandomFloats(random, 52)) v.push_back(x);
  const auto hd = static_cast<int64_t>(v.size());  // 70: no multiple of any register
  for (const std::string& level : CpuIsaLevels()) {
    Cache<float> cache(KvType::kF16, 1, 1, hd);
    AppendAtSlot3(*testing::CpuOps(level), v, cache);
    const auto* stored = reinterpret_cast<const uint16_t*>(cache.v.data());
    for (int64_t i = 0; i < hd; ++i) {
      if (v[i] == v[i]) {
        EXPECT_EQ(stored[3 * hd + i], FloatToHalf(v[i])) << level << " " << v[i];
      } else {
        EXPECT_GT(stored[3 * hd + i] & 0x7fff, 0x7c00) << level;
      }
    }
    EXPECT_EQ(stored[4 * hd], 0xffff) << level << " wrote past its vector";
    EXPECT_EQ(stored[3 * hd - 1], 0xffff) << level << " wrote before its vector";
  }
}

// Stores v, four numbers, by `ops` in a cache of bytes: expects these codes and this scale, and
// nothing else to be written.
void ExpectCodes(Ops<float>& ops, KvType type, const std::vector<float>& v,
                 const std::vector<uint8_t>& codes, float scale) {
  Cache<float> cache(type, 1, 1, 4);
  AppendAtSlot3(ops, v, cache);
  const auto* stored = reinterpret_cast<const uint8_t*>(cache.v.data());
  EXPECT_EQ(std::vector<uint8_t>(stored + 12, stored + 16), codes) << ops.Name();
  float stored_scale;
  std::memcpy(&stored_scale, cache.v.data() + cache.view.ScaleOffset(3, 0), sizeof(float));
  EXPECT_FLOAT_EQ(stored_scale, scale) << ops.Name();
  std::vector<std::byte> rest = cache.v;
  std::fill_n(rest.begin() + 12, 4, std::byte{0xff});
  std::fill_n(rest.begin() + cache.view.ScaleOffset(3, 0), sizeof(float), std::byte{0xff});
  EXPECT_EQ(rest, std::vector<std::byte>(rest.size(), std::byte{0xff})) << ops.Name();
}

// What has no magnitude to scale by, the largest numbers, and ties, which go to even.
TEST(RopeAppendKv, RoundsToInt8) {
  for (const std::string& level : CpuIsaLevels()) {
    for (const auto& [v, q, scale] :
         {std::tuple(std::vector<float>{0, -0.0f, 0, 0}, std::vector<int8_t>{0, 0, 0, 0},
                     1e-5f / 127),
          std::tuple(std::vector<float>{1e-6f, -1e-7f, 0, 0}, std::vector<int8_t>{13, -1, 0, 0},
                     1e-5f / 127),
          std::tuple(std::vector<float>{127, -126.5f, 0.5f, 1.5f},
                     std::vector<int8_t>{127, -126, 0, 2}, 1.0f),
          std::tuple(std::vector<float>{-3e38f, 3e38f, 1, 0}, std::vector<int8_t>{-127, 127, 0, 0},
                     3e38f / 127)}) {
      ExpectCodes(*testing::CpuOps(level), KvType::kI8, v, {q.begin(), q.end()}, scale);
    }
  }
}

TEST(RopeAppendKv, TheReferenceRoundsToFp8) {
  const auto ops = CreateReferenceOps<float>();
  for (const auto& [v, codes, scale] :
       {std::tuple(std::vector<float>{0, -0.0f, 0, 0}, std::vector<uint8_t>{0, 0x80, 0, 0},
                   1e-5f / 448),
        std::tuple(std::vector<float>{448, -432, 0x1p-10f, 0x3p-10f},
                   std::vector<uint8_t>{0x7e, 0xfe, 0, 2}, 1.0f),
        std::tuple(std::vector<float>{-112, 0.25f, 0.25f + 0x1p-6f, 0x7p-8f},
                   std::vector<uint8_t>{0xfe, 0x38, 0x38, 0x1e}, 0.25f),
        std::tuple(std::vector<float>{-3e38f, 3e38f, 1, 0}, std::vector<uint8_t>{0xfe, 0x7e, 0, 0},
                   3e38f / 448)}) {
    ExpectCodes(*ops, KvType::kF8, v, codes, scale);
  }
}

}  // namespace
}  // namespace sterna
