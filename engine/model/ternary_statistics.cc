#include "engine/model/ternary_statistics.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "base/check.h"

namespace sterna {
namespace {

constexpr uint32_t kLowBits = 0x55555555;  // of the 16 codes of a row in a line
constexpr int64_t kLinesPerBlock = kTernaryBlockCols / kTernaryLineCols;
// Bytes of a counter take four at most from each line.
constexpr int64_t kLinesPerFlush = 60;

using RowCounters = std::array<uint32_t, kTernaryBlockRows>;

// Sets bits of `x`, at most one of each pair, counted in each byte.
uint32_t CountPairs(uint32_t x) {
  x = (x & 0x33333333) + (x >> 2 & 0x33333333);
  return (x + (x >> 4)) & 0x0f0f0f0f;
}

uint32_t SumOfBytes(uint32_t x) {
  return (x & 0xff) + (x >> 8 & 0xff) + (x >> 16 & 0xff) + (x >> 24);
}

// Counts of the rows of one row block.
struct RowBlockCounts {
  RowCounters zeros{};
  RowCounters plus{};
};

// `lines` of one row block; sets in `column_used` the low bit of every code that is not zero in
// some row, line by line.
RowBlockCounts CountRowBlock(const uint8_t* lines, int64_t num_lines, uint32_t* column_used) {
  RowBlockCounts counts;
  for (int64_t first = 0; first < num_lines; first += kLinesPerFlush) {
    RowCounters zeros{}, plus{};
    for (int64_t line = first; line < std::min(first + kLinesPerFlush, num_lines); ++line) {
      RowCounters codes;
      std::memcpy(codes.data(), lines + line * kTernaryLineBytes, sizeof(codes));
      uint32_t used = 0;
      for (size_t row = 0; row < codes.size(); ++row) {
        zeros[row] += CountPairs(codes[row] & kLowBits);
        plus[row] += CountPairs(codes[row] >> 1 & kLowBits);
        used |= ~codes[row] & kLowBits;
      }
      column_used[line] |= used;
    }
    for (size_t row = 0; row < zeros.size(); ++row) {
      counts.zeros[row] += SumOfBytes(zeros[row]);
      counts.plus[row] += SumOfBytes(plus[row]);
    }
  }
  return counts;
}

}  // namespace

TernaryStatistics CountTernary(const TernaryMatrix& matrix) {
  STERNA_CHECK(matrix.layout() == TernaryLayout::kBlocks16x64);
  TernaryStatistics statistics{
      .rows = matrix.rows(), .cols = matrix.cols(), .weights = matrix.rows() * matrix.cols()};
  const int64_t num_lines = matrix.col_blocks() * kLinesPerBlock;
  const int64_t padding = matrix.col_blocks() * kTernaryBlockCols - matrix.cols();  // zeros
  std::vector<uint32_t> column_used(static_cast<size_t>(num_lines));
  for (int64_t block = 0; block < matrix.row_blocks(); ++block) {
    const RowBlockCounts counts = CountRowBlock(
        matrix.packed() + block * num_lines * kTernaryLineBytes, num_lines, column_used.data());
    const int64_t rows = std::min(kTernaryBlockRows, matrix.rows() - block * kTernaryBlockRows);
    for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
      const int64_t zeros = counts.zeros[row] - padding;
      statistics.zeros += zeros;
      statistics.plus += counts.plus[row];
      statistics.zero_rows += zeros == matrix.cols() ? 1 : 0;
    }
  }
  for (int64_t col = 0; col < matrix.cols(); ++col) {
    const TernaryCodePosition position = LocateTernaryCode(0, col, matrix.cols());
    const uint32_t used =
        column_used[static_cast<size_t>(position.byte / kTernaryBlockBytes * kLinesPerBlock +
                                        col % kTernaryBlockCols / kTernaryLineCols)];
    const int64_t bit = position.byte % 4 * 8 + position.shift;
    statistics.zero_cols += (used >> bit & 1) == 0 ? 1 : 0;
  }
  return statistics;
}

}  // namespace sterna
