// AMX: 16 tokens times 16 rows times 64 columns of ternary weights in one instruction. Where few
// tokens would leave most of a tile empty, VNNI is as fast or faster and does the work: integer
// sums are the same. The output head is in amx_dense.h; everything else is as without AMX.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/amx_dense.h"
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/avx512_ternary.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/ternary_format.h"

namespace sterna::cpu {
namespace {

static_assert(kTileRows == kAmxTileTokens && kTileBytes == kTernaryBlockCols);

// Tiles: sums of two row blocks for the first 16 tokens (0, 1) and for the next (2, 3), activations
// of both (4, 5), codes of the two row blocks (6, 7).
void Configure(int64_t first_tokens, int64_t next_tokens) {
  // A tile of no rows may not even be named, so it has one, which nobody looks at.
  const int64_t next = next_tokens > 0 ? next_tokens : 1;
  ConfigureTiles(
      {first_tokens, first_tokens, next, next, first_tokens, next, kTileRows, kTileRows});
}

// The codes of one block, as tdpbsud takes them: row r holds columns 4r .. 4r+3 of all 16 rows,
// which is how a shifted and masked line comes (ternary_format.h).
struct alignas(64) CodeTile {
  uint8_t bytes[kTileRows][kTileBytes];
};

inline void Unpack(const uint8_t* packed, int64_t ahead, CodeTile& out) {
  for (int64_t j = 0; j < kTernaryBlockCols / kTernaryLineCols; ++j) {
    const uint8_t* p = packed + j * kTernaryLineBytes;
    const __m512i line = _mm512_load_si512(p);
    _mm_prefetch(reinterpret_cast<const char*>(p + ahead), _MM_HINT_T0);
    _mm512_store_si512(out.bytes[4 * j], CodesOf<0>(line));
    _mm512_store_si512(out.bytes[4 * j + 1], CodesOf<1>(line));
    _mm512_store_si512(out.bytes[4 * j + 2], CodesOf<2>(line));
    _mm512_store_si512(out.bytes[4 * j + 3], CodesOf<3>(line));
  }
}

struct alignas(64) SumTile {
  int32_t of[kTileRows][kTernaryBlockRows];  // [token][row]
};

// Outputs of row block `row_block` and, with kBlocks = 2, the next, for `tokens` tokens from
// `token` on: at most 16, or with kTokenTiles = 2 at most 32. The tiles are configured for them.
template <int kBlocks, int kTokenTiles>
void TernaryTile(const TernaryTask& task, int64_t row_block, int64_t token, int64_t tokens) {
  const uint8_t* packed = task.packed + row_block * task.col_blocks * kTernaryBlockBytes;
  const int64_t row_block_bytes = task.col_blocks * kTernaryBlockBytes;
  const int64_t first_tokens = tokens < kAmxTileTokens ? tokens : kAmxTileTokens;
  const int8_t* q = task.q_tiles + token * task.q_stride;
  const int8_t* next_q = q + kAmxTileTokens * task.q_stride;
  const int64_t q_tile_bytes = first_tokens * kTileBytes;
  const int64_t next_q_tile_bytes = (tokens - first_tokens) * kTileBytes;
  // Sums over groups so far; not touched where there is one group.
  alignas(64) float value[kBlocks][kTokenTiles * kTileRows][kTernaryBlockRows];
  alignas(64) float tensor_scales[kTokenTiles * kTileRows] = {};
  if (task.one_scale) {
    for (int64_t t = 0; t < tokens; t += kTileRows) {
      const __m512 s = _mm512_maskz_loadu_ps(FirstLanes(tokens - t), task.s + token + t);
      _mm512_store_ps(tensor_scales + t, _mm512_div_ps(_mm512_set1_ps(task.w_scale[0]), s));
    }
  }
  // Three column blocks are under way: one is multiplied, the next waits in tiles, and the one
  // after it is unpacked. A tile cannot be loaded before the stores to it have reached the cache,
  // and a core that two threads share has few tiles to rename, so that loads in between products
  // would each wait for one: all of them together take 0.85 of the time.
  CodeTile codes[2][kBlocks];
  SumTile sums[4];
  const auto unpack = [&](int64_t b) __attribute__((always_inline)) {
    const int64_t at = b * kTernaryBlockBytes;
    const int64_t ahead = PrefetchDistance(row_block_bytes - at, kBlocks, row_block_bytes);
    Unpack(packed + at, ahead, codes[b % 2][0]);
    if constexpr (kBlocks == 2) Unpack(packed + row_block_bytes + at, ahead, codes[b % 2][1]);
  };
  const auto load = [&](int64_t b) __attribute__((always_inline)) {
    // GCC 12 does not know that loads of tiles read memory.
    asm volatile("" : : : "memory");
    _tile_loadd(4, q + b * q_tile_bytes, kTileBytes);
    if constexpr (kTokenTiles == 2) _tile_loadd(5, next_q + b * next_q_tile_bytes, kTileBytes);
    _tile_loadd(6, codes[b % 2][0].bytes, kTileBytes);
    if constexpr (kBlocks == 2) _tile_loadd(7, codes[b % 2][1].bytes, kTileBytes);
    asm volatile("" : : : "memory");
  };
  // Activations of many tokens come from the second-level cache.
  const auto prefetch = [&](int64_t b) __attribute__((always_inline)) {
    for (int64_t i = 0; i < kTileRows; ++i) {
      const int8_t* line = q + b * q_tile_bytes + i * kTileBytes;
      _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T0);
    }
    if constexpr (kTokenTiles == 2) {
      for (int64_t i = 0; i < kTileRows; ++i) {
        const int8_t* line = next_q + b * next_q_tile_bytes + i * kTileBytes;
        _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T0);
      }
    }
  };
  // Outputs are asked for while the products run: their lines were last in another core's cache,
  // and to own one takes as long as several products.
  const int64_t outputs_a_block = (tokens + task.col_blocks - 1) / task.col_blocks;
  const auto prefetch_outputs = [&](int64_t b) __attribute__((always_inline)) {
    const int64_t end = (b + 1) * outputs_a_block < tokens ? (b + 1) * outputs_a_block : tokens;
    for (int64_t t = b * outputs_a_block; t < end; ++t) {
      const float* y = task.y + (token + t) * task.y_stride + row_block * kTernaryBlockRows;
      for (int k = 0; k < kBlocks; ++k) __builtin_prefetch(y + k * kTernaryBlockRows, /*rw=*/1);
    }
  };
  unpack(0);
  if (task.col_blocks > 1) unpack(1);
  load(0);
  for (int64_t g = 0; g < task.num_groups; ++g) {
    const int64_t begin = g * task.group_col_blocks;
    const int64_t end = begin + task.group_col_blocks < task.col_blocks
                            ? begin + task.group_col_blocks
                            : task.col_blocks;
    _tile_zero(0);
    if constexpr (kBlocks == 2) _tile_zero(1);
    if constexpr (kTokenTiles == 2) _tile_zero(2);
    if constexpr (kBlocks == 2 && kTokenTiles == 2) _tile_zero(3);
    for (int64_t b = begin; b < end; ++b) {
      if (b + 2 < task.col_blocks) unpack(b + 2);
      prefetch(b + 2);
      prefetch_outputs(b);
      _tile_dpbsud(0, 4, 6);
      if constexpr (kBlocks == 2) _tile_dpbsud(1, 4, 7);
      if constexpr (kTokenTiles == 2) _tile_dpbsud(2, 5, 6);
      if constexpr (kBlocks == 2 && kTokenTiles == 2) _tile_dpbsud(3, 5, 7);
      if (b + 1 < task.col_blocks) load(b + 1);
    }
    _tile_stored(0, sums[0].of, kTileBytes);
    if constexpr (kBlocks == 2) _tile_stored(1, sums[1].of, kTileBytes);
    if constexpr (kTokenTiles == 2) _tile_stored(2, sums[2].of, kTileBytes);
    if constexpr (kBlocks == 2 && kTokenTiles == 2) _tile_stored(3, sums[3].of, kTileBytes);
    for (int k = 0; k < kBlocks; ++k) {
      const int64_t first_row = (row_block + k) * kTernaryBlockRows;
      const __mmask16 rows = FirstLanes(task.rows - first_row);
      const __m512 row_scales = RowScales(task, first_row, g);
      for (int64_t t = 0; t < tokens; ++t) {
        const __m512i sum = _mm512_load_si512(sums[t / kTileRows * 2 + k].of[t % kTileRows]);
        const __m512 product = ScaledProduct(task, token + t, g, sum, row_scales, tensor_scales[t]);
        const __m512 before = g == 0 ? _mm512_setzero_ps() : _mm512_load_ps(value[k][t]);
        const __m512 after = _mm512_add_ps(before, product);
        if (g + 1 < task.num_groups) {
          _mm512_store_ps(value[k][t], after);
        } else {
          StoreOutputs(task, token + t, first_row, rows, after);
        }
      }
    }
  }
}

