// What kernels share that give a block of threads to each row of activations: loads of four
// columns at a time, and reductions over the block that cost one barrier.
#ifndef STERNA_KERNELS_CUDA_ROW_BLOCK_CUH_
#define STERNA_KERNELS_CUDA_ROW_BLOCK_CUH_

#include <cstdint>

#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {

// Whether columns col .. col + 3 can be one access: rows of an odd number of columns begin
// anywhere.
__device__ __forceinline__ bool IsWholeFour(const float* row, int col, int cols) {
  return col + 4 <= cols && reinterpret_cast<uintptr_t>(row) % 16 == 0;
}

// v = columns col .. col + 3 of a row of `cols`, zeros beyond its end; col is a multiple of 4.
__device__ __forceinline__ void LoadFour(const float* row, int col, int cols, float (&v)[4]) {
  if (IsWholeFour(row, col, cols)) {
    const float4 four = *reinterpret_cast<const float4*>(row + col);
    v[0] = four.x;
    v[1] = four.y;
    v[2] = four.z;
    v[3] = four.w;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) v[j] = col + j < cols ? row[col + j] : 0.0f;
  }
}

// The opposite; nothing is written beyond the row's end.
__device__ __forceinline__ void StoreFour(float* row, int col, int cols, const float (&v)[4]) {
  if (IsWholeFour(row, col, cols)) {
    *reinterpret_cast<float4*>(row + col) = make_float4(v[0], v[1], v[2], v[3]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (col + j < cols) row[col + j] = v[j];
    }
  }
}

// Four numbers of -128 .. 127 as bytes, the first lowest.
__device__ __forceinline__ uint32_t PackBytes(const int (&v)[4]) {
  return (v[0] & 0xff) | (v[1] & 0xff) << 8 | (v[2] & 0xff) << 16 |
         static_cast<uint32_t>(v[3]) << 24;
}

// The sum over a warp, the same bits in every lane.
__device__ __forceinline__ float WarpSum(float value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kFullWarp, value, mask);
  return value;
}

// Reductions over all threads of a block, whole warps, for every thread. `scratch` is a word of
// shared memory for each warp, which nothing else may use from the last barrier before to the next
// one after.
template <typename Value, typename OfWarp>
__device__ __forceinline__ Value ReduceBlock(Value value, Value* scratch, const OfWarp& of_warp) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Value own = of_warp(value);
  if (lane == 0) scratch[warp] = own;
  __syncthreads();
  return of_warp(lane < static_cast<int>(blockDim.x) / 32 ? scratch[lane] : Value(0));
}
// In an order that the number of threads alone decides.
__device__ __forceinline__ float BlockSum(float value, float* scratch) {
  return ReduceBlock(value, scratch, [](float v) { return WarpSum(v); });
}
__device__ __forceinline__ int32_t BlockSum(int32_t value, int32_t* scratch) {
  return ReduceBlock(value, scratch, [](int32_t v) { return __reduce_add_sync(kFullWarp, v); });
}
__device__ __forceinline__ uint32_t BlockMax(uint32_t value, uint32_t* scratch) {
  return ReduceBlock(value, scratch, [](uint32_t v) { return __reduce_max_sync(kFullWarp, v); });
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ROW_BLOCK_CUH_
