// How dense weights, the embedding table and the output head, lie in memory.
//
// kRows is row-major, as checkpoints store them. kTiles is for bf16 alone and what DenseLinear
// wants: tiles of 16 rows x 32 columns, 1 KiB each,
//
//   tile[p][r] = columns 2p (low half) and 2p + 1 (high half) of row r, p = 0 .. 15, r = 0 .. 15
//
// so that a 64-byte line is one pair of columns of 16 rows: a register whose lanes are rows, to be
// multiplied by broadcast activations, or a row of an AMX tile of bf16 pairs. Tiles are ordered by
// row block, then by column block: who owns a row block reads memory front to back. Rows and
// columns that pad the last tile are zero.
#ifndef STERNA_KERNELS_DENSE_FORMAT_H_
#define STERNA_KERNELS_DENSE_FORMAT_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"

namespace sterna {

// The element types a dense weight matrix can have.
enum class DenseType { kF32, kBf16 };
enum class DenseLayout { kRows, kTiles };

inline constexpr int64_t kDenseTileRows = 16;
inline constexpr int64_t kDenseTileCols = 32;
inline constexpr int64_t kDenseTileElements = kDenseTileRows * kDenseTileCols;

// A view of [rows, cols] dense weights; owns nothing.
struct DenseMatrix {
  DenseType type = DenseType::kF32;
  DenseLayout layout = DenseLayout::kRows;
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t row_blocks() const { return (rows + kDenseTileRows - 1) / kDenseTileRows; }
  int64_t col_blocks() const { return (cols + kDenseTileCols - 1) / kDenseTileCols; }
  // Padding included.
  int64_t elements() const {
    return layout == DenseLayout::kRows ? rows * cols
                                        : row_blocks() * col_blocks() * kDenseTileElements;
  }
  int64_t bytes() const { return elements() * (type == DenseType::kF32 ? 4 : 2); }

  // Where a row begins, in elements.
  int64_t RowOffset(int64_t row) const {
    if (layout == DenseLayout::kRows) return row * cols;
    return row / kDenseTileRows * col_blocks() * kDenseTileElements + row % kDenseTileRows * 2;
  }
  // out[cols] = row `row`, exactly.
  template <typename F>
  void CopyRow(int64_t row, F* out) const {
    if (type == DenseType::kF32) {
      STERNA_CHECK(layout == DenseLayout::kRows);
      const float* values = static_cast<const float*>(data) + RowOffset(row);
      for (int64_t col = 0; col < cols; ++col) out[col] = values[col];
      return;
    }
    const uint16_t* values = static_cast<const uint16_t*>(data) + RowOffset(row);
    // From a pair of columns to the next, across tiles too.
    const int64_t step = layout == DenseLayout::kRows ? 2 : 2 * kDenseTileRows;
    for (int64_t col = 0; col < cols; ++col) {
      out[col] = std::bit_cast<float>(uint32_t{values[col / 2 * step + col % 2]} << 16);
    }
  }
};

// Writes row `row` (bf16 [m.cols]) into `tiles`, the zeroed memory that `m`, in kTiles, describes.
inline void PackDenseRow(const DenseMatrix& m, int64_t row, std::span<const uint16_t> values,
                         uint16_t* tiles) {
  STERNA_CHECK(m.type == DenseType::kBf16 && m.layout == DenseLayout::kTiles);
  STERNA_CHECK(row >= 0 && row < m.rows && static_cast<int64_t>(values.size()) == m.cols);
  uint16_t* pair = tiles + m.RowOffset(row);
  int64_t col = 0;
  for (; col + 2 <= m.cols; col += 2, pair += 2 * kDenseTileRows) {
    std::memcpy(pair, values.data() + col, 2 * sizeof(uint16_t));
  }
  if (col < m.cols) *pair = values[static_cast<size_t>(col)];
}

}  // namespace sterna

#endif  // STERNA_KERNELS_DENSE_FORMAT_H_
