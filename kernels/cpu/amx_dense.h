// bf16 weights times f32 activations on AMX, at the precision of f32: an activation is written as
// three bf16 numbers whose sum it is exactly (its 24 bits of significand, eight at a time), each a
// column of its own. Products are exact, sums are f32, and a token's three are added up at the end.
//
// An output's sums run over blocks of 32 columns in order, whatever is computed beside it.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AMX_DENSE_H_
#define STERNA_KERNELS_CPU_AMX_DENSE_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/kernel_table.h"

namespace sterna::cpu {
namespace {

constexpr int64_t kDenseParts = 3;
constexpr int64_t kDenseBlockCols = kTileBytes / 2;  // bf16 columns in a tile
constexpr int64_t kDenseTokens = 16;                 // a tile of tokens
constexpr int64_t kDensePanelBlocks = 6;             // row blocks of 16
constexpr int64_t kPrefetchCols = 8 * kDenseBlockCols;

// Activations as tdpbf16ps takes them. A token tile of n tokens has 3n columns, column p * n + t
// for part p of token t, in up to three tiles side by side, of which row r holds weight columns 2r
// and 2r + 1 of a block. Token tiles are alike in size, so that one is found without the others.
struct alignas(64) PackedColumns {
  uint32_t pairs[kTileRows][kTileBytes / 4];
};

inline int64_t DenseBlocks(const DenseTask& task) { return task.cols / kDenseBlockCols; }

// Where AMX does not do the work, the answer is 0: f32 weights, and columns that fill no block.
int64_t DensePackBytes(const DenseTask& task) {
  if (!task.bf16 || task.cols % kDenseBlockCols != 0) return 0;
  const int64_t token_tiles = (task.tokens + kDenseTokens - 1) / kDenseTokens;
  return token_tiles * DenseBlocks(task) * kDenseParts *
         static_cast<int64_t>(sizeof(PackedColumns));
}

void PackDense(const DenseTask& task, void* packed) {
  const __m512i evens = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
  const __m512i down_a_row = _mm512_slli_epi32(evens, 3);  // 16 pairs in a row
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  const auto high_bits = [&](__m512 x) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), high_half));
  };
  const int64_t blocks = DenseBlocks(task);
  for (int64_t token = 0; token < task.tokens; ++token) {
    const int64_t first = token / kDenseTokens * kDenseTokens;
    const int64_t tokens = task.tokens - first < kDenseTokens ? task.tokens - first : kDenseTokens;
    const float* x = task.x + token * task.cols;
    PackedColumns* tiles =
        static_cast<PackedColumns*>(packed) + first / kDenseTokens * blocks * kDenseParts;
    for (int64_t b = 0; b < blocks; ++b, x += kDenseBlockCols, tiles += kDenseParts) {
      const __m512 low = _mm512_loadu_ps(x), high = _mm512_loadu_ps(x + 16);
      __m512 even = _mm512_permutex2var_ps(low, evens, high);
      __m512 odd = _mm512_permutex2var_ps(low, odds, high);
      for (int64_t p = 0; p < kDenseParts; ++p) {
        const __m512 even_part = high_bits(even), odd_part = high_bits(odd);
        const __m512i pairs = _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(even_part), 16),
                                              _mm512_castps_si512(odd_part));
        const int64_t column = p * tokens + token - first;
        uint32_t* top = tiles[column / kTileRows].pairs[0] + column % kTileRows;
        _mm512_i32scatter_epi32(top, down_a_row, pairs, 4);
        even = _mm512_sub_ps(even, even_part);
        odd = _mm512_sub_ps(odd, odd_part);
      }
    }
  }
}

