// The codes of int8 and int6 weights from the lines of tiles (dense_format.h), written once over
// the vector type of vector_math.h.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_INT8_LINES_H_
#define STERNA_KERNELS_CPU_INT8_LINES_H_

#include <cstdint>

#include "kernels/dense_format.h"

namespace sterna::cpu {
namespace {

// V's part of the lines of kInt8GroupCols columns, of int8 (kLow) or int6. The latter takes the
// weight in the middle of four, rounded up: codes are too large by kInt6Excess.
template <typename V, bool kLow>
struct Int8Lines {
  using IntReg = typename V::IntReg;

  IntReg high[kInt8HighLines];
  IntReg low;

  // `low_line` is not read where there is none.
  static Int8Lines Load(const uint8_t* high_lines, const uint8_t* low_line) {
    Int8Lines lines;
    for (int64_t i = 0; i < kInt8HighLines; ++i) {
      lines.high[i] = V::LoadBytes(high_lines + i * kDenseLineBytes);
    }
    constexpr char kMiddle = 2;
    if constexpr (kLow) {
      lines.low = V::LoadBytes(low_line);
    } else {
      lines.low = V::SetBytes(kMiddle);
    }
    return lines;
  }

  // Of columns 4 * kJ .. 4 * kJ + 3.
  template <int kJ>
  IntReg Codes() const {
    IntReg bits;
    if constexpr (kJ < kInt8HighLines) {
      bits = high[kJ];
    } else {
      bits = V::template SelectBits<0xc0>(V::template ShiftLeft<6>(high[0]),
                                          V::template ShiftLeft<4>(high[1]));
      bits = V::template SelectBits<0xf0>(bits, V::template ShiftLeft<2>(high[2]));
    }
    if constexpr (kLow) {
      return V::template SelectBits<0xfc>(bits, V::template ShiftRight<2 * kJ>(low));
    } else {
      return V::template SelectBits<0xfc>(bits, low);
    }
  }
};

constexpr float kInt6Excess = 0.5f;

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_INT8_LINES_H_
