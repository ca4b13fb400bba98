// The output head on CUDA devices: y[t][n] = sum over k of x[t][k] * w[n][k].
//
// Matrix instructions take activations as two parts, which a first kernel makes of them:
//   bf16: x = hi + mid + rest, hi and mid bf16, |rest| <= 2^-17 |x|, which is left out: an output
//   is
//     off by 2^-17 of the sum of |x * w| at most, about as much as rounding makes of sums in f32. A
//     third part would be half as many products more.
//   int8: x = (256 * hi + lo) * scale, to 16 bits of its row's largest magnitude as the CPU rounds
//     it (kernels/cpu/cpu_dense.cc): outputs are the CPU's bit for bit. A row that is not all
//     finite gives NaN.
// f32 weights, of small models, have products in f32.
//
// An output is the same bits whatever other rows there are: its sum is one warp's, along k.
#ifndef STERNA_KERNELS_CUDA_DENSE_LINEAR_H_
#define STERNA_KERNELS_CUDA_DENSE_LINEAR_H_

#include <cstdint>

#include "kernels/cuda/dense_fragment_format.h"
#include "kernels/cuda/runtime.h"

namespace sterna::cuda {

// Of activations; each takes as many bytes as a row of the weights.
inline constexpr int64_t kDenseParts = 2;

// Bytes that `workspace` needs: the parts, [kDenseParts][tokens] rows padded to whole blocks, and
// for kI8 [tokens] scales. Grows with `tokens`.
constexpr int64_t DenseWorkspaceBytes(DenseType type, int64_t tokens, int64_t cols) {
  if (type == DenseType::kF32) return 0;
  const int64_t row_bytes = DenseColBlocks(type, cols) * kDenseFragmentRowBytes;
  return tokens * (kDenseParts * row_bytes + static_cast<int64_t>(sizeof(float)));
}

struct DenseLinearArgs {
  const float* x;  // [tokens][w.cols]
  int32_t tokens;
  DenseWeights w;   // kI8: at most kMaxDenseInt8Cols columns
  void* workspace;  // [DenseWorkspaceBytes], on a boundary of 16 bytes; its contents are of no use
  float* y;         // out [tokens][w.rows]
};

// One or two kernels. cudaErrorInvalidValue where shapes or alignments are not as above.
cudaError_t LaunchDenseLinear(const DenseLinearArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_DENSE_LINEAR_H_
