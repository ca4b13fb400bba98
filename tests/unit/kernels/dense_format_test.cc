#include "kernels/dense_format.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

TEST(DenseFormatTest, TilesLieAsDrawn) {
  constexpr int64_t kRows = 17, kCols = 33;  // two by two tiles, three of them nearly empty
  std::vector<uint16_t> values(kRows * kCols);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i + 1);
  const testing::DenseTiles tiles(values, kRows, kCols);
  ASSERT_EQ(tiles.view().bytes(), 4 * 1024);
  const auto* data = static_cast<const uint16_t*>(tiles.view().data);
  for (int64_t tile = 0; tile < 4; ++tile) {
    for (int64_t p = 0; p < 16; ++p) {
      for (int64_t r = 0; r < 16; ++r) {
        for (int64_t half = 0; half < 2; ++half) {
          const int64_t row = tile / 2 * 16 + r, col = tile % 2 * 32 + 2 * p + half;
          const bool there = row < kRows && col < kCols;
          EXPECT_EQ(data[((tile * 16 + p) * 16 + r) * 2 + half],
                    there ? values[static_cast<size_t>(row * kCols + col)] : 0)
              << row << " " << col;
        }
      }
    }
  }
}

TEST(DenseFormatTest, EveryLayoutGivesItsRowsBack) {
  constexpr int64_t kRows = 35, kCols = 71;
  testing::Random random(1);
  const std::vector<uint16_t> bf16 = testing::ToBf16(testing::RandomFloats(random, kRows * kCols));
  std::vector<float> f32(bf16.size());
  for (size_t i = 0; i < bf16.size(); ++i) {
    f32[i] = std::bit_cast<float>(static_cast<uint32_t>(bf16[i]) << 16);
  }
  const testing::DenseTiles tiles(bf16, kRows, kCols);
  for (const DenseMatrix& m : {testing::DenseRows(f32, kRows, kCols),
                               testing::DenseRows(bf16, kRows, kCols), tiles.view()}) {
    std::vector<float> copy(f32.size());
    for (int64_t r = 0; r < kRows; ++r) m.CopyRow(r, &copy[static_cast<size_t>(r * kCols)]);
    EXPECT_EQ(copy, f32);
  }
}

TEST(DenseFormatTest, Int8TilesLieAsDrawn) {
  constexpr int64_t kRows = 17, kCols = 65;  // two by two tiles
  std::vector<float> values(kRows * kCols);
  // Row r is (-127 .. 127) * (r + 1), so that its scale is r + 1 and nothing is rounded.
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    const int64_t code = i % kCols == 0 ? 127 : i * 13 % 255 - 127;
    values[static_cast<size_t>(i)] = static_cast<float>(code * (i / kCols + 1));
  }
  const testing::DenseTiles tiles(values, kRows, kCols);
  ASSERT_EQ(tiles.view().data_bytes(), 4 * 1024);
  EXPECT_EQ(tiles.view().bytes(), 4 * 1024 + kRows * 4);
  const auto* high = static_cast<const uint8_t*>(tiles.view().data);
  const uint8_t* low = high + tiles.view().low_bits_offset();
  ASSERT_EQ(tiles.view().low_bits_offset(), 3 * 1024);
  const auto bits = [](uint8_t byte, int64_t first, int count) {
    return byte >> first & ((1 << count) - 1);
  };
  for (int64_t tile = 0; tile < 4; ++tile) {
    for (int64_t r = 0; r < 16; ++r) {
      for (int64_t in_tile = 0; in_tile < 64; ++in_tile) {
        const int64_t group = tile * 4 + in_tile / 16, j = in_tile % 16 / 4;
        const int64_t byte = r * 4 + in_tile % 4;
        const auto line = [&](int64_t i) { return high[(group * 3 + i) * 64 + byte]; };
        int code = bits(low[group * 64 + byte], 2 * j, 2);
        if (j < 3) {
          code += bits(line(j), 2, 6) << 2;
        } else {
          for (int i = 0; i < 3; ++i) code += bits(line(i), 0, 2) << (6 - 2 * i);
        }
        const int64_t row = tile / 2 * 16 + r, col = tile % 2 * 64 + in_tile;
        const bool there = row < kRows && col < kCols;
        const auto expected =
            there ? values[static_cast<size_t>(row * kCols + col)] / static_cast<float>(row + 1)
                  : -128.0f;
        EXPECT_EQ(static_cast<float>(code) - 128.0f, expected) << row << " " << col;
      }
    }
  }
  std::vector<float> copy(kCols);
  for (int64_t r = 0; r < kRows; ++r) {
    EXPECT_EQ(tiles.view().scales[r], static_cast<float>(r + 1));
    tiles.view().CopyRow(r, copy.data());
    EXPECT_EQ(copy,
              std::vector<float>(values.begin() + r * kCols, values.begin() + (r + 1) * kCols));
  }
}

