// The codecs of bfloat16.h and float8.h: all codes, and rounding around every number between two.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"
#include "kernels/bfloat16.h"
#include "kernels/float8.h"

namespace sterna {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// As OFP8 defines the format.
double NumberOfE4m3(int code) {
  const int exponent = code >> 3 & 15;
  const int mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(1.0 + mantissa / 8.0, exponent - 7);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

TEST(E4m3, EveryCodeIsItsNumberAndComesBack) {
  for (int code = 0; code < 256; ++code) {
    const float value = E4m3ToFloat(static_cast<uint8_t>(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    EXPECT_EQ(value, NumberOfE4m3(code)) << code;
    EXPECT_EQ(std::signbit(value), code >= 0x80) << code;
    EXPECT_EQ(FloatToE4m3(value), code);
  }
  // The numbers that the specification spells out.
  EXPECT_EQ(E4m3ToFloat(0x7e), 448.0f);
  EXPECT_EQ(E4m3ToFloat(0x08), 0x1p-6f);
  EXPECT_EQ(E4m3ToFloat(0x07), 0.875f * 0x1p-6f);
  EXPECT_EQ(E4m3ToFloat(0x01), 0x1p-9f);
}

// Between each two neighbours: the tie goes to the even code, a float to either side of it to the
// nearer one, as does everything in between.
TEST(E4m3, RoundsHalfToEven) {
  for (int code = 0; code < 0x7e; ++code) {
    const float below = E4m3ToFloat(static_cast<uint8_t>(code));
    const float above = E4m3ToFloat(static_cast<uint8_t>(code + 1));
    const float tie = (below + above) / 2;  // exact: one bit more
    for (const int sign : {0, 0x80}) {
      const auto rounded = [sign](float x) { return FloatToE4m3(sign != 0 ? -x : x) - sign; };
      EXPECT_EQ(rounded(tie), code + code % 2) << code;
      EXPECT_EQ(rounded(std::nextafter(tie, 0.0f)), code) << code;
      EXPECT_EQ(rounded(std::nextafter(tie, kInfinity)), code + 1) << code;
      EXPECT_EQ(rounded(std::nextafter(below, kInfinity)), code) << code;
      EXPECT_EQ(rounded(std::nextafter(above, 0.0f)), code + 1) << code;
    }
  }
}

TEST(E4m3, SaturatesAndKeepsNan) {
  for (const float x : {448.0f, 463.9f, 464.0f, 480.0f, 1e30f, kInfinity}) {
    EXPECT_EQ(FloatToE4m3(x), 0x7e) << x;
    EXPECT_EQ(FloatToE4m3(-x), 0xfe) << x;
  }
  EXPECT_EQ(FloatToE4m3(kNan), 0x7f);
  EXPECT_EQ(FloatToE4m3(std::bit_cast<float>(0xff800001)), 0x7f);
  EXPECT_EQ(FloatToE4m3(1e-40f), 0);
  EXPECT_EQ(FloatToE4m3(-1e-40f), 0x80);
}

TEST(Bf16, EveryCodeIsItsNumberAndComesBack) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(code));
    ASSERT_EQ(std::bit_cast<uint32_t>(value), code << 16);
    if (std::isfinite(value)) {
      ASSERT_EQ(FloatToBf16(value), code);
    }
  }
}

TEST(Bf16, RoundsHalfToEven) {
  for (uint32_t code = 0; code < 0x7f7f; ++code) {
    const uint32_t tie = code << 16 | 0x8000;
    for (const uint32_t sign : {0u, 0x8000u}) {
      const auto rounded = [sign](uint32_t bits) {
        return FloatToBf16(std::bit_cast<float>(bits | sign << 16)) - sign;
      };
      ASSERT_EQ(rounded(tie), code + code % 2);
      ASSERT_EQ(rounded(tie - 1), code);
      ASSERT_EQ(rounded(tie + 1), code + 1);
    }
  }
}

TEST(Bf16, SaturatesAndKeepsNan) {
  for (const float x : {kLargestBf16, std::numeric_limits<float>::max(), kInfinity}) {
    EXPECT_EQ(FloatToBf16(x), 0x7f7f) << x;
    EXPECT_EQ(FloatToBf16(-x), 0xff7f) << x;
  }
  EXPECT_EQ(FloatToBf16(kNan), 0x7fff);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0xff800001)), 0x7fff);
}

}  // namespace
}  // namespace sterna
