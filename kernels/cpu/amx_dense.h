// Dense products on AMX. bf16 weights times f32 activations at the precision of f32: an activation
// is written as three bf16 numbers whose sum it is exactly (its 24 bits of significand, eight at a
// time). Products are exact, sums are f32, and a token's three are added up at the end. AMX counts
// denormals as zero, and an infinite activation gives NaN. int8 weights times activations of two
// int8 parts (packed_activations.h): integers throughout. Codes of int8 are unpacked to tiles.
//
// An output's sums run over the column blocks in order, whatever is computed beside it.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AMX_DENSE_H_
#define STERNA_KERNELS_CPU_AMX_DENSE_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/avx512_bytes.h"
#include "kernels/cpu/avx512_ternary.h"
#include "kernels/cpu/int8_lines.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_activations.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/dense_format.h"

namespace sterna::cpu {
namespace {

constexpr int64_t kBf16Parts = 3;
// Row blocks whose sums are made at once where one tile holds all parts; divided by two or three
// where they need as many.
constexpr int kDenseRowBlocks = 6;

int64_t DensePackBytes(const DenseTask& task) {
  if (task.type != DenseType::kBf16) return 0;
  return PackedActivations<kBf16Parts>::Bytes(task.tokens, task.col_blocks);
}

void PackDense(const DenseTask& task, void* packed) {
  using Packed = PackedActivations<kBf16Parts>;
  constexpr int64_t kCols = kDenseLineBytes / 2;
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  __m512i odd_words = _mm512_set1_epi16(1);  // 1, 3, 5, ... of two registers
  for (int64_t i = 1; i < kCols; ++i) {
    odd_words =
        _mm512_mask_add_epi16(odd_words, ~__mmask32{0} << i, odd_words, _mm512_set1_epi16(2));
  }
  for (int64_t token = 0; token < task.tokens; ++token) {
    const int64_t first = token / kPackedGroup * kPackedGroup;
    const int64_t tokens = Packed::GroupTokens(first, task.tokens);
    const float* x = task.x + token * task.cols;
    uint8_t* out = static_cast<uint8_t*>(packed) + Packed::GroupOffset(token, task.col_blocks) +
                   (token - first) * kDenseLineBytes;
    for (int64_t col = 0; col < task.cols; col += kCols, out += Packed::BlockBytes(tokens)) {
      __m512 low = _mm512_maskz_loadu_ps(FirstLanes(task.cols - col), x + col);
      __m512 high = _mm512_setzero_ps();
      if (col + 16 < task.cols) {
        high = _mm512_maskz_loadu_ps(FirstLanes(task.cols - col - 16), x + col + 16);
      }
      for (int64_t p = 0; p < kBf16Parts; ++p) {
        const __m512i low_part = _mm512_and_si512(_mm512_castps_si512(low), high_half);
        const __m512i high_part = _mm512_and_si512(_mm512_castps_si512(high), high_half);
        _mm512_store_si512(out + p * tokens * kDenseLineBytes,
                           _mm512_permutex2var_epi16(low_part, odd_words, high_part));
        low = _mm512_sub_ps(low, _mm512_castsi512_ps(low_part));
        high = _mm512_sub_ps(high, _mm512_castsi512_ps(high_part));
      }
    }
  }
}

// Asks for what lies `ahead` of p .. p + bytes.
inline void PrefetchLines(const uint8_t* p, int64_t ahead, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += kDenseLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(p + ahead + i), _MM_HINT_T0);
  }
}

// What differs between the element types. Sums are those of one row block with all packed rows.
// Weights are those of kBlocks row blocks from `row` on, a column block after the other: Tile(k)
// is the tile of row block k in the column block that Next was called for.
template <DenseType kType>
struct DenseTraits;

template <>
struct DenseTraits<DenseType::kBf16> {
  using Packed = PackedActivations<kBf16Parts>;
  using Sums = float[Packed::kMaxRows][kDenseTileRows];

  template <int kBlocks>
  struct Weights {
    const uint8_t* tiles;
    int64_t block_bytes;
    int64_t ahead = 0;

    Weights(const DenseTask& task, int64_t row)
        : tiles(static_cast<const uint8_t*>(task.w) + row * task.col_blocks * kDenseLineBytes),
          block_bytes(task.col_blocks * kDenseTileBytes) {}
    void Next(int64_t col_block) {
      if (col_block > 0) tiles += kDenseTileBytes;
      ahead = PrefetchDistance(block_bytes - col_block * kDenseTileBytes, kBlocks, block_bytes);
    }
    const uint8_t* Tile(int k) const {
      PrefetchLines(tiles + k * block_bytes, ahead, kDenseTileBytes);
      return tiles + k * block_bytes;
    }
  };
};

