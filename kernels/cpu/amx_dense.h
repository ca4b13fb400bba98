// bf16 weights times f32 activations on AMX, at the precision of f32: an activation is written as
// three bf16 numbers whose sum it is exactly (its 24 bits of significand, eight at a time), each in
// a row of its own. Products are exact, sums are f32, and a token's three are added up at the end.
// AMX counts denormals as zero, and an infinite activation gives NaN.
//
// An output's sums run over tiles of 32 columns in order, whatever is computed beside it.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AMX_DENSE_H_
#define STERNA_KERNELS_CPU_AMX_DENSE_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/avx512_ternary.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/dense_format.h"

namespace sterna::cpu {
namespace {

constexpr int64_t kDenseParts = 3;
constexpr int64_t kDenseTokens = 16;  // that share one reading of the weights
// Row blocks whose sums are made at once where one tile holds all parts; divided by two or three
// where they need as many.
constexpr int kDenseRowBlocks = 6;

// Activations are packed by groups of 16 tokens, the last of which may have fewer, for every 32
// columns: with n tokens, part p of token t is row p * n + t of one, two or three tiles one below
// the other. Where one tile holds them all it has no row too many, as rows cost time.
constexpr int64_t kMaxPackedRows = kDenseParts * kDenseTokens;

inline int64_t PackedTileRows(int64_t tokens) {
  return kDenseParts * tokens < kTileRows ? kDenseParts * tokens : kTileRows;
}

inline int64_t PackedTiles(int64_t tokens) {
  return (kDenseParts * tokens + kTileRows - 1) / kTileRows;
}

// Elements of 32 columns of a group.
inline int64_t PackedStride(int64_t tokens) {
  return PackedTiles(tokens) * PackedTileRows(tokens) * kDenseTileCols;
}

// Where the group of `token` begins in what `packed` points at, in elements.
inline int64_t PackedGroup(const DenseTask& task, int64_t token) {
  return token / kDenseTokens * task.col_blocks * kMaxPackedRows * kDenseTileCols;
}

int64_t DensePackBytes(const DenseTask& task) {
  if (!task.bf16_tiles) return 0;
  const int64_t elements = PackedGroup(task, task.tokens + kDenseTokens - 1);
  return elements * static_cast<int64_t>(sizeof(uint16_t));
}

void PackDense(const DenseTask& task, void* packed) {
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512i odd_words = _mm512_set1_epi16(1);  // 1, 3, 5, ... of two registers
  for (int64_t i = 1; i < kDenseTileCols; ++i) {
    odd_words =
        _mm512_mask_add_epi16(odd_words, ~__mmask32{0} << i, odd_words, _mm512_set1_epi16(2));
  }
  for (int64_t token = 0; token < task.tokens; ++token) {
    const int64_t first = token / kDenseTokens * kDenseTokens;
    const int64_t tokens = task.tokens - first < kDenseTokens ? task.tokens - first : kDenseTokens;
    const float* x = task.x + token * task.cols;
    uint16_t* out = static_cast<uint16_t*>(packed) + PackedGroup(task, token) +
                    (token - first) * kDenseTileCols;
    for (int64_t col = 0; col < task.cols; col += kDenseTileCols, out += PackedStride(tokens)) {
      __m512 low = _mm512_maskz_loadu_ps(FirstLanes(task.cols - col), x + col);
      __m512 high = _mm512_setzero_ps();
      if (col + 16 < task.cols) {
        high = _mm512_maskz_loadu_ps(FirstLanes(task.cols - col - 16), x + col + 16);
      }
      for (int64_t p = 0; p < kDenseParts; ++p) {
        const __m512i low_part = _mm512_and_si512(_mm512_castps_si512(low), high_half);
        const __m512i high_part = _mm512_and_si512(_mm512_castps_si512(high), high_half);
        _mm512_store_si512(out + p * tokens * kDenseTileCols,
                           _mm512_permutex2var_epi16(low_part, odd_words, high_part));
        low = _mm512_sub_ps(low, _mm512_castsi512_ps(low_part));
        high = _mm512_sub_ps(high, _mm512_castsi512_ps(high_part));
      }
    }
  }
}

// Sums of one row block with the parts of all tokens.
using DenseSums = float[kMaxPackedRows][kDenseTileRows];

// Six tiles of sums (0 .. 5) keep the multiplier busy through its latency: those of six row blocks
// from `w` on where one tile holds all activations, of three where two do, of two where three do.
// Tile 6 holds activations, tile 7 weights; consecutive products share one of them.
template <int kTokenTiles>
void DenseTile(const uint16_t* w, int64_t col_blocks, const uint16_t* x, int64_t x_stride,
               DenseSums* sums) {
  const int64_t block = col_blocks * kDenseTileElements;
  const auto weights = [&](int k) {
    for (int64_t r = 0; r < kTileRows; ++r) {
      _mm_prefetch(reinterpret_cast<const char*>(w + k * block + kDensePrefetchElements + r * 32),
                   _MM_HINT_T0);
    }
    return w + k * block;
  };
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t b = 0; b < col_blocks; ++b, x += x_stride, w += kDenseTileElements) {
    const auto tokens = [&](int i) { return x + i * kDenseTileElements; };
    _tile_loadd(6, tokens(0), kTileBytes);
    _tile_loadd(7, weights(0), kTileBytes);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (kTokenTiles == 1) {
      _tile_loadd(7, weights(1), kTileBytes);
      _tile_dpbf16ps(1, 6, 7);
      _tile_loadd(7, weights(2), kTileBytes);
      _tile_dpbf16ps(2, 6, 7);
      _tile_loadd(7, weights(3), kTileBytes);
      _tile_dpbf16ps(3, 6, 7);
      _tile_loadd(7, weights(4), kTileBytes);
      _tile_dpbf16ps(4, 6, 7);
      _tile_loadd(7, weights(5), kTileBytes);
      _tile_dpbf16ps(5, 6, 7);
    } else if constexpr (kTokenTiles == 2) {
      _tile_loadd(6, tokens(1), kTileBytes);
      _tile_dpbf16ps(1, 6, 7);
      _tile_loadd(7, weights(1), kTileBytes);
      _tile_dpbf16ps(3, 6, 7);
      _tile_loadd(6, tokens(0), kTileBytes);
      _tile_dpbf16ps(2, 6, 7);
      _tile_loadd(7, weights(2), kTileBytes);
      _tile_dpbf16ps(4, 6, 7);
      _tile_loadd(6, tokens(1), kTileBytes);
      _tile_dpbf16ps(5, 6, 7);
    } else {
      _tile_loadd(6, tokens(1), kTileBytes);
      _tile_dpbf16ps(1, 6, 7);
      _tile_loadd(6, tokens(2), kTileBytes);
      _tile_dpbf16ps(2, 6, 7);
      _tile_loadd(7, weights(1), kTileBytes);
      _tile_dpbf16ps(5, 6, 7);
      _tile_loadd(6, tokens(1), kTileBytes);
      _tile_dpbf16ps(4, 6, 7);
      _tile_loadd(6, tokens(0), kTileBytes);
      _tile_dpbf16ps(3, 6, 7);
    }
  }
  const auto out = [&](int tile) {
    return sums[tile / kTokenTiles][tile % kTokenTiles * kTileRows];
  };
  _tile_stored(0, out(0), kTileBytes);
  _tile_stored(1, out(1), kTileBytes);
  _tile_stored(2, out(2), kTileBytes);
  _tile_stored(3, out(3), kTileBytes);
  _tile_stored(4, out(4), kTileBytes);
  _tile_stored(5, out(5), kTileBytes);
}

// What DenseTile computes, of one row block.
template <int kTokenTiles>
void DenseRowBlock(const uint16_t* w, int64_t col_blocks, const uint16_t* x, int64_t x_stride,
                   DenseSums& sums) {
  _tile_zero(0);
  if constexpr (kTokenTiles >= 2) _tile_zero(1);
  if constexpr (kTokenTiles == 3) _tile_zero(2);
  for (int64_t b = 0; b < col_blocks; ++b, x += x_stride, w += kDenseTileElements) {
    _tile_loadd(7, w, kTileBytes);
    _tile_loadd(6, x, kTileBytes);
    _tile_dpbf16ps(0, 6, 7);
    if constexpr (kTokenTiles >= 2) {
      _tile_loadd(6, x + kDenseTileElements, kTileBytes);
      _tile_dpbf16ps(1, 6, 7);
    }
    if constexpr (kTokenTiles == 3) {
      _tile_loadd(6, x + 2 * kDenseTileElements, kTileBytes);
      _tile_dpbf16ps(2, 6, 7);
    }
  }
  _tile_stored(0, sums[0], kTileBytes);
  if constexpr (kTokenTiles >= 2) _tile_stored(1, sums[kTileRows], kTileBytes);
  if constexpr (kTokenTiles == 3) _tile_stored(2, sums[2 * kTileRows], kTileBytes);
}

// Adds up the parts of one row block and writes them to rows row .. row + 15 of the tokens.
inline void StoreDense(const DenseTask& task, int64_t row, int64_t token, int64_t tokens,
                       const DenseSums& sums) {
  const __mmask16 rows = FirstLanes(task.rows - row);
  for (int64_t t = 0; t < tokens; ++t) {
    const __m512 small =
        _mm512_add_ps(_mm512_load_ps(sums[tokens + t]), _mm512_load_ps(sums[2 * tokens + t]));
    _mm512_mask_storeu_ps(task.y + (token + t) * task.rows + row, rows,
                          _mm512_add_ps(_mm512_load_ps(sums[t]), small));
  }
}

// `blocks` row blocks from `row` on, for one group of tokens.
template <int kTokenTiles>
void DensePanel(const DenseTask& task, int64_t row, int64_t blocks, int64_t token, int64_t tokens) {
  constexpr int64_t kRowBlocks = kDenseRowBlocks / kTokenTiles;
  const uint16_t* x = static_cast<const uint16_t*>(task.packed_x) + PackedGroup(task, token);
  const int64_t x_stride = PackedStride(tokens);
  const int64_t block_elements = task.col_blocks * kDenseTileElements;
  const uint16_t* w = static_cast<const uint16_t*>(task.w) + row / kDenseTileRows * block_elements;
  alignas(64) DenseSums sums[kRowBlocks];
  int64_t b = 0;
  for (; b + kRowBlocks <= blocks; b += kRowBlocks) {
    DenseTile<kTokenTiles>(w + b * block_elements, task.col_blocks, x, x_stride, sums);
    for (int64_t k = 0; k < kRowBlocks; ++k) {
      StoreDense(task, row + (b + k) * kDenseTileRows, token, tokens, sums[k]);
    }
  }
  for (; b < blocks; ++b) {
    DenseRowBlock<kTokenTiles>(w + b * block_elements, task.col_blocks, x, x_stride, sums[0]);
    StoreDense(task, row + b * kDenseTileRows, token, tokens, sums[0]);
  }
}

// What AMX does not do, f32 weights, goes to `vector`.
void AmxDenseLinear(const DenseTask& task, int64_t first, int64_t count,
                    void (*vector)(const DenseTask&, int64_t, int64_t)) {
  if (!task.bf16_tiles) return vector(task, first, count);
  const int64_t blocks = (count + kDenseTileRows - 1) / kDenseTileRows;
  int64_t configured = 0;
  for (int64_t token = 0; token < task.tokens; token += kDenseTokens) {
    const int64_t left = task.tokens - token;
    const int64_t tokens = left < kDenseTokens ? left : kDenseTokens;
    const int64_t rows = PackedTileRows(tokens);
    if (rows != configured) ConfigureTiles({rows, rows, rows, rows, rows, rows, rows, kTileRows});
    configured = rows;
    switch (PackedTiles(tokens)) {
      case 1:
        DensePanel<1>(task, first, blocks, token, tokens);
        break;
      case 2:
        DensePanel<2>(task, first, blocks, token, tokens);
        break;
      default:
        DensePanel<3>(task, first, blocks, token, tokens);
    }
  }
  _tile_release();
}

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AMX_DENSE_H_
