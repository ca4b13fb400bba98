// IEEE half precision (1 + 5 + 10 bits): how K/V may be stored, and some checkpoints' scales are.
#ifndef STERNA_KERNELS_HALF_FLOAT_H_
#define STERNA_KERNELS_HALF_FLOAT_H_

#include <bit>
#include <cstdint>

namespace sterna {

inline constexpr float kLargestHalf = 65504.0f;

inline float HalfToFloat(uint16_t half) {
  // All cases at once, of which masks (-1 or 0) choose: without branches loops of it vectorise.
  const int32_t sign = (half & 0x8000) << 16;
  const int32_t magnitude = half & 0x7fff;
  const int32_t is_subnormal = (magnitude - 0x0400) >> 31;
  const int32_t is_not_finite = (0x7bff - magnitude) >> 31;
  const auto subnormal = std::bit_cast<int32_t>(static_cast<float>(magnitude) * 0x1p-24f);
  const int32_t normal = (magnitude << 13) + 0x38000000;
  return std::bit_cast<float>(sign | (subnormal & is_subnormal) | (normal & ~is_subnormal) |
                              (0x7f800000 & is_not_finite));
}

// Rounds half to even; what is too large becomes the largest half, NaN stays NaN.
inline uint16_t FloatToHalf(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  uint32_t half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= std::bit_cast<uint32_t>(kLargestHalf)) {
    half = 0x7bff;
  } else if (magnitude >= 0x38800000) {
    half = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  } else {
    // Subnormal halves are multiples of 2^-24, which is what the last bit of a float around 0.5 is
    // worth: the addition rounds.
    half = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000;
  }
  return static_cast<uint16_t>(sign | half);
}

}  // namespace sterna

#endif  // STERNA_KERNELS_HALF_FLOAT_H_
