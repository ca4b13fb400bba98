#include "engine/model/ternarize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/half_float.h"

namespace sterna {
namespace {

// The mean of |W| over the whole matrix, taken in double: it has to be right for any size.
double MeanMagnitude(const StoredMatrix& full) {
  std::vector<float> row(static_cast<size_t>(full.cols));
  double sum = 0;
  for (int64_t r = 0; r < full.rows; ++r) {
    full.read_row(r, row);
    sum += AbsSum(row);
  }
  return sum / (static_cast<double>(full.rows) * static_cast<double>(full.cols));
}

// Rounds a unit, or the part of it that is in one row, whose mean magnitude is `mean`, and adds
// what it costs to `error`. Returns the scale.
float RoundUnit(std::span<const float> x, double mean, std::span<uint8_t> codes,
                TernarizeError& error) {
  const float scale = HalfToFloat(FloatToHalf(static_cast<float>(mean)));
  if (mean == 0) {
    std::ranges::fill(codes, kTernaryCodeZero);
  } else {
    RoundToTernary(x, 1.0 / mean, codes);
  }
  for (size_t i = 0; i < x.size(); ++i) {
    const double left = double{x[i]} - (codes[i] - 1) * double{scale};
    error.squared_error += left * left;
    error.squared_norm += double{x[i]} * x[i];
  }
  return scale;
}

}  // namespace

double AbsSum(std::span<const float> x) {
  std::array<double, 8> lanes{};
  size_t i = 0;
  for (; i + lanes.size() <= x.size(); i += lanes.size()) {
    for (size_t lane = 0; lane < lanes.size(); ++lane) lanes[lane] += std::abs(x[i + lane]);
  }
  for (; i < x.size(); ++i) lanes[0] += std::abs(x[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

void RoundToTernary(std::span<const float> x, double inverse_scale, std::span<uint8_t> codes) {
  for (size_t i = 0; i < x.size(); ++i) {
    // Rounding half to even and clamping to one leaves just these two comparisons.
    const double scaled = x[i] * inverse_scale;
    codes[i] = static_cast<uint8_t>(1 + (scaled > 0.5 ? 1 : 0) - (scaled < -0.5 ? 1 : 0));
  }
}

StatusOr<Ternarized> TernarizeAbsmean(const StoredMatrix& full, ScaleGranularity granularity,
                                      int64_t group_size) {
  const bool of_tensor = granularity == ScaleGranularity::kTensor;
  if (granularity != ScaleGranularity::kGroup) group_size = full.cols;
  STERNA_CHECK(group_size > 0);
  const double tensor_mean = of_tensor ? MeanMagnitude(full) : 0;
  const int64_t groups = CeilDiv(full.cols, group_size);
  Ternarized out{.w = TernaryMatrix(full.rows, full.cols), .error = {}};
  std::vector<float> row(static_cast<size_t>(full.cols));
  std::vector<uint8_t> codes(row.size());
  std::vector<float> scales(static_cast<size_t>(full.rows * groups));
  for (int64_t r = 0; r < full.rows; ++r) {
    full.read_row(r, row);
    for (int64_t group = 0; group < groups; ++group) {
      const auto begin = static_cast<size_t>(group * group_size);
      const auto count = std::min(static_cast<size_t>(group_size), row.size() - begin);
      const auto x = std::span<const float>(row).subspan(begin, count);
      const double mean = of_tensor ? tensor_mean : AbsSum(x) / static_cast<double>(count);
      scales[static_cast<size_t>(r * groups + group)] =
          RoundUnit(x, mean, std::span(codes).subspan(begin, count), out.error);
    }
    out.w.SetRowCodes(r, codes, 0);
  }
  if (!std::isfinite(out.error.squared_norm)) {
    return absl::DataLossError(absl::StrCat(full.where, " holds values that are not finite"));
  }
  if (out.error.squared_norm == 0) {
    return absl::InvalidArgumentError(absl::StrCat(full.where, " holds nothing but zeros"));
  }
  if (of_tensor) out.w.SetTensorScale(scales[0]);
  if (granularity == ScaleGranularity::kRow) out.w.SetRowScales(scales);
  if (granularity == ScaleGranularity::kGroup) out.w.SetGroupScales(scales, group_size);
  return out;
}

}  // namespace sterna
