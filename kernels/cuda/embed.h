// Rows of the embedding table on CUDA devices: x[t] = table[token_ids[t]], exactly.
#ifndef STERNA_KERNELS_CUDA_EMBED_H_
#define STERNA_KERNELS_CUDA_EMBED_H_

#include <cstdint>

#include "kernels/cuda/dense_fragment_format.h"
#include "kernels/cuda/runtime.h"

namespace sterna::cuda {

struct EmbedTokensArgs {
  // [tokens] on the device, each below table.rows, which nobody can check before, or a DrawnToken
  // (kernels/sampling.h); -1 makes its row zeros: the tokens that fill up a batch.
  const int32_t* token_ids;
  const int32_t* drawn;  // what DrawnTokens stand for; null where there are none
  int32_t tokens;
  DenseWeights table;  // may be the output head's
  float* x;            // out [tokens][table.cols]
};

// cudaErrorInvalidValue where shapes or alignments are not as above.
cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_EMBED_H_