// out[i] lane j = in[j] lane i.
inline void Transpose16(const __m512 (&in)[16], __m512 (&out)[16]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(in[i], in[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(in[i], in[i + 1]);
  }
  // b[4q + c]: lanes 4l + c of in[4q .. 4q+3], in quarter l.
  for (int q = 0; q < 16; q += 4) {
    b[q] = _mm512_shuffle_ps(a[q], a[q + 2], _MM_SHUFFLE(1, 0, 1, 0));
    b[q + 1] = _mm512_shuffle_ps(a[q], a[q + 2], _MM_SHUFFLE(3, 2, 3, 2));
    b[q + 2] = _mm512_shuffle_ps(a[q + 1], a[q + 3], _MM_SHUFFLE(1, 0, 1, 0));
    b[q + 3] = _mm512_shuffle_ps(a[q + 1], a[q + 3], _MM_SHUFFLE(3, 2, 3, 2));
  }
  for (int c = 0; c < 4; ++c) {
    const __m512 even0 = _mm512_shuffle_f32x4(b[c], b[4 + c], _MM_SHUFFLE(2, 0, 2, 0));
    const __m512 odd0 = _mm512_shuffle_f32x4(b[c], b[4 + c], _MM_SHUFFLE(3, 1, 3, 1));
    const __m512 even1 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], _MM_SHUFFLE(2, 0, 2, 0));
    const __m512 odd1 = _mm512_shuffle_f32x4(b[8 + c], b[12 + c], _MM_SHUFFLE(3, 1, 3, 1));
    out[c] = _mm512_shuffle_f32x4(even0, even1, _MM_SHUFFLE(2, 0, 2, 0));
    out[4 + c] = _mm512_shuffle_f32x4(odd0, odd1, _MM_SHUFFLE(2, 0, 2, 0));
    out[8 + c] = _mm512_shuffle_f32x4(even0, even1, _MM_SHUFFLE(3, 1, 3, 1));
    out[12 + c] = _mm512_shuffle_f32x4(odd0, odd1, _MM_SHUFFLE(3, 1, 3, 1));
  }
}

// Sums of one row block with all columns of a token tile.
using DenseSums = float[kTileRows][kDenseParts * kTileRows];

// Asks for 32 rows' weights of one column block.
inline void PrefetchRows(const uint16_t* w, int64_t cols) {
#pragma GCC unroll 8
  for (int64_t r = 0; r < 2 * kTileRows; ++r) {
    _mm_prefetch(reinterpret_cast<const char*>(w + r * cols), _MM_HINT_T0);
  }
}

// Sums of two row blocks from `w` on with all column tiles: tiles 0 .. 2 of the first, 3 .. 5 of
// the second. Tile 6 holds weights, tile 7 activations; consecutive products share one of them.
template <int kColumnTiles>
void DenseTile(const uint16_t* w, int64_t cols, const PackedColumns* x, DenseSums* sums) {
  const int64_t stride = cols * 2;
  _tile_zero(0);
  _tile_zero(3);
  if constexpr (kColumnTiles >= 2) _tile_zero(1);
  if constexpr (kColumnTiles >= 2) _tile_zero(4);
  if constexpr (kColumnTiles == 3) _tile_zero(2);
  if constexpr (kColumnTiles == 3) _tile_zero(5);
  for (int64_t i = 0; i < cols; i += kDenseBlockCols, x += kDenseParts) {
    const uint16_t* rows = w + i;
    // A few column blocks ahead; past the last, the next 32 rows' first.
    const bool same_rows = i + kPrefetchCols < cols;
    PrefetchRows(rows + kPrefetchCols + (same_rows ? 0 : 2 * kTileRows * cols - cols), cols);
    _tile_loadd(7, x[0].pairs, kTileBytes);
    _tile_loadd(6, rows, stride);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (kColumnTiles >= 2) {
      _tile_loadd(7, x[1].pairs, kTileBytes);
      _tile_dpbf16ps(1, 6, 7);
    }
    if constexpr (kColumnTiles == 3) {
      _tile_loadd(7, x[2].pairs, kTileBytes);
      _tile_dpbf16ps(2, 6, 7);
    }
    _tile_loadd(6, rows + kTileRows * cols, stride);
    if constexpr (kColumnTiles == 3) {
      _tile_dpbf16ps(5, 6, 7);
      _tile_loadd(7, x[1].pairs, kTileBytes);
    }
    if constexpr (kColumnTiles >= 2) {
      _tile_dpbf16ps(4, 6, 7);
      _tile_loadd(7, x[0].pairs, kTileBytes);
    }
    _tile_dpbf16ps(3, 6, 7);
  }
  constexpr int64_t kStride = sizeof(DenseSums) / kTileRows;
  _tile_stored(0, sums[0][0], kStride);
  _tile_stored(3, sums[1][0], kStride);
  if constexpr (kColumnTiles >= 2) {
    _tile_stored(1, sums[0][0] + kTileRows, kStride);
    _tile_stored(4, sums[1][0] + kTileRows, kStride);
  }
  if constexpr (kColumnTiles == 3) {
    _tile_stored(2, sums[0][0] + 2 * kTileRows, kStride);
    _tile_stored(5, sums[1][0] + 2 * kTileRows, kStride);
  }
}

