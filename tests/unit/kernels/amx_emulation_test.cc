// The emulated tile instructions against their definitions (Intel SDM, volume 2), and what of the
// AMX level can only be seen with them.
#include "tests/testing/amx_emulation.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/kernel_testing.h"

#if defined(__x86_64__)
namespace sterna {
namespace {

using testing::Random;

// Tiles 0, 1, 2, ... of these {rows, bytes of a row}.
std::array<uint8_t, 64> Config(const std::vector<std::pair<int, int>>& shapes) {
  std::array<uint8_t, 64> config = {1};
  for (size_t i = 0; i < shapes.size(); ++i) {
    config[16 + 2 * i] = static_cast<uint8_t>(shapes[i].second);
    config[48 + i] = static_cast<uint8_t>(shapes[i].first);
  }
  return config;
}

void Configure(const std::vector<std::pair<int, int>>& shapes) {
  testing::TileLoadConfig(Config(shapes).data());
}

class AmxEmulation : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::ranges::count(CpuIsaLevels(), "avx512_vnni") == 0) {
      GTEST_SKIP() << "no AVX-512 VNNI, which the emulation is written in";
    }
  }
  void TearDown() override {
    if (!IsSkipped()) testing::TileRelease();
  }
};

// A product of tiles that are full in no dimension.
constexpr int kM = 5, kK = 7, kN = 9;

void ConfigureProduct() { Configure({{kM, 4 * kN}, {kM, 4 * kK}, {kK, 4 * kN}}); }

// What `product` makes of sums [kM, kN], a [kM, 4 * kK] and b [kK, 4 * kN].
template <typename T>
std::vector<T> AddProduct(void (*product)(int, int, int), std::vector<T> sums,
                          const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  ConfigureProduct();
  testing::TileLoad(0, sums.data(), 4 * kN);
  testing::TileLoad(1, a.data(), 4 * kK);
  testing::TileLoad(2, b.data(), 4 * kN);
  product(0, 1, 2);
  testing::TileStore(0, sums.data(), 4 * kN);
  return sums;
}

std::vector<uint8_t> RandomBytes(Random& random, int64_t n) {
  std::uniform_int_distribution<int> byte(0, 255);
  std::vector<uint8_t> bytes(static_cast<size_t>(n));
  for (uint8_t& value : bytes) value = static_cast<uint8_t>(byte(random));
  return bytes;
}

float WidenBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

TEST_F(AmxEmulation, TilesHoldTheRowsAndBytesConfigured) {
  Configure({{3, 20}, {16, 64}});
  Random random(1);
  const std::vector<uint8_t> from = RandomBytes(random, 16 * 70);
  std::vector<uint8_t> to(16 * 80, 0xee), expected = to;
  testing::TileLoad(0, from.data(), 70);
  testing::TileStore(0, to.data(), 80);
  for (int row = 0; row < 3; ++row) std::copy_n(&from[row * 70], 20, &expected[row * 80]);
  EXPECT_EQ(to, expected);
  testing::TileZero(0);
  testing::TileStore(0, to.data(), 80);
  for (int row = 0; row < 3; ++row) std::fill_n(&expected[row * 80], 20, 0);
  EXPECT_EQ(to, expected);
}

TEST_F(AmxEmulation, Int8ProductsAddUpAndWrap) {
  Random random(2);
  const std::vector<uint8_t> a = RandomBytes(random, kM * kK * 4),
                             b = RandomBytes(random, kK * kN * 4);
  std::vector<uint32_t> sums(kM * kN, 0x7fffff00);
  std::vector<uint32_t> expected = sums;
  for (int m = 0; m < kM; ++m) {
    for (int n = 0; n < kN; ++n) {
      for (int k = 0; k < 4 * kK; ++k) {
        const int product =
            static_cast<int8_t>(a[m * 4 * kK + k]) * b[k / 4 * 4 * kN + 4 * n + k % 4];
        expected[m * kN + n] += static_cast<uint32_t>(product);
      }
    }
  }
  EXPECT_EQ(AddProduct(testing::TileProductI8U8, sums, a, b), expected);
}

TEST_F(AmxEmulation, Bf16ProductsAddUpInTheOrderOfTheDefinition) {
  Random random(3);
  const std::vector<uint16_t> a = testing::ToBf16(testing::RandomFloats(random, kM * kK * 2));
  const std::vector<uint16_t> b = testing::ToBf16(testing::RandomFloats(random, kK * kN * 2));
  const std::vector<float> sums = testing::RandomFloats(random, kM * kN);
  std::vector<float> expected = sums;
  for (int m = 0; m < kM; ++m) {
    for (int n = 0; n < kN; ++n) {
      float parts[2] = {};
      for (int k = 0; k < 2 * kK; ++k) {
        parts[k % 2] = std::fma(WidenBf16(a[m * 2 * kK + k]),
                                WidenBf16(b[k / 2 * 2 * kN + 2 * n + k % 2]), parts[k % 2]);
      }
      expected[m * kN + n] += parts[0] + parts[1];
    }
  }
  const auto bytes = [](const std::vector<uint16_t>& values) {
    std::vector<uint8_t> out(2 * values.size());
    std::memcpy(out.data(), values.data(), out.size());
    return out;
  };
  EXPECT_EQ(AddProduct(testing::TileProductBf16, sums, bytes(a), bytes(b)), expected);
}

