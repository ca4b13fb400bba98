// Rows of the embedding table on CUDA devices: x[t] = table[token_ids[t]], exactly.
#ifndef STERNA_KERNELS_CUDA_EMBED_H_
#define STERNA_KERNELS_CUDA_EMBED_H_

#include <cstdint>

#include "kernels/cuda/dense_fragment_format.h"
#include "kernels/cuda/runtime.h"

namespace sterna::cuda {

struct EmbedTokensArgs {
  // [tokens] on the device, each below table.rows, which nobody can check before; a negative one
  // makes its row zeros: the tokens that fill up a batch.
  const int32_t* token_ids;
  int32_t tokens;
  DenseWeights table;  // may be the output head's
  float* x;            // out [tokens][table.cols]
};

// cudaErrorInvalidValue where shapes or alignments are not as above.
cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_EMBED_H_
