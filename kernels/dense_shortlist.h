// What tells, from half the bytes of a bf16 matrix or less, which of its outputs cannot be among
// the largest: the matrix rounded to int8, whose high bits are one rounded to int6, and for every
// row of either how far the rounded product can be from the exact one.
//
// With w an exact row, r the rounded one, both of n columns, and u = 2^-24:
//   |w . x - r . x| <= |w - r| |x|   (Cauchy and Schwarz),
// and what is computed differs from these products by
//   - the rounding of float sums: (3n + 8) u |w| |x| with three parts of an activation summed up
//     in any order (Higham, Accuracy and Stability of Numerical Algorithms, section 4.2), rounded
//     up to 4 (n + 16) u so that a few operations on the result are covered as well;
//   - activations of 16 bits (DenseLinearParams): each is off by 0.51 / 32639 of the largest, which
//     is at most |x|, so their product with r by 0.51 / 32639 sqrt(n) |r| |x|.
// int6 is multiplied half a step too large and put right by the sum of x: at most a third of
// |r| |x| more, whose rounding the operations allowed for above cover, as they do the bounds' own.
// All of it is a multiple of |x|; the multiple is the row's error bound. Where some of the
// activations' bits, a vector d, are not multiplied at all, |r| |d| comes on top.
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

// Greedy rows of x up to which a product begins with the high bits. Each leaves hundreds of row
// blocks to the low ones, and what the high ones save is saved once for all.
inline constexpr int64_t kMostHighBitsRows = 4;

// The rows' errors at six bits over their norms, times the root of the columns: how many deviations
// of an output whose inputs are normal. Up to so many they are of use: 1.7 for rows of 2560 normal
// weights, of which they leave 0.3 % open.
inline constexpr double kMostHighBitsDeviations = 2.5;

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
  // The same of rounded.HighBits(); null where they would leave too much open.
  const float* high_bits_error_bounds = nullptr;
  const float* norms = nullptr;  // [rows], of rounded, no less than they are

  bool empty() const { return error_bounds == nullptr; }
  int64_t bytes() const {
    return empty() ? 0 : rounded.bytes() + 3 * rounded.rows * static_cast<int64_t>(sizeof(float));
  }
  // Of these, what is read at the least for so many greedy rows of x.
  int64_t bytes_read(int64_t x_rows) const {
    const bool high_bits = x_rows <= kMostHighBitsRows && high_bits_error_bounds != nullptr;
    return (high_bits ? rounded.HighBits() : rounded).bytes() +
           rounded.rows * static_cast<int64_t>(sizeof(float));
  }
};

// What a shortlist has of a row.
struct ShortlistBounds {
  float error;
  float high_bits_error;
  float norm;
};

// Of a row that has bounds, which RoundDenseRow made `codes` and `scale` of.
inline ShortlistBounds BoundShortlistRow(std::span<const float> exact,
                                         std::span<const uint8_t> codes, double scale) {
  constexpr double kUnderflow = 1e-30;
  double int8_errors[kRowLanes] = {}, int6_errors[kRowLanes] = {}, norms[kRowLanes] = {};
  ForLanes(exact.size(), [&](size_t lane, size_t i) {
    const double value = exact[i];
    const double int8_off = value - scale * Int8Weight<double>(codes[i]);
    const double int6_off = value - scale * Int6Weight<double>(codes[i]);
    int8_errors[lane] += int8_off * int8_off;
    int6_errors[lane] += int6_off * int6_off;
    norms[lane] += value * value;
  });
  const auto n = static_cast<double>(exact.size());
  const auto sum = [](const double(&lanes)[kRowLanes]) {
    return std::accumulate(lanes, lanes + kRowLanes, 0.0);
  };
  // Sums and the float itself round.
  const auto round_up = [](double x) { return static_cast<float>(x * (1 + 1e-6) + kUnderflow); };
  const double exact_norm = std::sqrt(sum(norms));
  const auto bound = [&](double error) {
    const double norm = exact_norm + error;  // no less than either row's
    return round_up(error + norm * (4 * (n + 16) * 0x1p-24 + 0.51 / 32639 * std::sqrt(n)));
  };
  const double int8_error = std::sqrt(sum(int8_errors));
  return {.error = bound(int8_error),
          .high_bits_error = bound(std::sqrt(sum(int6_errors))),
          .norm = round_up(exact_norm + int8_error)};
}

}  // namespace sterna

#endif  // STERNA_KERNELS_DENSE_SHORTLIST_H_
