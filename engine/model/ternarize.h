// Ternary weights of a model in full precision, by their mean magnitude: the rounding that BitNet
// b1.58 trains with, done once to weights that were not trained for it. What it does to a model is
// damage, which only training on mends; the error says how far the weights moved.
// Source: BitNet b1.58 (arXiv:2402.17764, section 2).
//
// Thread contract: free functions without state.
#ifndef STERNA_ENGINE_MODEL_TERNARIZE_H_
#define STERNA_ENGINE_MODEL_TERNARIZE_H_

#include <cstdint>
#include <span>

#include "base/status.h"
#include "engine/model/weight_source.h"
#include "kernels/ternary_format.h"

namespace sterna {

// The sum of |x|, in eight interleaved partial sums, so that it vectorises and its order is fixed.
double AbsSum(std::span<const float> x);

// codes[i] = clamp(round_half_even(x[i] * inverse_scale), -1, 1) + 1.
void RoundToTernary(std::span<const float> x, double inverse_scale, std::span<uint8_t> codes);

struct TernarizeError {
  double squared_error = 0;  // the sum of (W - s * w)^2
  double squared_norm = 0;   // the sum of W^2

  double relative() const { return squared_norm > 0 ? squared_error / squared_norm : 0; }
  void Add(const TernarizeError& other) {
    squared_error += other.squared_error;
    squared_norm += other.squared_norm;
  }
};

struct Ternarized {
  TernaryMatrix w;
  TernarizeError error;
};

// w = clamp(round(W / m), -1, 1), where m is the mean of |W| over the unit: the tensor, a row, or
// `group_size` neighbours in a row (group_size is of kGroup alone). The scale is m in half
// precision, which every format of `convert` holds; the error is that of the scale as rounded.
// DataLoss for values that are not finite; InvalidArgument when all are zero.
StatusOr<Ternarized> TernarizeAbsmean(const StoredMatrix& full, ScaleGranularity granularity,
                                      int64_t group_size = 0);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_TERNARIZE_H_
