// What the AVX-512 ternary products share, whether VNNI or AMX sums them up: codes from packed
// lines, and outputs from integer sums, 16 rows at once.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AVX512_TERNARY_H_
#define STERNA_KERNELS_CPU_AVX512_TERNARY_H_

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/ternary_format.h"

namespace sterna::cpu {
namespace {

// The first `left` of 16 lanes.
inline __mmask16 FirstLanes(int64_t left) {
  return left < kTernaryBlockRows ? static_cast<__mmask16>((1u << left) - 1) : __mmask16{0xffff};
}

// Columns 4*kI .. 4*kI + 3 of a line: bits 2*kI, 2*kI + 1 of every byte.
template <int kI>
inline __m512i CodesOf(__m512i line) {
  return _mm512_and_si512(_mm512_srli_epi16(line, 2 * kI), _mm512_set1_epi8(3));
}

// Scales of 16 rows in group g; of no meaning where the tensor has one scale.
inline __m512 RowScales(const TernaryTask& task, int64_t first_row, int64_t g) {
  if (task.one_scale) return _mm512_setzero_ps();
  return _mm512_load_ps(task.w_scale + first_row * task.num_groups + g * kTernaryBlockRows);
}

// What group g adds to 16 outputs of one token, `sums` holding the sums of activations times codes.
// `row_scales` as RowScales gives them; `tensor_scale`: the tensor's scale over the token's, where
// the tensor has but one.
inline __m512 ScaledProduct(const TernaryTask& task, int64_t token, int64_t g, __m512i sums,
                            __m512 row_scales, float tensor_scale) {
  const int64_t i = token * task.num_groups + g;
  const __m512 product = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums, _mm512_set1_epi32(task.sum[i])));
  const __m512 scale = task.one_scale ? _mm512_set1_ps(tensor_scale)
                       : task.inverse_s == nullptr
                           ? _mm512_div_ps(row_scales, _mm512_set1_ps(task.s[i]))
                           : _mm512_mul_ps(row_scales, _mm512_set1_ps(task.inverse_s[i]));
  return _mm512_mul_ps(product, scale);
}

// Writes 16 outputs of one token.
inline void StoreOutputs(const TernaryTask& task, int64_t token, int64_t first_row, __mmask16 rows,
                         __m512 value) {
  float* y = task.y + token * task.y_stride + first_row;
  if (task.bias != nullptr) {
    value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(rows, task.bias + first_row));
  }
  if (task.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(rows, y), value);
  _mm512_mask_storeu_ps(y, rows, value);
}

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AVX512_TERNARY_H_