TEST(DenseFormatTest, Int6IsTheMiddleOfTheInt8ThatHaveItsBits) {
  constexpr int64_t kRows = 18, kCols = 255;  // codes 1 .. 255
  std::vector<float> values(kRows * kCols);
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    values[static_cast<size_t>(i)] = static_cast<float>(i % kCols - 127);
  }
  const testing::DenseTiles tiles(values, kRows, kCols);
  const DenseMatrix int6 = tiles.view().HighBits();
  EXPECT_EQ(int6.data_bytes(), tiles.view().low_bits_offset());
  std::vector<float> copy(kCols);
  for (int64_t r = 0; r < kRows; ++r) {
    int6.CopyRow(r, copy.data());
    for (int64_t c = 0; c < kCols; ++c) {
      EXPECT_EQ(copy[static_cast<size_t>(c)], static_cast<float>((c + 1) / 4 * 4) + 1.5f - 128.0f);
    }
  }
}

TEST(DenseFormatTest, TheLargestMagnitudeIsFoundWhereverItIs) {
  EXPECT_EQ(LargestMagnitude({}), 0.0f);
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (size_t n = 1; n <= 2 * kRowLanes + 3; ++n) {
    for (size_t i = 0; i < n; ++i) {
      std::vector<float> values(n, 0.5f);
      values[i] = -3.0f;
      EXPECT_EQ(LargestMagnitude(values), 3.0f) << n << " " << i;
      values[n - 1 - i] = -kInf;
      EXPECT_EQ(LargestMagnitude(values), kInf) << n << " " << i;
      values[i] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_TRUE(std::isnan(LargestMagnitude(values))) << n << " " << i;
    }
  }
}

TEST(DenseFormatTest, Int8RoundsToTheNearestStepOfItsRow) {
  constexpr int64_t kRows = 4, kCols = 200;
  testing::Random random(1);
  std::vector<float> values = testing::RandomFloats(random, kRows * kCols);
  std::fill_n(values.begin() + kCols, kCols, 0.0f);
  for (int64_t i = 0; i < kCols; ++i) values[static_cast<size_t>(2 * kCols + i)] *= 1e-44f;
  const testing::DenseTiles tiles(values, kRows, kCols);
  EXPECT_EQ(tiles.view().scales[1], 0.0f);
  for (int64_t r = 0; r < kRows; ++r) {
    std::vector<float> copy(kCols);
    tiles.view().CopyRow(r, copy.data());
    // A denormal scale is itself rounded, by at most half of the smallest number.
    const float step = tiles.view().scales[r] * 0.50001f + 127 * 1e-45f;
    for (int64_t c = 0; c < kCols; ++c) {
      EXPECT_NEAR(copy[static_cast<size_t>(c)], values[static_cast<size_t>(r * kCols + c)], step);
    }
  }
}

}  // namespace
}  // namespace sterna
