// RMSNorm and the quantisation of activations on CUDA devices, a block of threads for each row.
//
// The sum of squares is added in an order that `cols` alone decides; what follows is rounded as the
// reference in float does (kernels/reference), operation by operation, so that from the same sum
// come the same bits. A maximum ignores NaN, whose code is -128.
#ifndef STERNA_KERNELS_CUDA_NORM_QUANTIZE_H_
#define STERNA_KERNELS_CUDA_NORM_QUANTIZE_H_

#include <cstdint>

#include "kernels/cuda/runtime.h"

namespace sterna::cuda {

// Of a row; threads keep it in registers.
inline constexpr int32_t kMostNormCols = 32768;

struct RmsNormArgs {
  const float* x;       // [tokens][cols]
  const float* weight;  // [cols]
  float eps;
  int32_t tokens;
  int32_t cols;
  float* y;  // out [tokens][cols]; may be x itself
};

struct RmsNormQuantizeArgs {
  const float* x;       // [tokens][cols]
  const float* weight;  // [cols], or null: x is quantised as it is
  float eps;
  int32_t tokens;
  int32_t cols;
  int32_t num_groups;
  int32_t group_cols;  // a multiple of kTernaryBlockCols where num_groups > 1
  int32_t q_stride;    // a multiple of kTernaryBlockCols
  int8_t* q;           // out [tokens][q_stride], zero from `cols` on; on a boundary of 4 bytes
  float* s;            // out [tokens][num_groups]
  int32_t* sum;        // out [tokens][num_groups]
};

// cudaErrorInvalidValue where shapes or alignments are not as above.
cudaError_t LaunchRmsNorm(const RmsNormArgs& args, cudaStream_t stream);
cudaError_t LaunchRmsNormQuantize(const RmsNormQuantizeArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_NORM_QUANTIZE_H_
