// AVX-512 with VNNI: 16 rows at once. Intrinsics only (kernel_table.h says why).
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/avx512_bytes.h"
#include "kernels/cpu/avx512_ternary.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/vector_kernels.h"
#include "kernels/ternary_format.h"

namespace sterna::cpu {
namespace {

struct Avx512Vector : Avx512Bytes {
  static constexpr int kLanes = 16;
  static constexpr int kDenseRegs = 24;
  static constexpr int kQueryTile = 4;
  static constexpr int64_t kMostShortlistTokens = INT64_MAX;
  static constexpr bool kChoosesStreams = true;
  using Reg = __m512;

  static __mmask16 First(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

  static Reg Set(float x) { return _mm512_set1_ps(x); }
  static Reg Zero() { return _mm512_setzero_ps(); }
  static Reg Load(const float* p) { return _mm512_loadu_ps(p); }
  static Reg LoadN(const float* p, int64_t n) { return _mm512_maskz_loadu_ps(First(n), p); }
  static void Store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  static void StoreN(float* p, int64_t n, Reg x) { _mm512_mask_storeu_ps(p, First(n), x); }
  static void LoadPairs(const uint16_t* p, Reg& even, Reg& odd) {
    const __m512i pairs = _mm512_loadu_si512(p);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd = _mm512_castsi512_ps(
        _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static Reg LoadF16(const F16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Reg LoadF16N(const F16* p, int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(n), p));
  }
  static Reg LoadI8(const int8_t* p) {
    return ToFloat(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static Reg LoadI8N(const int8_t* p, int64_t n) {
    return ToFloat(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(First(n), p)));
  }
  static void StoreF16N(F16* p, int64_t n, Reg x) {
    const __m256i halves = _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_mask_storeu_epi16(p, First(n), halves);
  }

  static Reg Keep(Reg x) {
    asm("" : "+v"(x));
    return x;
  }
  static Reg Add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg Sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg Mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg Div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg Fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg Max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg Min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg Abs(Reg x) { return _mm512_abs_ps(x); }
  static Reg SelectLess(Reg a, Reg b, Reg x, Reg y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
  }
  static Reg SelectEqual(Reg a, Reg b, Reg x, Reg y) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ), y, x);
  }
  static float Sum(Reg x) { return _mm512_reduce_add_ps(x); }
  // Adds pairs of lanes across registers until each 128-bit quarter holds a part of all four sums.
  static void Sum4(Reg a, Reg b, Reg c, Reg d, float* out) {
    const Reg ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const Reg cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const Reg abcd = _mm512_add_ps(_mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(1, 0, 1, 0)),
                                   _mm512_shuffle_ps(ab, cd, _MM_SHUFFLE(3, 2, 3, 2)));
    const __m256 half =
        _mm256_add_ps(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
    _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
  }
  static float Largest(Reg x) { return _mm512_reduce_max_ps(x); }
  static Reg Round(Reg x) {
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static Reg TimesPow2(Reg x, Reg n) { return _mm512_scalef_ps(x, n); }

  static IntReg IntZero() { return _mm512_setzero_si512(); }
  static IntReg QuantizeN(Reg x, int64_t n, int8_t* q, IntReg sum) {
    __m512i value = _mm512_cvt_roundps_epi32(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    value = _mm512_max_epi32(_mm512_set1_epi32(-128), value);
    value = _mm512_min_epi32(_mm512_set1_epi32(127), value);
    _mm_mask_storeu_epi8(q, First(n), _mm512_cvtepi32_epi8(value));
    return _mm512_add_epi32(sum, value);
  }
  static IntReg IntAdd(IntReg a, IntReg b) { return _mm512_add_epi32(a, b); }
  static int32_t IntSum(IntReg x) { return _mm512_reduce_add_epi32(x); }
  static Reg ToFloat(IntReg x) { return _mm512_cvtepi32_ps(x); }

  static IntReg Broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  // vpdpbusd takes the codes, too large by the offset.
  static IntReg ByteSumStart(int32_t x_sum) { return _mm512_set1_epi32(-kDenseInt8Offset * x_sum); }
  static IntReg ByteWeights(IntReg codes) { return codes; }
  static IntReg AddByteProducts(IntReg sums, IntReg weights, IntReg x) {
    return _mm512_dpbusd_epi32(sums, weights, x);
  }
};

// The sums of one tile: kTokens x kBlocks row blocks, each in kChains registers of 16 rows, so that
// tiles with few sums still keep several vpdpbusd in flight. Integer sums are the same in any
// order.
template <int kTokens, int kBlocks, int kChains>
struct TileSums {
  __m512i of[kBlocks][kTokens][kChains];
};

// Adds columns 4*kI .. 4*kI + 3 of a line: bits 2*kI, 2*kI + 1 of every byte.
template <int kI, int kTokens, int kBlocks, int kChains>
[[gnu::always_inline]] inline void AddQuarter(const __m512i (&line)[kBlocks], const int8_t* q,
                                              int64_t q_stride,
                                              TileSums<kTokens, kBlocks, kChains>& sums) {
  __m512i codes[kBlocks];
#pragma GCC unroll 4
  for (int k = 0; k < kBlocks; ++k) {
    codes[k] = CodesOf<kI>(line[k]);
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    const __m512i values = Avx512Vector::Broadcast4(q + t * q_stride + 4 * kI);
#pragma GCC unroll 4
    for (int k = 0; k < kBlocks; ++k) {
      __m512i& sum = sums.of[k][t][kI % kChains];
      sum = _mm512_dpbusd_epi32(sum, codes[k], values);
    }
  }
}

// Sums of column blocks begin .. end-1; `packed` and `q` point at column block 0.
template <int kTokens, int kBlocks, int kChains>
[[gnu::always_inline]] inline void AddBlocks(const uint8_t* packed, int64_t row_block_bytes,
                                             const int8_t* q, int64_t q_stride, int64_t begin,
                                             int64_t end,
                                             TileSums<kTokens, kBlocks, kChains>& sums) {
  for (int64_t b = begin; b < end; ++b) {
    const int64_t left = row_block_bytes - b * kTernaryBlockBytes;
    const int64_t ahead = PrefetchDistance(left, kBlocks, row_block_bytes);
#pragma GCC unroll 1
    for (int64_t j = 0; j < kTernaryBlockCols / kTernaryLineCols; ++j) {
      const uint8_t* p = packed + b * kTernaryBlockBytes + j * kTernaryLineBytes;
      const int8_t* x = q + b * kTernaryBlockCols + j * kTernaryLineCols;
      __m512i line[kBlocks];
#pragma GCC unroll 4
      for (int k = 0; k < kBlocks; ++k) {
        line[k] = _mm512_load_si512(p + k * row_block_bytes);
        _mm_prefetch(reinterpret_cast<const char*>(p + k * row_block_bytes + ahead), _MM_HINT_T0);
      }
      AddQuarter<0>(line, x, q_stride, sums);
      AddQuarter<1>(line, x, q_stride, sums);
      AddQuarter<2>(line, x, q_stride, sums);
      AddQuarter<3>(line, x, q_stride, sums);
    }
  }
}

// Outputs of kBlocks row blocks from `row_block` on, for kTokens tokens from `token` on.
template <int kTokens, int kBlocks, int kChains>
void TernaryTile(const TernaryTask& task, int64_t row_block, int64_t token) {
  const int64_t row_block_bytes = task.col_blocks * kTernaryBlockBytes;
  const int64_t first_row = row_block * kTernaryBlockRows;
  __m512 value[kBlocks][kTokens];
  __mmask16 rows[kBlocks];
  for (int k = 0; k < kBlocks; ++k) {
    const int64_t left = task.rows - first_row - k * kTernaryBlockRows;
    rows[k] = FirstLanes(left);
    for (int t = 0; t < kTokens; ++t) value[k][t] = _mm512_setzero_ps();
  }
  for (int64_t g = 0; g < task.num_groups; ++g) {
    TileSums<kTokens, kBlocks, kChains> sums;
#pragma GCC unroll 4
    for (int k = 0; k < kBlocks; ++k) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 4
        for (int c = 0; c < kChains; ++c) sums.of[k][t][c] = _mm512_setzero_si512();
      }
    }
    const int64_t begin = g * task.group_col_blocks;
    const int64_t end = begin + task.group_col_blocks < task.col_blocks
                            ? begin + task.group_col_blocks
                            : task.col_blocks;
    AddBlocks(task.packed + row_block * row_block_bytes, row_block_bytes,
              task.q + token * task.q_stride, task.q_stride, begin, end, sums);
    __m512 row_scales[kBlocks];
    for (int k = 0; k < kBlocks; ++k) {
      row_scales[k] = RowScales(task, first_row + k * kTernaryBlockRows, g);
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      const float tensor_scale = task.w_scale[0] / task.s[(token + t) * task.num_groups + g];
#pragma GCC unroll 4
      for (int k = 0; k < kBlocks; ++k) {
        __m512i sum = sums.of[k][t][0];
        for (int c = 1; c < kChains; ++c) sum = _mm512_add_epi32(sum, sums.of[k][t][c]);
        const __m512 product = ScaledProduct(task, token + t, g, sum, row_scales[k], tensor_scale);
        value[k][t] = _mm512_add_ps(value[k][t], product);
      }
    }
  }
  for (int k = 0; k < kBlocks; ++k) {
    for (int t = 0; t < kTokens; ++t) {
      StoreOutputs(task, token + t, first_row + k * kTernaryBlockRows, rows[k], value[k][t]);
    }
  }
}

// One or two tokens wait for memory, and read it as was found best (cpu_tune.cc); more tokens share
// each broadcast of activations between two row blocks.
template <int kTokens>
void TernaryBlocks(const TernaryTask& task, int64_t token, int64_t first, int64_t count) {
  constexpr bool kWaits = kTokens <= 2;
  constexpr int kBlocks = kWaits ? kMostWeightStreams : 2;
  int64_t block = first;
  if (!kWaits || task.weight_streams > 1) {
    for (; block + kBlocks <= first + count; block += kBlocks) {
      TernaryTile<kTokens, kBlocks, 1>(task, block, token);
    }
  }
  for (; block < first + count; ++block) {
    TernaryTile<kTokens, 1, kWaits ? 4 : 2>(task, block, token);
  }
}

void TernaryLinear(const TernaryTask& task, int64_t first, int64_t count) {
  using BlocksFn = void (*)(const TernaryTask&, int64_t, int64_t, int64_t);
  constexpr BlocksFn kByTokens[kTokenTile] = {TernaryBlocks<1>, TernaryBlocks<2>, TernaryBlocks<3>,
                                              TernaryBlocks<4>, TernaryBlocks<5>, TernaryBlocks<6>,
                                              TernaryBlocks<7>, TernaryBlocks<8>};
  for (int64_t token = 0; token < task.tokens; token += kTokenTile) {
    const int64_t left = task.tokens - token;
    kByTokens[(left < kTokenTile ? left : kTokenTile) - 1](task, token, first, count);
  }
}

constexpr CpuKernels kKernels = VectorKernels<Avx512Vector>::Table("avx512_vnni", TernaryLinear);

}  // namespace

const CpuKernels& Avx512VnniKernels() { return kKernels; }

}  // namespace sterna::cpu
