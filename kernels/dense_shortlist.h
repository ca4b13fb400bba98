// What tells, from half the bytes of a bf16 matrix, which of its outputs cannot be among the
// largest: the matrix rounded to int8 and, for every row, how far the rounded product can be from
// the exact one.
//
// With w an exact row, r the rounded one, both of n columns, and u = 2^-24:
//   |w . x - r . x| <= |w - r| |x|   (Cauchy and Schwarz),
// and what is computed differs from these products by
//   - the rounding of float sums: (3n + 8) u |w| |x| with three parts of an activation summed up
//     in any order (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), rounded
//     up to 4 (n + 16) u so that a few operations on the result are covered as well;
//   - activations of 16 bits (DenseLinearParams): each is off by 0.51 / 32639 of the largest, which
//     is at most |x|, so their product with r by 0.51 / 32639 sqrt(n) |r| |x|.
// All of it is a multiple of |x|; the multiple is the row's error bound.
#ifndef STERNA_KERNELS_DENSE_SHORTLIST_H_
#define STERNA_KERNELS_DENSE_SHORTLIST_H_

#include <cmath>
#include <cstdint>
#include <span>

#include "kernels/dense_format.h"

namespace sterna {

// A view beside a DenseMatrix of the same shape; owns nothing.
struct DenseShortlist {
  DenseMatrix rounded;                  // kI8 in kTiles
  const float* error_bounds = nullptr;  // [rows], times |x|_2

  bool empty() const { return error_bounds == nullptr; }
  int64_t bytes() const {
    return empty() ? 0 : rounded.bytes() + rounded.rows * static_cast<int64_t>(sizeof(float));
  }
};

// The error bound of row `row` of `rounded`, whose exact values are `exact` [rounded.cols].
// Infinity where they are not all finite: nothing can be said then.
inline float ShortlistErrorBound(const DenseMatrix& rounded, int64_t row,
                                 std::span<const float> exact) {
  const double scale = rounded.scales[row];
  const auto* codes = static_cast<const uint8_t*>(rounded.data);
  double error = 0.0, norm = 0.0;
  rounded.ForRow(row, [&](int64_t col, int64_t i) {
    const double value = exact[static_cast<size_t>(col)];
    const double off = value - scale * (codes[i] - kDenseInt8Offset);
    error += off * off;
    norm += value * value;
  });
  error = std::sqrt(error);
  norm = std::sqrt(norm) + error;  // no less than either row's
  const auto n = static_cast<double>(rounded.cols);
  const double bound = error + norm * (4 * (n + 16) * 0x1p-24 + 0.51 / 32639 * std::sqrt(n));
  // The sums above and the float below round, and AMX takes denormals for zero.
  const auto result = static_cast<float>(bound * (1 + 1e-6) + 1e-30);
  return std::isfinite(result) ? result : HUGE_VALF;
}

}  // namespace sterna

#endif  // STERNA_KERNELS_DENSE_SHORTLIST_H_
