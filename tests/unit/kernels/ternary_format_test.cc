// The packed layout against the drawing in ternary_format.h.
#include "kernels/ternary_format.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

// Written out again from the drawing, step by step, so that a slip in LocateTernaryCode shows.
int CodeByTheDrawing(const std::vector<uint8_t>& packed, int64_t row, int64_t col, int64_t cols) {
  const int64_t blocks_per_row_block = cols / 64 + (cols % 64 != 0 ? 1 : 0);
  const int64_t block = (row / 16) * blocks_per_row_block + col / 64;
  const int64_t column_in_block = col - col / 64 * 64;
  const int64_t line = column_in_block / 16;
  const int64_t i = column_in_block % 16 / 4;
  const int64_t byte = (row % 16) * 4 + column_in_block % 4;
  return packed[block * 256 + line * 64 + byte] >> (2 * i) & 3;
}

std::vector<uint8_t> Bytes(const TernaryMatrix& w) {
  return {w.packed(), w.packed() + w.packed_bytes()};
}

TEST(TernaryFormat, BitPositionsOfTheDrawing) {
  // One weight of +1 (code 2) among zeros (code 1): exactly one byte differs from the padding byte.
  struct Case {
    int64_t row, col, byte;
    uint8_t value;
  };
  for (const Case& c :
       {Case{0, 0, 0, 0x56}, Case{0, 1, 1, 0x56}, Case{0, 4, 0, 0x59}, Case{0, 8, 0, 0x65},
        Case{0, 12, 0, 0x95}, Case{1, 0, 4, 0x56}, Case{15, 15, 63, 0x95}, Case{0, 16, 64, 0x56},
        Case{15, 63, 255, 0x95}, Case{0, 64, 256, 0x56}, Case{16, 0, 512, 0x56}}) {
    TernaryMatrix w(17, 70);
    ASSERT_EQ(w.packed_bytes(), 2 * 2 * 256);
    w.Set(c.row, c.col, 1);
    std::vector<uint8_t> expected(1024, 0x55);
    expected[c.byte] = c.value;
    EXPECT_EQ(Bytes(w), expected) << c.row << "," << c.col;
  }
}

TEST(TernaryFormat, EveryCodeAtEveryPositionOfABlock) {
  for (int64_t row = 0; row < 16; ++row) {
    for (int64_t col = 0; col < 64; ++col) {
      for (const int8_t weight : {-1, 0, 1}) {
        TernaryMatrix w(16, 64);
        for (int64_t r = 0; r < 16; ++r) w.SetRow(r, std::vector<int8_t>(64, 1));
        w.Set(row, col, weight);
        ASSERT_EQ(w.At(row, col), weight);
        ASSERT_EQ(CodeByTheDrawing(Bytes(w), row, col, 64), weight + 1);
        w.Set(row, col, 1);
        ASSERT_EQ(Bytes(w), std::vector<uint8_t>(256, 0xAA));
      }
    }
  }
}

TEST(TernaryFormat, OddShapesRoundTripAndKeepTheirPadding) {
  testing::Random random(1);
  std::uniform_int_distribution<int64_t> size(1, 130);
  std::uniform_int_distribution<int> weight(-1, 1);
  for (int i = 0; i < 200; ++i) {
    const int64_t rows = size(random), cols = size(random);
    TernaryMatrix by_row(rows, cols), by_weight(rows, cols);
    ASSERT_EQ(by_row.packed_bytes(), by_row.row_blocks() * by_row.col_blocks() * 256);
    ASSERT_EQ(reinterpret_cast<uintptr_t>(by_row.packed()) % 64, 0u);
    std::vector<std::vector<int8_t>> weights(rows, std::vector<int8_t>(cols));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        weights[r][c] = static_cast<int8_t>(weight(random));
        by_weight.Set(r, c, weights[r][c]);
      }
      by_row.SetRow(r, weights[r]);
      std::vector<uint8_t> codes(cols);
      by_row.GetRowCodes(r, codes);
      for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(codes[c], weights[r][c] + 1);
    }
    const std::vector<uint8_t> bytes = Bytes(by_row);
    ASSERT_EQ(bytes, Bytes(by_weight));
    for (int64_t r = 0; r < RoundUp(rows, 16); ++r) {
      for (int64_t c = 0; c < RoundUp(cols, 64); ++c) {
        const bool padding = r >= rows || c >= cols;
        const int code = padding ? 1 : weights[r][c] + 1;
        ASSERT_EQ(CodeByTheDrawing(bytes, r, c, RoundUp(cols, 64)), code) << r << "," << c;
        if (!padding) {
          ASSERT_EQ(by_row.At(r, c), weights[r][c]);
        }
      }
    }
  }
}

TEST(TernaryFormat, ScalesKnowWhatTheyCover) {
  TernaryMatrix w(3, 200);
  EXPECT_EQ(w.granularity(), ScaleGranularity::kTensor);
  EXPECT_EQ(w.tensor_scale(), 1.0);
  EXPECT_EQ(w.group_size(), 200);
  EXPECT_EQ(w.num_groups(), 1);
  w.SetRowScales(std::vector<float>{5, 6, 7});
  EXPECT_EQ(w.granularity(), ScaleGranularity::kRow);
  EXPECT_EQ(w.num_groups(), 1);
  EXPECT_EQ(w.scale(2, 0), 7.0f);
  w.SetGroupScales(std::vector<float>(3 * 2), 128);
  EXPECT_EQ(w.granularity(), ScaleGranularity::kGroup);
  EXPECT_EQ(w.group_size(), 128);
  EXPECT_EQ(w.num_groups(), 2);
  EXPECT_DEATH(w.SetGroupScales(std::vector<float>(3 * 3), 100), "kTernaryBlockCols");
}

TEST(TernaryFormat, ScalesLieAsTheRowsOfTheirBlocks) {
  constexpr int64_t kRows = 18, kCols = 200, kGroups = 4;
  TernaryMatrix w(kRows, kCols);
  std::vector<float> scales(kRows * kGroups);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i + 1);
  w.SetGroupScales(scales, 64);
  ASSERT_EQ(w.scales().size(), 2 * kGroups * 16);
  for (int64_t row = 0; row < 32; ++row) {
    for (int64_t group = 0; group < kGroups; ++group) {
      const float expected = row < kRows ? scales[row * kGroups + group] : 0.0f;
      EXPECT_EQ(w.scales()[(row / 16 * kGroups + group) * 16 + row % 16], expected);
      if (row < kRows) {
        EXPECT_EQ(w.scale(row, group), expected);
      }
    }
  }
}

TEST(TernaryFormat, CopiesRowsExactly) {
  testing::Random random(4);
  for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
    for (const int64_t cols : {1, 15, 64, 100, 128, 200, 320}) {
      const TernaryMatrix w = testing::RandomTernaryOfKind(random, kind, 37, cols);
      std::vector<double> row(static_cast<size_t>(cols));
      for (int64_t r = 0; r < w.rows(); ++r) {
        w.CopyRow(r, row.data());
        for (int64_t c = 0; c < cols; ++c) {
          const double scale =
              kind == 0 ? w.tensor_scale() : w.scale(r, kind == 1 ? 0 : c / w.group_size());
          ASSERT_EQ(row[c], w.At(r, c) * scale) << kind << ": " << r << ", " << c << " of " << cols;
        }
      }
    }
  }
  EXPECT_DEATH(TernaryMatrix(3, 5).CopyRow<float>(3, nullptr), "row");
}

}  // namespace
}  // namespace sterna
