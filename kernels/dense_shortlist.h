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
//
// This holds where nothing overflows and what underflows, n 2^-126 at most, is less than
// kUnderflow |x|: for |x| from kLeastShortlistNorm to kMostShortlistNorm and rows up to the latter.
#ifndef STERNA_KERNELS_DENSE_SHORTLIST_H_
#define STERNA_KERNELS_DENSE_SHORTLIST_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>

#include "kernels/dense_format.h"

namespace sterna {

inline constexpr double kLeastShortlistNorm = 1e-3;
inline constexpr double kMostShortlistNorm = 1e15;

// Whether a row has an error bound. One that is not finite, or too large, has infinity for it, and
// must be rounded as if it were all zeros, so that nothing that is computed of it is NaN.
inline bool HasShortlistBound(std::span<const float> exact) {
  const double largest = LargestMagnitude(exact);
  // No less than the norm; false for NaN.
  return largest * std::sqrt(static_cast<double>(exact.size())) <= kMostShortlistNorm;
}

// A view beside a DenseMatrix of the same shape; owns nothing.
struct DenseShortlist {
  DenseMatrix rounded;                  // kI8 in kTiles
  const float* error_bounds = nullptr;  // [rows], times |x|_2

  bool empty() const { return error_bounds == nullptr; }
  int64_t bytes() const {
    return empty() ? 0 : rounded.bytes() + rounded.rows * static_cast<int64_t>(sizeof(float));
  }
};

// The error bound of a row that has one, which RoundDenseRow made `codes` and `scale` of.
inline float ShortlistErrorBound(std::span<const float> exact, std::span<const uint8_t> codes,
                                 double scale) {
  constexpr double kUnderflow = 1e-30;
  double errors[kRowLanes] = {}, norms[kRowLanes] = {};
  ForLanes(exact.size(), [&](size_t lane, size_t i) {
    const double value = exact[i];
    const double off = value - scale * (codes[i] - kDenseInt8Offset);
    errors[lane] += off * off;
    norms[lane] += value * value;
  });
  const double error = std::sqrt(std::accumulate(errors, errors + kRowLanes, 0.0));
  // No less than either row's.
  const double norm = std::sqrt(std::accumulate(norms, norms + kRowLanes, 0.0)) + error;
  const auto n = static_cast<double>(exact.size());
  const double bound = error + norm * (4 * (n + 16) * 0x1p-24 + 0.51 / 32639 * std::sqrt(n));
  return static_cast<float>(bound * (1 + 1e-6) + kUnderflow);  // sums and the float round
}

}  // namespace sterna

#endif  // STERNA_KERNELS_DENSE_SHORTLIST_H_
