// A warp has one head's vector of one token in its registers: in one pass it is normalised,
// rotated, stored, and rounded to its place in the cache.
#include <cmath>

#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/rope.h"

namespace sterna::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMostHeadDim = 256;
constexpr int kPairs = kMostHeadDim / 64;  // of a lane

unsigned Blocks(int64_t work, int64_t of_block) {
  return static_cast<unsigned>((work + of_block - 1) / of_block);
}

__global__ void __launch_bounds__(kThreads) RotaryTableKernel(const RotaryTableArgs p) {
  WaitForPreviousKernel();
  LetNextKernelStart();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < static_cast<int64_t>(p.tokens) * p.half_dim) {
    // A float's angle at position 100,000 would be off by 0.004 radians.
    const double angle = p.positions[i / p.half_dim] * p.inv_freq[i % p.half_dim];
    p.cos[i] = static_cast<float>(cos(angle) * p.factor);
    p.sin[i] = static_cast<float>(sin(angle) * p.factor);
  }
}

// Elements i = lane + 32j of a vector's first half and of its second, zeros past the end.
struct LaneVector {
  float first[kPairs];
  float second[kPairs];
};

// Calls body(j, i) for this lane's pairs of elements i and i + half.
template <typename Body>
__device__ __forceinline__ void ForPairs(int half, const Body& body) {
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = static_cast<int>(threadIdx.x) % 32 + j * 32;
    if (i < half) body(j, i);
  }
}

__device__ LaneVector LoadVector(const float* from, int half) {
  LaneVector x = {};
  ForPairs(half, [&](int j, int i) {
    x.first[j] = from[i];
    x.second[j] = from[i + half];
  });
  return x;
}

__device__ void Normalize(const float* weight, float eps, int half, LaneVector& x) {
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    sum += x.first[j] * x.first[j];
    sum += x.second[j] * x.second[j];
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(kFullWarp, sum, distance);
  }
  const float root = sqrtf(sum / static_cast<float>(2 * half) + eps);
  ForPairs(half, [&](int j, int i) {
    x.first[j] = x.first[j] / root * weight[i];
    x.second[j] = x.second[j] / root * weight[i + half];
  });
}

__device__ void RotateAndStore(const float* cos, const float* sin, int half, LaneVector& x,
                               float* to) {
  ForPairs(half, [&](int j, int i) {
    const float a = x.first[j];
    const float b = x.second[j];
    x.first[j] = a * cos[i] - b * sin[i];
    x.second[j] = b * cos[i] + a * sin[i];
    to[i] = x.first[j];
    to[i + half] = x.second[j];
  });
}

__device__ __forceinline__ int8_t RoundToInt8(float value) {
  const float rounded = rintf(value);
  if (rounded >= 127.0f) return 127;
  if (rounded > -128.0f) return static_cast<int8_t>(rounded);
  return -128;  // NaN as well
}

// As FloatToE4m3 of kernels/float8.h, of what is no larger than 448 but for rounding. In integers,
// since the instruction that does it (cvt to e4m3x2) is not on sm_80.
__device__ __forceinline__ uint8_t RoundToE4m3(float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t sign = bits >> 24 & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return 0x7f;
  if (magnitude >= 0x3c800000) {  // 2^-6
    const uint32_t rounded = magnitude - 0x3c000000 + 0x7ffff + (magnitude >> 20 & 1);
    return static_cast<uint8_t>(sign | rounded >> 20);
  }
  constexpr float kAround = 0x1p14f;
  const float rounded = __uint_as_float(magnitude) + kAround;
  return static_cast<uint8_t>(sign | (__float_as_uint(rounded) - __float_as_uint(kAround)));
}

// As FloatToBf16 of kernels/bfloat16.h, two at a time.
__device__ __forceinline__ uint32_t PackFiniteBf16(float low, float high) {
  constexpr float kLargest = 0x1.fep127f;
  const auto clamp = [](float x) {
    return x > kLargest ? kLargest : x < -kLargest ? -kLargest : x;
  };
  return PackBf16(clamp(low), clamp(high));
}

// Stores x at `to`; `pack` makes two elements of two numbers.
template <typename Pack>
__device__ __forceinline__ void StoreWords(const LaneVector& x, int half, uint8_t* to,
                                           const Pack& pack) {
  auto* const words = reinterpret_cast<uint16_t*>(to);
  ForPairs(half, [&](int j, int i) {
    const uint32_t pair = pack(x.first[j], x.second[j]);
    words[i] = static_cast<uint16_t>(pair);
    words[i + half] = static_cast<uint16_t>(pair >> 16);
  });
}

// Stores x at `to` and its scale, which brings the largest magnitude to `largest_code`; `round`
// makes an element of a number.
template <typename Round>
__device__ __forceinline__ void StoreScaled(const LaneVector& x, int half, float largest_code,
                                            const Round& round, uint8_t* to, float* scale) {
  float absmax = 0.0f;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    absmax = fmaxf(absmax, fmaxf(fabsf(x.first[j]), fabsf(x.second[j])));
  }
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) {
    absmax = fmaxf(absmax, __shfl_xor_sync(kFullWarp, absmax, distance));
  }
  const float s = largest_code / fmaxf(absmax, 1e-5f);
  ForPairs(half, [&](int j, int i) {
    to[i] = static_cast<uint8_t>(round(x.first[j] * s));
    to[i + half] = static_cast<uint8_t>(round(x.second[j] * s));
  });
  if (threadIdx.x % 32 == 0) *scale = 1.0f / s;
}

