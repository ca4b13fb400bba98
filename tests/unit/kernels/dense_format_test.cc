#include "kernels/dense_format.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

TEST(DenseFormatTest, TilesLieAsDrawn) {
  constexpr int64_t kRows = 17, kCols = 33;  // two by two tiles, three of them nearly empty
  std::vector<uint16_t> values(kRows * kCols);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint16_t>(i + 1);
  const testing::DenseTiles tiles(values, kRows, kCols);
  ASSERT_EQ(tiles.view().elements(), 4 * 16 * 32);
  EXPECT_EQ(tiles.view().bytes(), 4 * 1024);
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

}  // namespace
}  // namespace sterna
