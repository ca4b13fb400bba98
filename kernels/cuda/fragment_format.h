// THE layout of ternary weights on CUDA devices: 2 bits a weight, blocks of 16 rows x 128 columns,
// in the order of the fragments of mma.m16n8k32 and wgmma with the weights as the A operand.
//
// A code is c = w + 1 in {0, 1, 2}, as in kernels/ternary_format.h. A block is 512 bytes: lane l of
// a warp has bytes 16l .. 16l+15, four words, one load. Word r is register r of the A operand for
// the four products of 32 columns, k-tiles, that a block is:
//
//            bit 7 6   5 4   3 2   1 0
//   byte b = | t=3 | t=2 | t=1 | t=0 |      row    = l / 4 + 8 * (r % 2)
//                                           column = 32 * t + 16 * (r / 2) + 4 * (l % 4) + b
//
// so `(word >> 2*t) & 0x03030303` is the register: no shuffle, and the same for a decode step's
// few tokens and a prompt's thousands; a warpgroup's four warps take four row blocks. Blocks are
// ordered by row block, then by column block. Rows and columns that pad the last block hold code 1
// (weight 0). Scales of rows and groups lie as in kernels/ternary_format.h, 16 of a row block,
// group after group.
//
// Plain C++: the same functions serve the host, which packs, the kernels and the tests.
#ifndef STERNA_KERNELS_CUDA_FRAGMENT_FORMAT_H_
#define STERNA_KERNELS_CUDA_FRAGMENT_FORMAT_H_

#include <cstdint>

#include "kernels/ternary_format.h"

namespace sterna::cuda {

inline constexpr int64_t kFragmentRows = 16;
inline constexpr int64_t kFragmentCols = 128;
inline constexpr int64_t kFragmentTileCols = 32;  // a k-tile
inline constexpr int64_t kFragmentTiles = 4;      // of a block
inline constexpr int64_t kFragmentWords = 4;      // of a lane
inline constexpr int64_t kFragmentBytes = 512;

static_assert(kFragmentBytes == kFragmentRows * kFragmentCols * 2 / 8);
static_assert(kFragmentBytes == 32 * kFragmentWords * 4);
static_assert(kFragmentCols == kFragmentTiles * kFragmentTileCols);
static_assert(kFragmentRows == kTernaryBlockRows, "scales are shared");
static_assert(kFragmentCols % kTernaryBlockCols == 0, "activations are padded to the latter");

// Bytes of a packed [rows, cols] matrix, padding included.
constexpr int64_t FragmentPackedBytes(int64_t rows, int64_t cols) {
  return CeilDiv(rows, kFragmentRows) * CeilDiv(cols, kFragmentCols) * kFragmentBytes;
}

// Where the code of (row, col) is.
constexpr TernaryCodePosition LocateFragmentCode(int64_t row, int64_t col, int64_t cols) {
  const int64_t block = row / kFragmentRows * CeilDiv(cols, kFragmentCols) + col / kFragmentCols;
  const int64_t r = row % kFragmentRows;
  const int64_t k = col % kFragmentTileCols;
  const int64_t lane = r % 8 * 4 + k % 16 / 4;
  const int64_t word = r / 8 + k / 16 * 2;
  return {.byte = block * kFragmentBytes + lane * 16 + word * 4 + k % 4,
          .shift = static_cast<int>(col % kFragmentCols / kFragmentTileCols * 2)};
}

// Writes the codes of `w`, in the host's layout, to `packed` [FragmentPackedBytes], row block by
// row block from `first` on.
void PackFragments(const TernaryMatrix& w, int64_t first_row_block, int64_t row_blocks,
                   uint8_t* packed);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_FRAGMENT_FORMAT_H_
