// Rotary position embedding on CUDA devices: its table once a step, q and k rotated and K and V
// written to the paged cache once a layer, and rows gathered for the output head.
#ifndef STERNA_KERNELS_CUDA_ROPE_H_
#define STERNA_KERNELS_CUDA_ROPE_H_

#include <cstdint>

#include "kernels/cuda/runtime.h"
#include "kernels/tensor.h"

namespace sterna::cuda {

// cos and sin of position * inv_freq, times `factor`; computed in double, rounded to float.
struct RotaryTableArgs {
  const int32_t* positions;  // [tokens]; of padding any number
  const double* inv_freq;    // [half_dim]
  double factor;
  int32_t tokens;
  int32_t half_dim;
  float* cos;  // out [tokens, half_dim]
  float* sin;  // out [tokens, half_dim]
};

// RopeAppendKvParams of kernels/ops.h. A sum of squares, where there are norms, is added up in
// another order than the reference's; all else is the reference's bit for bit.
struct RopeAppendKvArgs {
  float* q;              // [tokens, heads * head_dim], in place
  float* k;              // [tokens, kv_heads * head_dim], in place
  const float* v;        // [tokens, kv_heads * head_dim]
  const float* cos;      // [tokens, head_dim / 2]
  const float* sin;      // [tokens, head_dim / 2]
  const int32_t* slots;  // [tokens]; below 0: padding, of which nothing is read or written
  const float* q_norm;   // [head_dim] or null
  const float* k_norm;   // [head_dim] or null
  float norm_eps;
  KvType type;  // not kFull
  void* kv_k;   // out, as KvView of kernels/tensor.h
  void* kv_v;   // out
  int32_t tokens;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_dim;  // even, at most 256
};

// y[r] = x[rows[r]].
struct GatherRowsArgs {
  const float* x;       // [any, cols]
  const int32_t* rows;  // [num_rows], each in x
  int32_t num_rows;
  int32_t cols;
  float* y;  // out [num_rows, cols]
};

// cudaErrorInvalidValue where shapes and types are not as above.
cudaError_t LaunchRotaryTable(const RotaryTableArgs& args, cudaStream_t stream);
cudaError_t LaunchRopeAppendKv(const RopeAppendKvArgs& args, cudaStream_t stream);
cudaError_t LaunchGatherRows(const GatherRowsArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ROPE_H_
