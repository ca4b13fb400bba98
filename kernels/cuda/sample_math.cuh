// What the sampling kernels compute with: logits as ordered integers, probabilities as integers,
// and sums over warps and blocks. Whole warps call everything that says so.
#ifndef STERNA_KERNELS_CUDA_SAMPLE_MATH_CUH_
#define STERNA_KERNELS_CUDA_SAMPLE_MATH_CUH_

#include <cstdint>

#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/sample.h"

namespace sterna::cuda {

inline constexpr int kWeightBits = 43;
inline constexpr uint64_t kWeightOne = uint64_t{1} << kWeightBits;  // the most likely token's
inline constexpr double kLog2E = 1.4426950408889634;

static_assert(static_cast<uint64_t>(kMostVocabulary) <= (uint64_t{1} << (63 - kWeightBits)),
              "sums of weights, and of one more, are below 2^64");
// Buckets but the last hold all that has a weight: 0.5 * 2^-43 is 44 ln 2 = 30.5 nats down.
static_assert(kSampleBuckets - 1 > 31 * kSampleBucketsPerNat, "");

__device__ __forceinline__ float Infinity() { return __uint_as_float(0x7f800000u); }

// NaN as -infinity and -0 as +0, so that the bits order as the values do.
__device__ __forceinline__ float Canonical(float logit) {
  return logit == logit ? logit + 0.0f : -Infinity();
}

// An integer that orders as canonical logits do; at least 1, so 0 is below all.
__device__ __forceinline__ uint32_t KeyOf(float logit) {
  const uint32_t bits = __float_as_uint(logit);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float LogitOf(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}

// Orders tokens by likelihood, the lower id first among equals: the most likely has the largest.
__device__ __forceinline__ uint64_t RankOf(float logit, int token) {
  return static_cast<uint64_t>(KeyOf(logit)) << 32 | ~static_cast<uint32_t>(token);
}
__device__ __forceinline__ float LogitOfRank(uint64_t rank) {
  return LogitOf(static_cast<uint32_t>(rank >> 32));
}
__device__ __forceinline__ int TokenOfRank(uint64_t rank) {
  return static_cast<int>(~static_cast<uint32_t>(rank));
}

// 2^x for x <= 0, to 1e-14; 0 below 2^-1000. Only operations that round in one way everywhere, so
// that the tests on a host see the device's bits.
__device__ __forceinline__ double Exp2(double x) {
  if (!(x > -1000.0)) return 0.0;
  constexpr double kToInteger = 6755399441055744.0;  // 1.5 * 2^52: what is added to it is rounded
  const double shifted = x + kToInteger;
  const double f = x - (shifted - kToInteger);  // -0.5 .. 0.5
  // ln(2)^k / k!
  double p = 4.4455382718708116e-10;
  p = fma(p, f, 7.054911620801123e-09);
  p = fma(p, f, 1.01780860092397e-07);
  p = fma(p, f, 1.321548679014431e-06);
  p = fma(p, f, 1.5252733804059841e-05);
  p = fma(p, f, 0.0001540353039338161);
  p = fma(p, f, 0.0013333558146428443);
  p = fma(p, f, 0.009618129107628477);
  p = fma(p, f, 0.05550410866482158);
  p = fma(p, f, 0.24022650695910072);
  p = fma(p, f, 0.6931471805599453);
  p = fma(p, f, 1.0);
  // The integer is in the low bits of `shifted`; it goes to the exponent.
  const uint64_t exponent = static_cast<uint64_t>(__double_as_longlong(shifted)) << 52;
  return __longlong_as_double(
      static_cast<long long>(static_cast<uint64_t>(__double_as_longlong(p)) + exponent));
}

// exp2((logit - largest) * scale) in units of 2^-kWeightBits, rounded to the nearest; that of
// `largest` itself is 1, also where both are the same infinity.
__device__ __forceinline__ uint64_t WeightOf(float logit, float largest, double scale) {
  if (logit == largest) return kWeightOne;
  const double x = (static_cast<double>(logit) - static_cast<double>(largest)) * scale;
  if (!(x > -static_cast<double>(kWeightBits + 2))) return 0;
  constexpr double kToUnits = 1ull << (52 - kWeightBits);  // an ulp of it is the unit
  return static_cast<uint64_t>(__double_as_longlong(Exp2(x) + kToUnits) -
                               __double_as_longlong(kToUnits));
}

struct Add {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Max {
  template <typename T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

__device__ __forceinline__ int Lane() { return static_cast<int>(threadIdx.x % kWarpThreads); }
__device__ __forceinline__ int WarpOfBlock() { return static_cast<int>(threadIdx.x / 32); }

// All lanes get the result. Whole warps.
template <typename T, typename Op>
__device__ __forceinline__ T WarpReduce(T value, Op op) {
  for (int mask = 16; mask > 0; mask /= 2) {
    value = op(value, __shfl_xor_sync(kFullWarp, value, mask));
  }
  return value;
}

// The sum over this lane and those before it. Whole warps.
template <typename T>
__device__ __forceinline__ T WarpInclusiveSum(T value) {
  for (int delta = 1; delta < 32; delta *= 2) {
    const T before = __shfl_up_sync(kFullWarp, value, static_cast<unsigned>(delta));
    if (Lane() >= delta) value += before;
  }
  return value;
}

// All threads get the result; 0 must not change one. `scratch` [warps] is shared memory that
// nothing else uses. Whole blocks.
template <typename T, typename Op>
__device__ __forceinline__ T BlockReduce(T value, Op op, T* scratch) {
  value = WarpReduce(value, op);
  __syncthreads();  // the reduction before may still be read
  if (Lane() == 0) scratch[WarpOfBlock()] = value;
  __syncthreads();
  const int warps = static_cast<int>(blockDim.x / kWarpThreads);
  return WarpReduce(Lane() < warps ? scratch[Lane()] : T{0}, op);
}

// Adds in shared memory, where the device has no 64-bit addition that is atomic but by retries: the
// carry of the lower half is known to whoever causes it.
__device__ __forceinline__ void AddToHalves(uint32_t* low, uint32_t* high, uint64_t value) {
  const auto low_value = static_cast<uint32_t>(value);
  const uint32_t before = atomicAdd(low, low_value);
  const uint32_t carry = before + low_value < before ? 1u : 0u;
  const uint32_t high_value = static_cast<uint32_t>(value >> 32) + carry;
  if (high_value != 0) atomicAdd(high, high_value);
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_SAMPLE_MATH_CUH_