template <int kTokenTiles>
void TernaryBlocks(const TernaryTask& task, int64_t first, int64_t count, int64_t token,
                   int64_t tokens) {
  int64_t block = first;
  for (; block + 2 <= first + count; block += 2) {
    TernaryTile<2, kTokenTiles>(task, block, token, tokens);
  }
  if (block < first + count) TernaryTile<1, kTokenTiles>(task, block, token, tokens);
}

void TernaryLinear(const TernaryTask& task, int64_t first, int64_t count) {
  int64_t token = 0;
  int64_t configured = 0;
  while (task.tokens - token >= task.amx_from_tokens) {
    const int64_t left = task.tokens - token;
    const int64_t tokens = left < 2 * kTileRows ? left : 2 * kTileRows;
    const int64_t next_tokens = tokens > kTileRows ? tokens - kTileRows : 0;
    if (configured != tokens) Configure(tokens - next_tokens, next_tokens);
    configured = tokens;
    if (next_tokens == 0) {
      TernaryBlocks<1>(task, first, count, token, tokens);
    } else {
      TernaryBlocks<2>(task, first, count, token, tokens);
    }
    token += tokens;
  }
  if (configured != 0) _tile_release();
  if (token == task.tokens) return;
  Avx512VnniKernels().ternary_linear(FromToken(task, token), first, count);
}

void DenseLinear(const DenseTask& task, int64_t first, int64_t count) {
  AmxDenseLinear(task, first, count, Avx512VnniKernels().dense_linear);
}

}  // namespace

const CpuKernels& AmxKernels() {
  static const CpuKernels kernels = [] {
    CpuKernels table = Avx512VnniKernels();
    table.name = "amx";
    table.amx = true;
    table.ternary_linear = TernaryLinear;
    table.dense_linear = DenseLinear;
    table.dense_pack_bytes = DensePackBytes;
    table.pack_dense = PackDense;
    return table;
  }();
  return kernels;
}

}  // namespace sterna::cpu
