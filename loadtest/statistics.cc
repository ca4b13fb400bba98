#include "loadtest/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "base/check.h"

namespace sterna {

double Percentile(const std::vector<double>& sorted, double fraction) {
  STERNA_CHECK(!sorted.empty() && fraction >= 0 && fraction <= 1);
  const double rank = fraction * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(rank);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double weight = rank - static_cast<double>(below);
  return sorted[below] + weight * (sorted[above] - sorted[below]);
}

Distribution Summarise(std::vector<double> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {.count = static_cast<int64_t>(samples.size()),
          .mean = std::accumulate(samples.begin(), samples.end(), 0.0) /
                  static_cast<double>(samples.size()),
          .p50 = Percentile(samples, 0.50),
          .p90 = Percentile(samples, 0.90),
          .p95 = Percentile(samples, 0.95),
          .p99 = Percentile(samples, 0.99),
          .max = samples.back()};
}

double PoissonArrivals::Next() {
  // The generator's 64 bits are the same everywhere; std::exponential_distribution is not.
  const double uniform = static_cast<double>(random_() >> 11) * 0x1.0p-53;  // [0, 1)
  now_ += -std::log1p(-uniform) / rate_;
  return now_;
}

}  // namespace sterna
