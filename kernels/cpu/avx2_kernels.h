// AVX2 with FMA, 8 rows at once, and what AVX-VNNI changes about it: a product of bytes in one
// instruction instead of two or more. Intrinsics only (kernel_table.h says why).
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AVX2_KERNELS_H_
#define STERNA_KERNELS_CPU_AVX2_KERNELS_H_

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vector_kernels.h"
#include "kernels/ternary_format.h"

namespace sterna::cpu {
namespace {

struct Avx2Vector {
  static constexpr int kLanes = 8;
  static constexpr int kDenseRegs = 8;
  static constexpr int kQueryTile = 2;
  static constexpr int64_t kMostShortlistTokens = 1;
  static constexpr bool kChoosesStreams = false;
  using Reg = __m256;
  using IntReg = __m256i;

  // All bits set in lanes 0 .. n-1.
  static __m256i First(int64_t n) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }

  static Reg Set(float x) { return _mm256_set1_ps(x); }
  static Reg Zero() { return _mm256_setzero_ps(); }
  static Reg Load(const float* p) { return _mm256_loadu_ps(p); }
  static Reg LoadN(const float* p, int64_t n) { return _mm256_maskload_ps(p, First(n)); }
  static void Store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static void StoreN(float* p, int64_t n, Reg x) { _mm256_maskstore_ps(p, First(n), x); }
  static void LoadPairs(const uint16_t* p, Reg& even, Reg& odd) {
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    odd = _mm256_castsi256_ps(
        _mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static Reg LoadF16(const F16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg LoadF16N(const F16* p, int64_t n) {
    F16 halves[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) halves[i] = p[i];
    return LoadF16(halves);
  }
  static Reg LoadI8(const int8_t* p) {
    return ToFloat(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static Reg LoadI8N(const int8_t* p, int64_t n) {
    int8_t bytes[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) bytes[i] = p[i];
    return LoadI8(bytes);
  }
  static void StoreF16N(F16* p, int64_t n, Reg x) {
    const __m128i halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    if (n == kLanes) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p), halves);
    } else {
      std::memcpy(p, &halves, static_cast<size_t>(n) * sizeof(F16));
    }
  }

  static Reg Keep(Reg x) {
    asm("" : "+x"(x));
    return x;
  }
  static Reg Add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg Max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg Min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg Abs(Reg x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
  static Reg SelectLess(Reg a, Reg b, Reg x, Reg y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static Reg SelectEqual(Reg a, Reg b, Reg x, Reg y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_EQ_OQ));
  }
  static float Sum(Reg x) {
    __m128 v = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
  }
  static void Sum4(Reg a, Reg b, Reg c, Reg d, float* out) {
    const __m256 halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    _mm_storeu_ps(out,
                  _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1)));
  }
  static float Largest(Reg x) {
    __m128 v = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    v = _mm_max_ps(v, _mm_movehl_ps(v, v));
    return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
  }
  static Reg Round(Reg x) {
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Reg TimesPow2(Reg x, Reg n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }

  static IntReg IntZero() { return _mm256_setzero_si256(); }
  static IntReg QuantizeN(Reg x, int64_t n, int8_t* q, IntReg sum) {
    __m256i value = _mm256_cvtps_epi32(Round(x));
    value = _mm256_max_epi32(_mm256_set1_epi32(-128), value);
    value = _mm256_min_epi32(_mm256_set1_epi32(127), value);
    const __m128i words =
        _mm_packs_epi32(_mm256_castsi256_si128(value), _mm256_extracti128_si256(value, 1));
    const int64_t bytes = _mm_cvtsi128_si64(_mm_packs_epi16(words, words));
    std::memcpy(q, &bytes, static_cast<size_t>(n));
    return _mm256_add_epi32(sum, value);
  }
  static IntReg IntAdd(IntReg a, IntReg b) { return _mm256_add_epi32(a, b); }
  static int32_t IntSum(IntReg x) {
    __m128i v = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(1, 0, 3, 2)));
    v = _mm_add_epi32(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(2, 3, 0, 1)));
    return _mm_cvtsi128_si32(v);
  }
  static Reg ToFloat(IntReg x) { return _mm256_cvtepi32_ps(x); }

  static IntReg Broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  static IntReg ByteSumStart(int32_t /*x_sum*/) { return IntZero(); }
  static IntReg LoadBytes(const uint8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static IntReg SetBytes(char byte) { return _mm256_set1_epi8(byte); }
  template <int kBits>
  static IntReg ShiftLeft(IntReg x) {
    return _mm256_slli_epi16(x, kBits);
  }
  template <int kBits>
  static IntReg ShiftRight(IntReg x) {
    return _mm256_srli_epi16(x, kBits);
  }
  template <int kMask>
  static IntReg SelectBits(IntReg a, IntReg b) {
    const __m256i mask = SetBytes(static_cast<char>(kMask));
    return _mm256_or_si256(_mm256_and_si256(mask, a), _mm256_andnot_si256(mask, b));
  }
  static IntReg ByteWeights(IntReg codes) {
    return _mm256_xor_si256(codes, SetBytes(static_cast<char>(kDenseInt8Offset)));
  }
  // vpmaddubsw takes one unsigned operand, so the sign of x goes to the weights: two products are
  // at most 2 * 128 * 127 and do not saturate.
  static IntReg AddByteProducts(IntReg sums, IntReg weights, IntReg x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(weights, x));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }

  // Codes of ternary weights times activations, two products to each 16-bit lane: a pair is at most
  // 2 * 2 * 128, so neither one vpmaddubsw nor the 16 of a block saturate.
  static_assert(kTernaryBlockCols / 4 * 2 * 2 * 128 <= INT16_MAX);
  static IntReg AddCodeProducts(IntReg sums, IntReg codes, IntReg x) {
    return _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x));
  }
  // What AddCodeProducts made of a block, one sum to each 32-bit lane.
  static IntReg BlockSums(IntReg sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
};

