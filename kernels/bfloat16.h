// bfloat16 (1 + 8 + 7 bits): the first half of a float. Checkpoints' weights, and K/V on devices
// that want it.
#ifndef STERNA_KERNELS_BFLOAT16_H_
#define STERNA_KERNELS_BFLOAT16_H_

#include <bit>
#include <cstdint>

namespace sterna {

inline constexpr float kLargestBf16 = 0x1.fep127f;

inline float Bf16ToFloat(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

// Rounds half to even; what is too large, infinities too, becomes the largest bfloat16, any NaN
// 0x7fff.
inline uint16_t FloatToBf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7fff;
  if (magnitude >= std::bit_cast<uint32_t>(kLargestBf16)) {
    return static_cast<uint16_t>(sign | 0x7f7f);
  }
  return static_cast<uint16_t>(sign | (magnitude + 0x7fff + (magnitude >> 16 & 1)) >> 16);
}

}  // namespace sterna

#endif  // STERNA_KERNELS_BFLOAT16_H_