template <>
struct DenseTraits<DenseType::kI8> {
  using Packed = PackedActivations<kInt8Parts>;
  using Sums = int32_t[Packed::kMaxRows][kDenseTileRows];

  // Codes are unpacked a column block ahead: a tile cannot be loaded before the stores to it have
  // reached the cache.
  template <int kBlocks>
  struct Weights {
    const uint8_t* high;
    const uint8_t* low;
    int64_t col_blocks;
    int64_t current = 0;
    alignas(64) uint8_t codes[2][kBlocks][kDenseTileBytes];

    Weights(const DenseTask& task, int64_t row)
        : high(static_cast<const uint8_t*>(task.w) +
               row / kDenseTileRows * task.col_blocks * kInt8HighTileBytes),
          low(task.w_low + row / kDenseTileRows * task.col_blocks * kInt8LowTileBytes),
          col_blocks(task.col_blocks) {
      Unpack(0);
    }
    void Next(int64_t col_block) {
      // GCC 12 does not know that loads of tiles read memory: they must not pass the stores before
      // them, nor stores the loads.
      asm volatile("" : : : "memory");
      current = col_block % 2;
      if (col_block + 1 < col_blocks) Unpack(col_block + 1);
      asm volatile("" : : : "memory");
    }
    const uint8_t* Tile(int k) const { return codes[current][k]; }

    void Unpack(int64_t col_block) {
      const int64_t high_bytes = col_blocks * kInt8HighTileBytes;
      const int64_t low_bytes = col_blocks * kInt8LowTileBytes;
      const int64_t high_at = col_block * kInt8HighTileBytes;
      const int64_t low_at = col_block * kInt8LowTileBytes;
      const int64_t high_ahead = PrefetchDistance(high_bytes - high_at, kBlocks, high_bytes);
      const int64_t low_ahead = PrefetchDistance(low_bytes - low_at, kBlocks, low_bytes);
      for (int k = 0; k < kBlocks; ++k) {
        const uint8_t* high_lines = high + k * high_bytes + high_at;
        const uint8_t* low_lines = low + k * low_bytes + low_at;
        PrefetchLines(high_lines, high_ahead, kInt8HighTileBytes);
        PrefetchLines(low_lines, low_ahead, kInt8LowTileBytes);
        uint8_t* out = codes[col_block % 2][k];
        for (int64_t col = 0; col < kDenseLineBytes; col += kInt8GroupCols) {
          const auto lines = Int8Lines<Avx512Bytes, true>::Load(high_lines, low_lines);
          _mm512_store_si512(out, lines.Codes<0>());
          _mm512_store_si512(out + kDenseLineBytes, lines.Codes<1>());
          _mm512_store_si512(out + 2 * kDenseLineBytes, lines.Codes<2>());
          _mm512_store_si512(out + 3 * kDenseLineBytes, lines.Codes<3>());
          high_lines += kInt8HighLines * kDenseLineBytes;
          low_lines += kInt8LowLines * kDenseLineBytes;
          out += 4 * kDenseLineBytes;
        }
      }
    }
  };
};

// Tile registers are part of the instruction, so this cannot be a function.
#define STERNA_TILE_PRODUCT(sums, x, w)      \
  if constexpr (kType == DenseType::kBf16) { \
    _tile_dpbf16ps(sums, x, w);              \
  } else {                                   \
    _tile_dpbsud(sums, x, w);                \
  }