// Ternary products. V adds AddCodeProducts and BlockSums to what vector_kernels.h asks of it.
template <typename V>
struct Avx2Ternary {
  // One stream, so further than PrefetchDistance.
  static constexpr int64_t kTernaryPrefetchBytes = 4096;
  // A register holds 8 of the 16 rows of a line.
  static constexpr int64_t kHalfRows = 8;
  static constexpr int64_t kHalfBytes = 32;

  // Adds columns 4*kI .. 4*kI + 3 of half a line: bits 2*kI, 2*kI + 1 of every byte.
  template <int kI, int kTokens>
  [[gnu::always_inline]] static inline void AddQuarter(__m256i line, const int8_t* q,
                                                       int64_t q_stride, __m256i (&sums)[kTokens]) {
    const __m256i codes = _mm256_and_si256(_mm256_srli_epi16(line, 2 * kI), _mm256_set1_epi8(3));
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const __m256i values = V::Broadcast4(q + t * q_stride + 4 * kI);
      sums[t] = V::AddCodeProducts(sums[t], codes, values);
    }
  }

  // Adds 8 rows of one block to `sums`.
  template <int kTokens>
  [[gnu::always_inline]] static inline void AddHalfBlock(const uint8_t* half, const int8_t* q,
                                                         int64_t q_stride,
                                                         __m256i (&sums)[kTokens]) {
    __m256i block_sums[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) block_sums[t] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (int64_t j = 0; j < kTernaryBlockCols / kTernaryLineCols; ++j) {
      const uint8_t* p = half + j * kTernaryLineBytes;
      const int8_t* x = q + j * kTernaryLineCols;
      const __m256i line = _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
      _mm_prefetch(reinterpret_cast<const char*>(p + kTernaryPrefetchBytes), _MM_HINT_T0);
      AddQuarter<0>(line, x, q_stride, block_sums);
      AddQuarter<1>(line, x, q_stride, block_sums);
      AddQuarter<2>(line, x, q_stride, block_sums);
      AddQuarter<3>(line, x, q_stride, block_sums);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      sums[t] = _mm256_add_epi32(sums[t], V::BlockSums(block_sums[t]));
    }
  }

  // Scales of half a row block, the rows from `first_row` on, in group g.
  static __m256 RowScales(const TernaryTask& task, int64_t first_row, int64_t g) {
    if (task.one_scale) return _mm256_set1_ps(task.w_scale[0]);
    const int64_t in_block = first_row % kTernaryBlockRows;
    return _mm256_load_ps(task.w_scale + (first_row - in_block) * task.num_groups +
                          g * kTernaryBlockRows + in_block);
  }

  // Writes 8 outputs of one token, of which `rows` exist.
  static void StoreOutputs(const TernaryTask& task, int64_t token, int64_t first_row, int64_t rows,
                           __m256 value) {
    float* y = task.y + token * task.y_stride + first_row;
    if (task.bias != nullptr) {
      value = _mm256_add_ps(value, V::LoadN(task.bias + first_row, rows));
    }
    if (task.accumulate) value = _mm256_add_ps(V::LoadN(y, rows), value);
    V::StoreN(y, rows, value);
  }

  // Outputs of the 16 rows of a block for kTokens tokens from `token` on.
  template <int kTokens>
  static void TernaryTile(const TernaryTask& task, int64_t row_block, int64_t token) {
    const uint8_t* packed = task.packed + row_block * task.col_blocks * kTernaryBlockBytes;
    const int8_t* q = task.q + token * task.q_stride;
    const int64_t first_row = row_block * kTernaryBlockRows;
    __m256 value[2][kTokens];
    for (int t = 0; t < kTokens; ++t) value[0][t] = value[1][t] = _mm256_setzero_ps();
    for (int64_t g = 0; g < task.num_groups; ++g) {
      __m256i sums[2][kTokens];
      for (int t = 0; t < kTokens; ++t) sums[0][t] = sums[1][t] = _mm256_setzero_si256();
      const int64_t begin = g * task.group_col_blocks;
      const int64_t end = begin + task.group_col_blocks < task.col_blocks
                              ? begin + task.group_col_blocks
                              : task.col_blocks;
      for (int64_t b = begin; b < end; ++b) {
        const uint8_t* block = packed + b * kTernaryBlockBytes;
        AddHalfBlock(block, q + b * kTernaryBlockCols, task.q_stride, sums[0]);
        AddHalfBlock(block + kHalfBytes, q + b * kTernaryBlockCols, task.q_stride, sums[1]);
      }
      for (int half = 0; half < 2; ++half) {
        const int64_t row = first_row + half * kHalfRows;
        const __m256 w_scale = RowScales(task, row, g);
        for (int t = 0; t < kTokens; ++t) {
          const int64_t i = (token + t) * task.num_groups + g;
          const __m256i sum = _mm256_sub_epi32(sums[half][t], _mm256_set1_epi32(task.sum[i]));
          const __m256 scale = task.inverse_s == nullptr
                                   ? _mm256_div_ps(w_scale, _mm256_set1_ps(task.s[i]))
                                   : _mm256_mul_ps(w_scale, _mm256_set1_ps(task.inverse_s[i]));
          value[half][t] =
              _mm256_add_ps(value[half][t], _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale));
        }
      }
    }
    for (int half = 0; half < 2; ++half) {
      const int64_t row = first_row + half * kHalfRows;
      if (row >= task.rows) break;
      for (int t = 0; t < kTokens; ++t) {
        StoreOutputs(task, token + t, row, task.rows - row, value[half][t]);
      }
    }
  }

  template <int kTokens>
  static void TernaryBlocks(const TernaryTask& task, int64_t token, int64_t first, int64_t count) {
    for (int64_t block = first; block < first + count; ++block) {
      TernaryTile<kTokens>(task, block, token);
    }
  }

  static void TernaryLinear(const TernaryTask& task, int64_t first, int64_t count) {
    using BlocksFn = void (*)(const TernaryTask&, int64_t, int64_t, int64_t);
    constexpr BlocksFn kByTokens[kTokenTile] = {
        TernaryBlocks<1>, TernaryBlocks<2>, TernaryBlocks<3>, TernaryBlocks<4>,
        TernaryBlocks<5>, TernaryBlocks<6>, TernaryBlocks<7>, TernaryBlocks<8>};
    for (int64_t token = 0; token < task.tokens; token += kTokenTile) {
      const int64_t left = task.tokens - token;
      kByTokens[(left < kTokenTile ? left : kTokenTile) - 1](task, token, first, count);
    }
  }
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AVX2_KERNELS_H_
