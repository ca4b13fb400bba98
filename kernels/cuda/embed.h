// Rows of the embedding table on CUDA devices: x[t] = table[token_ids[t]], exactly.
#ifndef STERNA_KERNELS_CUDA_EMBED_H_
#define STERNA_KERNELS_CUDA_EMBED_H_

#include <cstdint>

#include "kernels/cuda/dense_fragment_format.h"
#include "kernels/cuda/runtime.h"

namespace sterna::cuda {

// Of fragment_format.h.
struct TernaryTable {
  const void* packed;   // on a boundary of 16 bytes; null: there is none
  const float* scales;  // [row blocks][groups][16], or null: `scale` for all
  float scale;
  int32_t rows;
  int32_t cols;
  int32_t group_cols;  // cols where one scale covers the row
};

struct EmbedTokensArgs {
  // [tokens] on the device, each below table.rows, which nobody can check before, or a DrawnToken
  // (kernels/sampling.h); -1 makes its row zeros: the tokens that fill up a batch.
  const int32_t* token_ids;
  const int32_t* drawn;  // what DrawnTokens stand for; null where there are none
  int32_t tokens;
  DenseWeights table;          // may be the output head's, as the ternary one may
  TernaryTable ternary_table;  // where it is there, `table` is not looked at
  float* x;                    // out [tokens][columns of the table]
};

// cudaErrorInvalidValue where shapes or alignments are not as above.
cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_EMBED_H_
