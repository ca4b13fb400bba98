#include "loadtest/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace sterna {
namespace {

TEST(PercentileTest, IsLinearBetweenNeighbours) {
  const std::vector<double> sorted = {10, 20, 30, 40, 50};
  EXPECT_EQ(Percentile(sorted, 0), 10);
  EXPECT_EQ(Percentile(sorted, 0.5), 30);
  EXPECT_EQ(Percentile(sorted, 1), 50);
  EXPECT_DOUBLE_EQ(Percentile(sorted, 0.9), 46);  // numpy.percentile(..., 90)
  EXPECT_DOUBLE_EQ(Percentile(sorted, 0.99), 49.6);
  EXPECT_DOUBLE_EQ(Percentile({1, 2}, 0.25), 1.25);
  EXPECT_EQ(Percentile({7}, 0.99), 7);
}

TEST(SummariseTest, SortsAndCounts) {
  std::vector<double> samples;
  for (int i = 100; i >= 1; --i) samples.push_back(i);
  const Distribution d = Summarise(samples);
  EXPECT_EQ(d.count, 100);
  EXPECT_DOUBLE_EQ(d.mean, 50.5);
  EXPECT_DOUBLE_EQ(d.p50, 50.5);
  EXPECT_DOUBLE_EQ(d.p90, 90.1);
  EXPECT_DOUBLE_EQ(d.p95, 95.05);
  EXPECT_DOUBLE_EQ(d.p99, 99.01);
  EXPECT_EQ(d.max, 100);
  EXPECT_EQ(Summarise({}).count, 0);
  EXPECT_EQ(Summarise({}).p99, 0);
}

TEST(PoissonArrivalsTest, GapsAreExponentialWithTheRatesMean) {
  constexpr int kCount = 20000;
  constexpr double kRate = 50;
  PoissonArrivals arrivals(kRate, 3);
  std::vector<double> gaps;
  double last = 0;
  for (int i = 0; i < kCount; ++i) {
    const double now = arrivals.Next();
    ASSERT_GE(now, last);
    gaps.push_back(now - last);
    last = now;
  }
  const Distribution d = Summarise(gaps);
  // Mean and median of an exponential; five standard errors of the mean.
  EXPECT_NEAR(d.mean * kRate, 1.0, 5 / std::sqrt(kCount));
  EXPECT_NEAR(d.p50 * kRate, std::log(2.0), 5 / std::sqrt(kCount));
  EXPECT_NEAR(d.p99 * kRate, std::log(100.0), 0.4);
  double square = 0;
  for (const double gap : gaps) square += (gap - d.mean) * (gap - d.mean);
  EXPECT_NEAR(std::sqrt(square / kCount) * kRate, 1.0, 0.05);
}

TEST(PoissonArrivalsTest, TheSeedDecides) {
  PoissonArrivals a(2, 9), b(2, 9), c(2, 10);
  const double first = a.Next();
  EXPECT_EQ(b.Next(), first);
  EXPECT_NE(c.Next(), first);
}

}  // namespace
}  // namespace sterna
