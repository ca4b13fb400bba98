#include "kernels/philox.h"

#include <array>
#include <cmath>
#include <cstdint>

#include "gtest/gtest.h"

namespace sterna {
namespace {

using Words = std::array<uint32_t, 4>;

// The known answers that Random123, the authors' own distribution, publishes for philox4x32-10.
TEST(Philox, GivesThePublishedAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, UniformUsesAllBitsOfSeedAndPosition) {
  const double base = PhiloxUniform(1, 2);
  EXPECT_EQ(base, PhiloxUniform(1, 2));
  for (int bit = 0; bit < 64; ++bit) {
    EXPECT_NE(base, PhiloxUniform(1 ^ uint64_t{1} << bit, 2)) << bit;
    EXPECT_NE(base, PhiloxUniform(1, 2 ^ uint64_t{1} << bit)) << bit;
  }
}

TEST(Philox, UniformIsUniform) {
  constexpr int kDraws = 100000;
  double sum = 0;
  std::array<int, 20> bins{};
  for (int i = 0; i < kDraws; ++i) {
    const double u = PhiloxUniform(7, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    ++bins[static_cast<size_t>(u * 20)];
  }
  // The mean of n uniform numbers deviates by 1 / sqrt(12 n); 5 of these.
  EXPECT_NEAR(sum / kDraws, 0.5, 5 / std::sqrt(12.0 * kDraws));
  double chi_square = 0;
  for (int count : bins) chi_square += std::pow(count - kDraws / 20.0, 2) / (kDraws / 20.0);
  EXPECT_LT(chi_square, 50.8);  // 19 degrees of freedom, one in 10,000
}

}  // namespace
}  // namespace sterna
