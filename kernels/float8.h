// The 8-bit float e4m3: how K/V may be stored.
//
//   bit  7     6 .. 3         2 .. 0
//        sign  exponent, e    mantissa, m
//   e > 0: 2^(e - 7) * (1 + m / 8)     2^-6 .. 448
//   e = 0: 2^-6 * m / 8                multiples of 2^-9
//   e = 15, m = 7: NaN; there is no infinity
//
// Source: OCP 8-bit Floating Point Specification (OFP8), revision 1.0, and Micikevicius et al.,
// "FP8 formats for deep learning", arXiv:2209.05433, section 3 (what others call e4m3fn).
#ifndef STERNA_KERNELS_FLOAT8_H_
#define STERNA_KERNELS_FLOAT8_H_

#include <bit>
#include <cstdint>
#include <limits>

namespace sterna {

inline constexpr float kLargestE4m3 = 448.0f;

inline float E4m3ToFloat(uint8_t e4m3) {
  const uint32_t magnitude = e4m3 & 0x7f;
  if (magnitude == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  const float value =
      magnitude >= 8 ? std::bit_cast<float>((magnitude << 20) + 0x3c000000)  // 120: both biases
                     : static_cast<float>(magnitude) * 0x1p-9f;
  return (e4m3 & 0x80) != 0 ? -value : value;
}

// Rounds half to even; what is too large, infinities too, becomes the largest number ("saturating"
// in OFP8), any NaN 0x7f.
inline uint8_t FloatToE4m3(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 24 & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t e4m3;
  if (magnitude > 0x7f800000) return 0x7f;
  if (magnitude >= std::bit_cast<uint32_t>(kLargestE4m3)) {
    e4m3 = 0x7e;
  } else if (magnitude >= std::bit_cast<uint32_t>(0x1p-6f)) {
    e4m3 = (magnitude - 0x3c000000 + 0x7ffff + (magnitude >> 20 & 1)) >> 20;
  } else {
    // Multiples of 2^-9, which is what the last bit of a float around 2^14 is worth: the addition
    // rounds.
    constexpr float kAround = 0x1p14f;
    e4m3 = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + kAround) -
           std::bit_cast<uint32_t>(kAround);
  }
  return static_cast<uint8_t>(sign | e4m3);
}

}  // namespace sterna

#endif  // STERNA_KERNELS_FLOAT8_H_
