// The figures a load test reports: percentiles of samples, and when requests arrive.
#ifndef STERNA_LOADTEST_STATISTICS_H_
#define STERNA_LOADTEST_STATISTICS_H_

#include <cstdint>
#include <random>
#include <vector>

namespace sterna {

// Of samples in any unit; all zero when there are none.
struct Distribution {
  int64_t count = 0;
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;
};

// The value below which a `fraction` in [0, 1] of the ascending, non-empty `sorted` lies, linear
// between neighbours (numpy's default).
double Percentile(const std::vector<double>& sorted, double fraction);

Distribution Summarise(std::vector<double> samples);

// The instants of a Poisson process, from its seed alone: the same on every machine.
class PoissonArrivals {
 public:
  // `rate` > 0, a second.
  PoissonArrivals(double rate, uint64_t seed) : rate_(rate), random_(seed) {}
  // Seconds since the start at which the next request arrives.
  double Next();

 private:
  double rate_;
  std::mt19937_64 random_;
  double now_ = 0;
};

}  // namespace sterna

#endif  // STERNA_LOADTEST_STATISTICS_H_
