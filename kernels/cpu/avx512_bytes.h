// The part of AVX-512's vector type (vector_math.h) that AMX wants as well: bytes in a register.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AVX512_BYTES_H_
#define STERNA_KERNELS_CPU_AVX512_BYTES_H_

#include <immintrin.h>

#include <cstdint>

namespace sterna::cpu {
namespace {

struct Avx512Bytes {
  using IntReg = __m512i;

  static IntReg LoadBytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static IntReg SetBytes(char byte) { return _mm512_set1_epi8(byte); }
  template <int kBits>
  static IntReg ShiftLeft(IntReg x) {
    return _mm512_slli_epi16(x, kBits);
  }
  template <int kBits>
  static IntReg ShiftRight(IntReg x) {
    return _mm512_srli_epi16(x, kBits);
  }
  template <int kMask>
  static IntReg SelectBits(IntReg a, IntReg b) {
    constexpr int kAIfMaskElseB = 0xca;  // the truth table of (mask, a, b)
    return _mm512_ternarylogic_epi32(SetBytes(static_cast<char>(kMask)), a, b, kAIfMaskElseB);
  }
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AVX512_BYTES_H_