// Six tiles of sums (0 .. 5) keep the multiplier busy through its latency: those of six row blocks
// from `row` on where one tile holds all activations, of three where two do, of two where three do.
// Tile 6 holds activations, tile 7 weights; consecutive products share one of them.
template <DenseType kType, int kTokenTiles>
void DenseTile(const DenseTask& task, int64_t row, const uint8_t* x, int64_t x_stride,
               typename DenseTraits<kType>::Sums* sums) {
  typename DenseTraits<kType>::template Weights<kDenseRowBlocks / kTokenTiles> weights(task, row);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t b = 0; b < task.col_blocks; ++b, x += x_stride) {
    const auto tokens = [&](int i) { return x + i * kDenseTileBytes; };
    weights.Next(b);
    _tile_loadd(6, tokens(0), kTileBytes);
    _tile_loadd(7, weights.Tile(0), kTileBytes);
    STERNA_TILE_PRODUCT(0, 6, 7)
    if constexpr (kTokenTiles == 1) {
      _tile_loadd(7, weights.Tile(1), kTileBytes);
      STERNA_TILE_PRODUCT(1, 6, 7)
      _tile_loadd(7, weights.Tile(2), kTileBytes);
      STERNA_TILE_PRODUCT(2, 6, 7)
      _tile_loadd(7, weights.Tile(3), kTileBytes);
      STERNA_TILE_PRODUCT(3, 6, 7)
      _tile_loadd(7, weights.Tile(4), kTileBytes);
      STERNA_TILE_PRODUCT(4, 6, 7)
      _tile_loadd(7, weights.Tile(5), kTileBytes);
      STERNA_TILE_PRODUCT(5, 6, 7)
    } else if constexpr (kTokenTiles == 2) {
      _tile_loadd(6, tokens(1), kTileBytes);
      STERNA_TILE_PRODUCT(1, 6, 7)
      _tile_loadd(7, weights.Tile(1), kTileBytes);
      STERNA_TILE_PRODUCT(3, 6, 7)
      _tile_loadd(6, tokens(0), kTileBytes);
      STERNA_TILE_PRODUCT(2, 6, 7)
      _tile_loadd(7, weights.Tile(2), kTileBytes);
      STERNA_TILE_PRODUCT(4, 6, 7)
      _tile_loadd(6, tokens(1), kTileBytes);
      STERNA_TILE_PRODUCT(5, 6, 7)
    } else {
      _tile_loadd(6, tokens(1), kTileBytes);
      STERNA_TILE_PRODUCT(1, 6, 7)
      _tile_loadd(6, tokens(2), kTileBytes);
      STERNA_TILE_PRODUCT(2, 6, 7)
      _tile_loadd(7, weights.Tile(1), kTileBytes);
      STERNA_TILE_PRODUCT(5, 6, 7)
      _tile_loadd(6, tokens(1), kTileBytes);
      STERNA_TILE_PRODUCT(4, 6, 7)
      _tile_loadd(6, tokens(0), kTileBytes);
      STERNA_TILE_PRODUCT(3, 6, 7)
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
template <DenseType kType, int kTokenTiles>
void DenseRowBlock(const DenseTask& task, int64_t row, const uint8_t* x, int64_t x_stride,
                   typename DenseTraits<kType>::Sums& sums) {
  typename DenseTraits<kType>::template Weights<1> weights(task, row);
  _tile_zero(0);
  if constexpr (kTokenTiles >= 2) _tile_zero(1);
  if constexpr (kTokenTiles == 3) _tile_zero(2);
  for (int64_t b = 0; b < task.col_blocks; ++b, x += x_stride) {
    weights.Next(b);
    _tile_loadd(7, weights.Tile(0), kTileBytes);
    _tile_loadd(6, x, kTileBytes);
    STERNA_TILE_PRODUCT(0, 6, 7)
    if constexpr (kTokenTiles >= 2) {
      _tile_loadd(6, x + kDenseTileBytes, kTileBytes);
      STERNA_TILE_PRODUCT(1, 6, 7)
    }
    if constexpr (kTokenTiles == 3) {
      _tile_loadd(6, x + 2 * kDenseTileBytes, kTileBytes);
      STERNA_TILE_PRODUCT(2, 6, 7)
    }
  }
  _tile_stored(0, sums[0], kTileBytes);
  if constexpr (kTokenTiles >= 2) _tile_stored(1, sums[kTileRows], kTileBytes);
  if constexpr (kTokenTiles == 3) _tile_stored(2, sums[2 * kTileRows], kTileBytes);
}

#undef STERNA_TILE_PRODUCT

// Adds up the parts of one row block and writes them to rows row .. row + 15 of the tokens.
inline void StoreDense(const DenseTask& task, int64_t row, int64_t token, int64_t tokens,
                       const DenseTraits<DenseType::kBf16>::Sums& sums) {
  const __mmask16 rows = FirstLanes(task.rows - row);
  for (int64_t t = 0; t < tokens; ++t) {
    const __m512 small =
        _mm512_add_ps(_mm512_load_ps(sums[tokens + t]), _mm512_load_ps(sums[2 * tokens + t]));
    _mm512_mask_storeu_ps(task.y + (token + t) * task.rows + row, rows,
                          _mm512_add_ps(_mm512_load_ps(sums[t]), small));
  }
}

inline void StoreDense(const DenseTask& task, int64_t row, int64_t token, int64_t tokens,
                       const DenseTraits<DenseType::kI8>::Sums& sums) {
  const __mmask16 rows = FirstLanes(task.rows - row);
  const __m512 w_scale = _mm512_maskz_loadu_ps(rows, task.w_scale + row);
  for (int64_t t = 0; t < tokens; ++t) {
    // Codes were multiplied, too large by the offset.
    const int32_t* x_sum = task.x_sum + (token + t) * kInt8Parts;
    const auto sum = [&](int64_t part) {
      return _mm512_cvtepi32_ps(
          _mm512_sub_epi32(_mm512_load_si512(sums[part * tokens + t]),
                           _mm512_set1_epi32(kDenseInt8Offset * x_sum[part])));
    };
    const __m512 both = _mm512_add_ps(_mm512_mul_ps(sum(0), _mm512_set1_ps(256.0f)), sum(1));
    const __m512 scale = _mm512_mul_ps(_mm512_set1_ps(task.x_scale[token + t]), w_scale);
    _mm512_mask_storeu_ps(task.y + (token + t) * task.rows + row, rows, _mm512_mul_ps(both, scale));
  }
}

// `blocks` row blocks from `row` on, for one group of tokens.
template <DenseType kType, int kTokenTiles>
void DensePanel(const DenseTask& task, int64_t row, int64_t blocks, int64_t token, int64_t tokens) {
  using Packed = typename DenseTraits<kType>::Packed;
  constexpr int64_t kRowBlocks = kDenseRowBlocks / kTokenTiles;
  const auto* x =
      static_cast<const uint8_t*>(task.packed_x) + Packed::GroupOffset(token, task.col_blocks);
  const int64_t x_stride = Packed::BlockBytes(tokens);
  alignas(64) typename DenseTraits<kType>::Sums sums[kRowBlocks];
  const int64_t end = row + blocks * kDenseTileRows;
  for (; row + kRowBlocks * kDenseTileRows <= end; row += kRowBlocks * kDenseTileRows) {
    DenseTile<kType, kTokenTiles>(task, row, x, x_stride, sums);
    for (int64_t k = 0; k < kRowBlocks; ++k) {
      StoreDense(task, row + k * kDenseTileRows, token, tokens, sums[k]);
    }
  }
  for (; row < end; row += kDenseTileRows) {
    DenseRowBlock<kType, kTokenTiles>(task, row, x, x_stride, sums[0]);
    StoreDense(task, row, token, tokens, sums[0]);
  }
}

template <DenseType kType>
void DenseRows(const DenseTask& task, int64_t first, int64_t count) {
  using Packed = typename DenseTraits<kType>::Packed;
  const int64_t blocks = (count + kDenseTileRows - 1) / kDenseTileRows;
  int64_t configured = 0;
  for (int64_t token = 0; token < task.tokens; token += kPackedGroup) {
    const int64_t tokens = Packed::GroupTokens(token, task.tokens);
    const int64_t rows = Packed::TileRows(tokens);
    if (rows != configured) ConfigureTiles({rows, rows, rows, rows, rows, rows, rows, kTileRows});
    configured = rows;
    switch (Packed::Tiles(tokens)) {
      case 1:
        DensePanel<kType, 1>(task, first, blocks, token, tokens);
        break;
      case 2:
        DensePanel<kType, 2>(task, first, blocks, token, tokens);
        break;
      default:
        if constexpr (kType == DenseType::kBf16) {
          DensePanel<kType, 3>(task, first, blocks, token, tokens);
        }
    }
  }
  _tile_release();
}

// f32 weights, which AMX cannot take, and int6, whose tokens are too few for it, go to `vector`.
void AmxDenseLinear(const DenseTask& task, int64_t first, int64_t count,
                    void (*vector)(const DenseTask&, int64_t, int64_t)) {
  switch (task.type) {
    case DenseType::kF32:
    case DenseType::kI6:
      return vector(task, first, count);
    case DenseType::kBf16:
      return DenseRows<DenseType::kBf16>(task, first, count);
    case DenseType::kI8:
      return DenseRows<DenseType::kI8>(task, first, count);
  }
}

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AMX_DENSE_H_
