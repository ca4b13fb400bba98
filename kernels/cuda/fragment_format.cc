#include "kernels/cuda/fragment_format.h"

#include <cstring>

#include "base/check.h"

namespace sterna::cuda {

// Both layouts keep four neighbouring columns of a row in the four bytes of a word: words move as
// they are, the 2-bit fields within them change places.
void PackFragments(const TernaryMatrix& w, int64_t first_row_block, int64_t row_blocks,
                   uint8_t* packed) {
  STERNA_CHECK(first_row_block >= 0 && first_row_block + row_blocks <= w.row_blocks());
  const int64_t col_blocks = CeilDiv(w.cols(), kFragmentCols);
  const int64_t host_blocks = w.col_blocks();
  for (int64_t rb = 0; rb < row_blocks; ++rb) {
    const uint8_t* from = w.packed() + (first_row_block + rb) * host_blocks * kTernaryBlockBytes;
    for (int64_t cb = 0; cb < col_blocks; ++cb, packed += kFragmentBytes) {
      for (int64_t lane = 0; lane < 32; ++lane) {
        uint32_t words[kFragmentWords];
        for (int64_t r = 0; r < kFragmentWords; ++r) {
          const int64_t row = lane / 4 + 8 * (r % 2);
          uint32_t word = 0;
          for (int64_t t = 0; t < kFragmentTiles; ++t) {
            const int64_t col =
                cb * kFragmentCols + t * kFragmentTileCols + r / 2 * 16 + lane % 4 * 4;
            uint32_t codes = 0x01010101u * kTernaryCodeZero;
            if (col / kTernaryBlockCols < host_blocks) {
              const TernaryCodePosition p = LocateTernaryCode(row, col, w.cols());
              uint32_t host;
              std::memcpy(&host, from + p.byte, sizeof(host));
              codes = host >> p.shift & 0x03030303u;
            }
            word |= codes << (2 * t);
          }
          words[r] = word;
        }
        std::memcpy(packed + lane * 16, words, sizeof(words));
      }
    }
  }
}

}  // namespace sterna::cuda
