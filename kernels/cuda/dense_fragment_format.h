// THE layout of dense weights, the embedding table and the output head, on CUDA devices: bf16 and
// int8 in blocks of 16 rows x 32 bytes of each, in the order of the fragments of mma with the
// weights as the A operand (m16n8k16 for bf16, m16n8k32 for int8).
//
// A block is 16 columns of bf16 or 32 of int8 and 512 bytes. Lane l of a warp has bytes 16l ..
// 16l+15, four words, one load; word r is register r of the A operand. Of the 32 bytes that a row
// has in the block, its columns one after another, lane l has in word r
//
//   row = l / 4 + 8 * (r % 2)            bytes 16 * (r / 2) + 4 * (l % 4) .. + 3
//
//   bf16:  bit 31         16 15          0     columns 2 * (l % 4) + 8 * (r / 2), low, and the next
//              |  col + 1   |    col     |
//   int8:  bit 31  24 23  16 15  8 7   0       columns 4 * (l % 4) + 16 * (r / 2), lowest, ..
//              | c+3 | c+2 | c+1 | col |
//
// Blocks are ordered by row block, then by column block: a warp that multiplies by a row block
// reads memory front to back. Rows and columns that pad the last block are zeros.
//
// int8 weights are -127 .. 127, plain two's complement, not the codes of kernels/dense_format.h;
// their scales are that format's, one a row. f32, for small models, is row-major as on the host.
//
// Plain C++: the same for the host, which packs, and the tests.
#ifndef STERNA_KERNELS_CUDA_DENSE_FRAGMENT_FORMAT_H_
#define STERNA_KERNELS_CUDA_DENSE_FRAGMENT_FORMAT_H_

#include <algorithm>
#include <cstdint>

#include "kernels/dense_format.h"

namespace sterna::cuda {

inline constexpr int64_t kDenseFragmentRows = 16;
inline constexpr int64_t kDenseFragmentRowBytes = 32;  // of a row in a block
inline constexpr int64_t kDenseFragmentBytes = kDenseFragmentRows * kDenseFragmentRowBytes;

static_assert(kDenseFragmentBytes == 32 * 16, "16 bytes for each lane");
static_assert(kDenseFragmentRows == kDenseTileRows, "packed row block by row block");

// A matrix on the device, packed as above.
struct DenseWeights {
  DenseType type;       // not kI6
  const void* data;     // [DensePackedBytes], on a boundary of 16 bytes
  const float* scales;  // kI8: [rows], else null
  int32_t rows;
  int32_t cols;
};

// Columns of a block. kBf16 and kI8.
constexpr int64_t DenseFragmentCols(DenseType type) {
  return kDenseFragmentRowBytes / (type == DenseType::kBf16 ? 2 : 1);
}
constexpr int64_t DenseColBlocks(DenseType type, int64_t cols) {
  return (cols + DenseFragmentCols(type) - 1) / DenseFragmentCols(type);
}

// Bytes of a packed [rows, cols] matrix, padding included, without scales.
constexpr int64_t DensePackedBytes(DenseType type, int64_t rows, int64_t cols) {
  if (type == DenseType::kF32) return rows * cols * static_cast<int64_t>(sizeof(float));
  return (rows + kDenseFragmentRows - 1) / kDenseFragmentRows * DenseColBlocks(type, cols) *
         kDenseFragmentBytes;
}

// Which byte the element (row, col) begins at. kBf16 and kI8.
constexpr int64_t LocateDenseFragment(DenseType type, int64_t row, int64_t col, int64_t cols) {
  const int64_t block =
      row / kDenseFragmentRows * DenseColBlocks(type, cols) + col / DenseFragmentCols(type);
  const int64_t r = row % kDenseFragmentRows;
  const int64_t byte = col % DenseFragmentCols(type) * (type == DenseType::kBf16 ? 2 : 1);
  const int64_t lane = r % 8 * 4 + byte % 16 / 4;
  const int64_t word = r / 8 + byte / 16 * 2;
  return block * kDenseFragmentBytes + lane * 16 + word * 4 + byte % 4;
}

// Bytes of `row_blocks` times 16 rows of `m` from row block `first` on, fewer rows at its end.
constexpr int64_t DensePackedBytes(const DenseMatrix& m, int64_t first, int64_t row_blocks) {
  const int64_t rows =
      std::min(m.rows, (first + row_blocks) * kDenseFragmentRows) - first * kDenseFragmentRows;
  return DensePackedBytes(m.type, rows, m.cols);
}

// Writes those rows of `m`, of any layout and any type but kI6, to `packed`, which becomes the
// bytes from DensePackedBytes(m.type, 16 * first, m.cols) on of the packed matrix: row blocks can
// be packed and uploaded in parts.
void PackDenseFragments(const DenseMatrix& m, int64_t first, int64_t row_blocks, uint8_t* packed);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_DENSE_FRAGMENT_FORMAT_H_