// What DenseTile computes, of one row block.
void DenseRowBlock(const uint16_t* w, int64_t cols, const PackedColumns* x, DenseSums& sums) {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  for (int64_t i = 0; i < cols; i += kDenseBlockCols, x += kDenseParts) {
    _tile_loadd(6, w + i, cols * 2);
    _tile_loadd(3, x[0].pairs, kTileBytes);
    _tile_dpbf16ps(0, 6, 3);
    _tile_loadd(4, x[1].pairs, kTileBytes);
    _tile_dpbf16ps(1, 6, 4);
    _tile_loadd(5, x[2].pairs, kTileBytes);
    _tile_dpbf16ps(2, 6, 5);
  }
  _tile_stored(0, sums[0], sizeof(DenseSums) / kTileRows);
  _tile_stored(1, sums[0] + kTileRows, sizeof(DenseSums) / kTileRows);
  _tile_stored(2, sums[0] + 2 * kTileRows, sizeof(DenseSums) / kTileRows);
}

// Adds up the parts of a row block and writes them to rows row .. row + 15 of the tokens.
inline void StoreDense(const DenseTask& task, int64_t row, int64_t token, int64_t tokens,
                       const DenseSums& sums) {
  __m512 of_row[kTileRows], of_token[kTileRows];
  for (int64_t r = 0; r < kTileRows; ++r) {
    // Lanes past the last token hold what nobody looks at.
    const __m512 small =
        _mm512_add_ps(_mm512_loadu_ps(sums[r] + tokens), _mm512_loadu_ps(sums[r] + 2 * tokens));
    of_row[r] = _mm512_add_ps(_mm512_loadu_ps(sums[r]), small);
  }
  Transpose16(of_row, of_token);
  for (int64_t t = 0; t < tokens; ++t) {
    _mm512_storeu_ps(task.y + (token + t) * task.rows + row, of_token[t]);
  }
}

// The `blocks` row blocks from `row` on, a panel at most, for one token tile.
template <int kColumnTiles>
void DensePanel(const DenseTask& task, int64_t row, int64_t blocks, int64_t token, int64_t tokens) {
  const PackedColumns* x = static_cast<const PackedColumns*>(task.packed_x) +
                           token / kDenseTokens * DenseBlocks(task) * kDenseParts;
  const uint16_t* w = static_cast<const uint16_t*>(task.w) + row * task.cols;
  alignas(64) DenseSums sums[2];
  int64_t b = 0;
  for (; b + 2 <= blocks; b += 2) {
    DenseTile<kColumnTiles>(w + b * kTileRows * task.cols, task.cols, x, sums);
    StoreDense(task, row + b * kTileRows, token, tokens, sums[0]);
    StoreDense(task, row + (b + 1) * kTileRows, token, tokens, sums[1]);
  }
  if (b < blocks) {
    DenseRowBlock(w + b * kTileRows * task.cols, task.cols, x, sums[0]);
    StoreDense(task, row + b * kTileRows, token, tokens, sums[0]);
  }
}

// Rows that fill no row block, and tasks AMX does not do, go to `vector`.
void AmxDenseLinear(const DenseTask& task, int64_t first, int64_t count,
                    void (*vector)(const DenseTask&, int64_t, int64_t)) {
  if (task.packed_x == nullptr) return vector(task, first, count);
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes[tile] = kTileBytes;
    config.rows[tile] = kTileRows;
  }
  _tile_loadconfig(&config);
  for (int64_t token = 0; token < task.tokens; token += kDenseTokens) {
    const int64_t left = task.tokens - token;
    const int64_t tokens = left < kDenseTokens ? left : kDenseTokens;
    if (kDenseParts * tokens <= kTileRows) {
      DensePanel<1>(task, first, count / kTileRows, token, tokens);
    } else if (kDenseParts * tokens <= 2 * kTileRows) {
      DensePanel<2>(task, first, count / kTileRows, token, tokens);
    } else {
      DensePanel<3>(task, first, count / kTileRows, token, tokens);
    }
  }
  _tile_release();
  const int64_t rest = count % kTileRows;
  if (rest > 0) vector(task, first + count - rest, rest);
}

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AMX_DENSE_H_
