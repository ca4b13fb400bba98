// RopeConfig: how far each pair of a head turns from one position to the next.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

#include "base/check.h"
#include "engine/model/config.h"

namespace sterna {
namespace {

// The pairs of yarn between which its stretching goes from none to whole.
struct YarnRamp {
  double begin = 0;
  double end = 1;
};

YarnRamp YarnRampOf(const RopeConfig& rope, int64_t head_dim) {
  const auto dim = static_cast<double>(head_dim);
  // The pair that makes so many turns over the original positions.
  const auto pair_of = [&](double turns) {
    const double positions_of_turn = static_cast<double>(rope.original_max_positions) / turns;
    return dim * std::log(positions_of_turn / (2.0 * std::numbers::pi)) /
           (2.0 * std::log(rope.theta));
  };
  double begin = pair_of(rope.beta_fast);
  double end = pair_of(rope.beta_slow);
  if (rope.truncate) {
    begin = std::floor(begin);
    end = std::ceil(end);
  }
  begin = std::max(begin, 0.0);
  end = std::min(end, dim - 1);
  return {.begin = begin, .end = end == begin ? end + 0.001 : end};
}

}  // namespace

std::vector<double> RopeConfig::InverseFrequencies(int64_t head_dim) const {
  STERNA_CHECK(head_dim > 0 && head_dim % 2 == 0);
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  const double context = static_cast<double>(original_max_positions);
  const YarnRamp ramp = scaling == RopeScaling::kYarn ? YarnRampOf(*this, head_dim) : YarnRamp();
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = static_cast<double>(2 * i) / static_cast<double>(head_dim);
    double frequency = 1.0 / std::pow(theta, exponent);
    if (scaling == RopeScaling::kLinear) frequency /= factor;
    if (scaling == RopeScaling::kLlama3) {
      // Turns that the pair makes over the context the model was first trained on: fast pairs stay,
      // slow ones are stretched by `factor`, those between are blended.
      const double turns = context / (2.0 * std::numbers::pi / frequency);
      if (turns < low_freq_factor) {
        frequency /= factor;
      } else if (turns <= high_freq_factor) {
        const double blend = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
        frequency = (1.0 - blend) * frequency / factor + blend * frequency;
      }
    }
    if (scaling == RopeScaling::kYarn) {
      const double stretched =
          std::clamp((static_cast<double>(i) - ramp.begin) / (ramp.end - ramp.begin), 0.0, 1.0);
      frequency = frequency / factor * stretched + frequency * (1.0 - stretched);
    }
    if (!frequency_divisors.empty()) frequency /= frequency_divisors[i];
    frequencies[i] = frequency;
  }
  return frequencies;
}

}  // namespace sterna
