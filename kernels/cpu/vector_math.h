// What the float kernels are written over: a vector type `V` that each instruction set's file
// defines, and what is made of it in one way for all of them.
//
// Everything is in an unnamed namespace on purpose, although this is a header: each of the files
// that include it must get its own copy with internal linkage (kernel_table.h says why).
#ifndef STERNA_KERNELS_CPU_VECTOR_MATH_H_
#define STERNA_KERNELS_CPU_VECTOR_MATH_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace sterna::cpu {
namespace {

constexpr float kLog2E = 1.44269504f;
// ln 2 in two parts, the first with few enough bits that n * kLn2High is exact for |n| < 256.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
// Below this exp() is taken as zero, above as its value here: both still normal floats.
constexpr float kExpLowest = -87.0f;
constexpr float kExpHighest = 88.0f;

// V has, all static, Reg being a register of kLanes floats and IntReg one of kLanes int32:
//
// - Zero, Set(float), Load, LoadN(p, n) with zeros past n, Store, StoreN
// - LoadF16, LoadF16N, LoadI8, LoadI8N: the same of other types
// - LoadPairs(p, even, odd): the first and the second of kLanes pairs of bf16
// - StoreF16N(p, n, x), rounding half to even; x is no larger than a half can be, or NaN
// - Add, Sub, Mul, Div, Abs, Fma(a, b, c) = a * b + c
// - Max and Min: the second operand where either is NaN
// - Sum and Largest over lanes; Sum4(a, b, c, d, out): the sums of four registers in out[0 .. 3]
// - Round (half to even), TimesPow2(x, n) = x * 2^n
// - SelectLess(a, b, x, y) = a < b ? x : y, SelectEqual
// - IntZero, IntAdd, IntSum (over lanes), QuantizeN(x, n, q, sum): stores n lanes rounded to int8,
// adds them to sum
// - ToFloat(IntReg)
// - bytes in an IntReg: LoadBytes, SetBytes(char); ShiftLeft<n> and ShiftRight<n>, n < 8, which may
//   leave anything in the bits that are shifted in; SelectBits<mask>(a, b): in every byte the bits
//   of a where the mask has ones, else those of b
// - products of bytes: AddByteProducts(sums, weights, x) adds four products to each lane, with
//   weights from ByteWeights(codes) (of kLanes rows, four int8 of dense_format.h each) and x from
//   Broadcast4 (four activations); sums that began with ByteSumStart(sum of all x) come out as the
//   sums of weight * x
// - Keep(x): x, in a register; else the compiler reads memory anew at every use
// - kDenseRegs: accumulators that a dense product may keep in registers
// - kMostShortlistTokens, kChoosesStreams: see CpuKernels
// - kQueryTile: queries that attention takes together, 2 or 4
template <typename V>
struct VectorMath {
  using Reg = typename V::Reg;
  static constexpr int kLanes = V::kLanes;

  static Reg LoadUpTo(const float* p, int64_t n) {
    return n >= kLanes ? V::Load(p) : V::LoadN(p, n);
  }
  static void StoreUpTo(float* p, int64_t n, Reg x) {
    if (n >= kLanes) {
      V::Store(p, x);
    } else {
      V::StoreN(p, n, x);
    }
  }

  // e^x, within 2 ulp for kExpLowest <= x <= kExpHighest; 0 below.
  static Reg Exp(Reg x) {
    const Reg clamped = V::Min(V::Max(x, V::Set(kExpLowest)), V::Set(kExpHighest));
    const Reg n = V::Round(V::Mul(clamped, V::Set(kLog2E)));
    Reg r = V::Fma(n, V::Set(-kLn2High), clamped);
    r = V::Fma(n, V::Set(-kLn2Low), r);
    // Cephes' minimax coefficients for (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2.
    Reg p = V::Set(1.9875691500e-4f);
    p = V::Fma(p, r, V::Set(1.3981999507e-3f));
    p = V::Fma(p, r, V::Set(8.3334519073e-3f));
    p = V::Fma(p, r, V::Set(4.1665795894e-2f));
    p = V::Fma(p, r, V::Set(1.6666665459e-1f));
    p = V::Fma(p, r, V::Set(5.0000001201e-1f));
    p = V::Fma(V::Mul(p, r), r, V::Add(r, V::Set(1.0f)));
    return V::SelectLess(x, V::Set(kExpLowest), V::Zero(), V::TimesPow2(p, n));
  }

  // The first n of kLanes values, whatever they are stored as; zeros past them.
  static Reg LoadWide(const float* p, int64_t n) { return LoadUpTo(p, n); }
  static Reg LoadWide(const F16* p, int64_t n) {
    return n >= kLanes ? V::LoadF16(p) : V::LoadF16N(p, n);
  }
  static Reg LoadWide(const int8_t* p, int64_t n) {
    return n >= kLanes ? V::LoadI8(p) : V::LoadI8N(p, n);
  }
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_VECTOR_MATH_H_
