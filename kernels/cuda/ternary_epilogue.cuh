// From the exact sums of a ternary product to its outputs: one code for all kernels, as all must
// give the same bits.
#ifndef STERNA_KERNELS_CUDA_TERNARY_EPILOGUE_CUH_
#define STERNA_KERNELS_CUDA_TERNARY_EPILOGUE_CUH_

#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/ternary_linear.h"

namespace sterna::cuda {

// The value of a group's sum.
__device__ __forceinline__ float GroupValue(const TernaryLinearArgs& p, const TernaryWeights& w,
                                            int row_block, int row, int token, int group,
                                            int32_t acc) {
  const int i = token * p.num_groups + group;
  const float s = p.s[i];
  const float scale =
      w.scales == nullptr ? w.scale : w.scales[(row_block * p.num_groups + group) * 16 + row];
  return static_cast<float>(acc - p.sum[i]) * (p.num_groups == 1 ? scale / s : scale * (1.0f / s));
}

__device__ __forceinline__ float Activated(Epilogue epilogue, float value) {
  if (epilogue == Epilogue::kSilu) return value / (1.0f + expf(-value));
  if (epilogue == Epilogue::kReluSquared) return value > 0.0f ? value * value : 0.0f;
  return value;
}

__device__ __forceinline__ float WithBias(const TernaryWeights& w, int row, float value) {
  return w.bias == nullptr ? value : value + w.bias[row];
}

// What becomes of the value of (token, row) of an output.
__device__ __forceinline__ void StoreOutput(const TernaryLinearArgs& p, int output, int row,
                                            int token, float value) {
  const TernaryOutput& out = p.outputs[output];
  float* y = out.y + static_cast<int64_t>(token) * out.w.rows + row;
  const float result = Activated(p.epilogue, WithBias(out.w, row, value));
  switch (p.epilogue) {
    case Epilogue::kAccumulate:
      *y += result;
      break;
    case Epilogue::kMultiply:
      *y *= result;
      break;
    default:
      *y = result;
  }
}
// The same of a gate and what goes through it.
__device__ __forceinline__ void StoreGated(const TernaryLinearArgs& p, int row, int token,
                                           float gate, float up) {
  float* y = p.outputs[0].y + static_cast<int64_t>(token) * p.outputs[0].w.rows + row;
  *y = Activated(p.epilogue, WithBias(p.outputs[0].w, row, gate)) *
       WithBias(p.outputs[1].w, row, up);
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_TERNARY_EPILOGUE_CUH_