TEST_F(AmxEmulation, Bf16ProductsTakeDenormalsAsZero) {
  // Sum plus one product; 0x0040 is half of the smallest normal bf16, 2^-126.
  const auto product = [](float sum, uint16_t a, uint16_t b) {
    Configure({{1, 4}, {1, 4}, {1, 4}});
    const uint16_t pair_a[2] = {a, 0}, pair_b[2] = {b, 0};
    testing::TileLoad(0, &sum, 4);
    testing::TileLoad(1, pair_a, 4);
    testing::TileLoad(2, pair_b, 4);
    testing::TileProductBf16(0, 1, 2);
    testing::TileStore(0, &sum, 4);
    return sum;
  };
  const auto bf16 = [](float x) { return testing::ToBf16({x})[0]; };
  EXPECT_EQ(product(1.0f, 0x0080, bf16(0x1p126f)), 2.0f);
  EXPECT_EQ(product(1.0f, 0x0040, bf16(0x1p127f)), 1.0f);
  EXPECT_EQ(product(1.0f, bf16(0x1p127f), 0x0040), 1.0f);
  EXPECT_EQ(product(0x1p-127f, bf16(0x1p-126f), bf16(1.0f)), 0x1p-126f);
  EXPECT_EQ(product(0.0f, bf16(0x1p-100f), bf16(0x1p-27f)), 0.0f);
  volatile float smallest = 0x1p-126f;
  EXPECT_EQ(smallest / 2, 0x1p-127f) << "denormals are zero for others, too";
}

using AmxEmulationDeathTest = AmxEmulation;

TEST_F(AmxEmulationDeathTest, AbortsWhereAProcessorFaults) {
  using testing::TileLoadConfig;
  using testing::TileProductBf16;
  using testing::TileProductI8U8;
  using testing::TileZero;
  EXPECT_DEATH(TileZero(0), "TILEZERO: no configuration");
  ConfigureProduct();
  TileZero(2);
  EXPECT_DEATH(TileZero(3), "TILEZERO: the configuration gives the tile no rows");
  EXPECT_DEATH(TileZero(8), "TILEZERO: there is no such tile");
  EXPECT_DEATH(TileProductI8U8(0, 1, 1), "TDPBSUD: a tile is named twice");
  EXPECT_DEATH(TileProductI8U8(2, 1, 0), "TDPBSUD: sums and first factor differ in rows");
  EXPECT_DEATH(TileProductBf16(1, 0, 2), "TDPBF16PS: sums and second factor differ in columns");
  Configure({{kM, 4 * kN}, {kM, 4 * kK}, {kK + 1, 4 * kN}});
  EXPECT_DEATH(TileProductBf16(0, 1, 2), "TDPBF16PS: the factors' inner dimensions differ");
  Configure({{kM, 4 * kN}, {kM, 4 * kK + 1}, {kK, 4 * kN}});
  EXPECT_DEATH(TileProductI8U8(0, 1, 2), "TDPBSUD: a row is no whole number of dwords");
  auto config = Config({{16, 64}});
  config[0] = 2;
  EXPECT_DEATH(TileLoadConfig(config.data()), "LDTILECFG: there is no such palette");
  EXPECT_DEATH(Configure({{17, 64}}), "LDTILECFG: a tile is too large");
  EXPECT_DEATH(Configure({{16, 0}}), "LDTILECFG: a tile has rows or columns only");
  config[0] = 0;  // as tilerelease
  TileLoadConfig(config.data());
  EXPECT_DEATH(TileZero(0), "TILEZERO: no configuration");
}

// Tiles left in use would be saved at every context switch.
TEST_F(AmxEmulation, ProductsReleaseTheirTiles) {
  constexpr int64_t kTokens = 40, kRows = 100, kCols = 130;
  Random random(4);
  const auto ops = testing::CpuOps(testing::kAmxEmulated);  // on this thread
  const TernaryMatrix ternary = testing::RandomTernary(random, kRows, kCols);
  testing::Quantized<float> q(kTokens, kCols);
  testing::FillRandom(random, q);
  const std::vector<float> w = testing::RandomFloats(random, kRows * kCols);
  const std::vector<float> x = testing::RandomFloats(random, kTokens * kCols);
  std::vector<float> y(kTokens * kRows);
  // A product that used no tiles would not release these.
  Configure({{16, 64}});
  ops->TernaryLinear({.q = q.mat, .w = &ternary, .y = testing::View(y, kTokens)});
  EXPECT_FALSE(testing::TilesAreConfigured());
  const testing::DenseTiles bf16(testing::ToBf16(w), kRows, kCols), int8(w, kRows, kCols);
  for (const testing::DenseTiles* tiles : {&bf16, &int8}) {
    Configure({{16, 64}});
    ops->DenseLinear(
        {.x = testing::ConstView(x, kTokens), .w = tiles->view(), .y = testing::View(y, kTokens)});
    EXPECT_FALSE(testing::TilesAreConfigured());
  }
}

}  // namespace
}  // namespace sterna
#endif
