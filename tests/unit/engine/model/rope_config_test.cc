#include <cmath>
#include <vector>

#include "engine/model/config.h"
#include "gtest/gtest.h"

namespace sterna {
namespace {

TEST(RopeConfigTest, InverseFrequencies) {
  RopeConfig rope{.theta = 10000.0};
  const std::vector<double> plain = rope.InverseFrequencies(16);
  ASSERT_EQ(plain.size(), 8u);
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_NEAR(plain[i], std::pow(10.0, -0.5 * static_cast<double>(i)), 1e-15);
  }
  rope.scaling = RopeScaling::kLinear;
  rope.factor = 2.5;
  const std::vector<double> linear = rope.InverseFrequencies(16);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_DOUBLE_EQ(linear[i], plain[i] / 2.5);
}

TEST(RopeConfigTest, Llama3StretchesSlowPairs) {
  const RopeConfig rope{.theta = 10000.0,
                        .scaling = RopeScaling::kLlama3,
                        .factor = 8.0,
                        .low_freq_factor = 1.0,
                        .high_freq_factor = 4.0,
                        .original_max_positions = 64};
  // Transformers 5.14.1 with its casts lifted to float64.
  const double expected[] = {1.0,
                             0.24438459943539836,
                             0.013042256043820465,
                             0.003952847075210474,
                             0.00125,
                             0.00039528470752104737,
                             0.000125,
                             3.952847075210474e-05};
  const std::vector<double> frequencies = rope.InverseFrequencies(16);
  ASSERT_EQ(frequencies.size(), std::size(expected));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    EXPECT_NEAR(frequencies[i] / expected[i], 1.0, 1e-14) << i;
  }
}

void ExpectFrequencies(const RopeConfig& rope, const std::vector<double>& expected) {
  const std::vector<double> frequencies = rope.InverseFrequencies(32);
  ASSERT_EQ(frequencies.size(), expected.size());
  for (size_t i = 0; i < frequencies.size(); ++i) {
    EXPECT_NEAR(frequencies[i] / expected[i], 1.0, 1e-13) << i;
  }
}

// Both of Transformers 5.14.1 with its casts lifted to float64.
TEST(RopeConfigTest, YarnStretchesSlowPairs) {
  RopeConfig rope{.theta = 10000.0,
                  .scaling = RopeScaling::kYarn,
                  .factor = 4.0,
                  .original_max_positions = 1024};
  ExpectFrequencies(
      rope, {1.0, 0.5623413251903491, 0.31622776601683794, 0.15877494732490383, 0.07857142857142858,
             0.03815887563791654, 0.018070158058105024, 0.008256297260895, 0.0035714285714285718,
             0.0014058533129758727, 0.0007905694150420947, 0.00044456985250973074, 0.00025,
             0.00014058533129758727, 7.905694150420948e-05, 4.445698525097307e-05});
  rope.truncate = false;
  rope.beta_fast = 16.0;
  rope.beta_slow = 2.0;
  ExpectFrequencies(rope,
                    {1.0, 0.5623413251903491, 0.31622776601683794, 0.17782794100389226, 0.1,
                     0.04493238989716079, 0.018701802801771347, 0.006824723863016666, 0.0025,
                     0.0014058533129758727, 0.0007905694150420947, 0.00044456985250973074, 0.00025,
                     0.00014058533129758727, 7.905694150420948e-05, 4.445698525097307e-05});
}

}  // namespace
}  // namespace sterna