// x as the vector of `head` at `slot` of a cache.
__device__ void StoreKv(const RopeAppendKvArgs& p, const LaneVector& x, void* cache, int32_t slot,
                        int head) {
  constexpr int kBlock = static_cast<int>(kKvBlockTokens);
  const int half = p.head_dim / 2;
  const bool scaled = p.type == KvType::kI8 || p.type == KvType::kF8;
  const int vector_bytes = p.head_dim * (scaled ? 1 : 2);
  const int head_bytes = kBlock * (vector_bytes + (scaled ? 4 : 0));
  uint8_t* const block = static_cast<uint8_t*>(cache) +
                         (static_cast<int64_t>(slot / kBlock) * p.kv_heads + head) * head_bytes;
  const int row = slot % kBlock;
  uint8_t* const to = block + row * vector_bytes;
  float* const scale = reinterpret_cast<float*>(block + kBlock * vector_bytes) + row;
  switch (p.type) {
    case KvType::kF16:
      StoreWords(x, half, to, [](float low, float high) { return PackF16(low, high); });
      break;
    case KvType::kBf16:
      StoreWords(x, half, to, [](float low, float high) { return PackFiniteBf16(low, high); });
      break;
    case KvType::kI8:
      StoreScaled(
          x, half, 127.0f, [](float value) { return RoundToInt8(value); }, to, scale);
      break;
    case KvType::kF8:
      StoreScaled(
          x, half, 448.0f, [](float value) { return RoundToE4m3(value); }, to, scale);
      break;
    case KvType::kFull:  // refused
      break;
  }
}

__global__ void __launch_bounds__(kThreads) RopeAppendKvKernel(const RopeAppendKvArgs p) {
  WaitForPreviousKernel();
  LetNextKernelStart();
  const int vectors = p.heads + 2 * p.kv_heads;  // of a token: those of q, k and v
  const int64_t warp = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  const int64_t token = warp / vectors;
  const int vector = static_cast<int>(warp % vectors);
  const int32_t slot = token < p.tokens ? p.slots[token] : -1;
  if (slot >= 0) {
    const int hd = p.head_dim;
    const int half = hd / 2;
    const float* const cos = p.cos + token * half;
    const float* const sin = p.sin + token * half;
    if (vector < p.heads) {
      float* const q = p.q + (token * p.heads + vector) * hd;
      LaneVector x = LoadVector(q, half);
      if (p.q_norm != nullptr) Normalize(p.q_norm, p.norm_eps, half, x);
      RotateAndStore(cos, sin, half, x, q);
    } else if (vector < p.heads + p.kv_heads) {
      const int head = vector - p.heads;
      float* const k = p.k + (token * p.kv_heads + head) * hd;
      LaneVector x = LoadVector(k, half);
      if (p.k_norm != nullptr) Normalize(p.k_norm, p.norm_eps, half, x);
      RotateAndStore(cos, sin, half, x, k);
      StoreKv(p, x, p.kv_k, slot, head);
    } else {
      const int head = vector - p.heads - p.kv_heads;
      const LaneVector x = LoadVector(p.v + (token * p.kv_heads + head) * hd, half);
      StoreKv(p, x, p.kv_v, slot, head);
    }
  }
}

__global__ void __launch_bounds__(kThreads) GatherRowsKernel(const GatherRowsArgs p) {
  WaitForPreviousKernel();
  LetNextKernelStart();
  const int64_t row = blockIdx.x;
  const float* const x = p.x + static_cast<int64_t>(p.rows[row]) * p.cols;
  for (int i = static_cast<int>(threadIdx.x); i < p.cols; i += kThreads) {
    p.y[row * p.cols + i] = x[i];
  }
}

template <typename Args>
cudaError_t LaunchBlocks(void (*kernel)(Args), unsigned blocks, const Args& args,
                         cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(blocks);
  shape.block = dim3(kThreads);
  shape.overlap = true;
  return Launch(kernel, shape, stream, args);
}

}  // namespace

cudaError_t LaunchRotaryTable(const RotaryTableArgs& args, cudaStream_t stream) {
  if (args.tokens < 1 || args.half_dim < 1) return cudaErrorInvalidValue;
  return LaunchBlocks(RotaryTableKernel,
                      Blocks(static_cast<int64_t>(args.tokens) * args.half_dim, kThreads), args,
                      stream);
}

cudaError_t LaunchRopeAppendKv(const RopeAppendKvArgs& args, cudaStream_t stream) {
  if (args.tokens < 1 || args.heads < 1 || args.kv_heads < 1 || args.head_dim < 2 ||
      args.head_dim % 2 != 0 || args.head_dim > kMostHeadDim || args.type == KvType::kFull) {
    return cudaErrorInvalidValue;
  }
  const int64_t vectors = static_cast<int64_t>(args.tokens) * (args.heads + 2 * args.kv_heads);
  return LaunchBlocks(RopeAppendKvKernel, Blocks(vectors, kWarps), args, stream);
}

cudaError_t LaunchGatherRows(const GatherRowsArgs& args, cudaStream_t stream) {
  if (args.num_rows < 1 || args.cols < 1) return cudaErrorInvalidValue;
  return LaunchBlocks(GatherRowsKernel, static_cast<unsigned>(args.num_rows), args, stream);
}

}  // namespace sterna::cuda
