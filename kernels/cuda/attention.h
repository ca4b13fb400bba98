// Attention over the paged cache on CUDA devices (PagedAttentionParams of kernels/ops.h), of caches
// of all types but kFull.
//
// A step's tokens lie in device memory, unknown to whoever launches: LaunchAttentionPlan, once a
// step, writes what there is to do to the workspace, and LaunchAttention, once a layer, does it.
// Shapes of launches depend on host values alone, so that both can be replayed from a graph.
//
// Determinism: a row of o depends on its q and on K and V of its positions, and on nothing else:
// not on the other tokens, on which of them share a block, or on how the work is shared out. The
// context is cut at fixed positions into splits and these into tiles (attention_plan.cuh); what is
// done to a tile, and the order in which tiles and splits are added up, is one piece of arithmetic.
// K and V of a sequence's other positions must be finite, though: they meet weights of zero.
#ifndef STERNA_KERNELS_CUDA_ATTENTION_H_
#define STERNA_KERNELS_CUDA_ATTENTION_H_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/runtime.h"
#include "kernels/tensor.h"

namespace sterna::cuda {

// (token, split) pairs whose results blocks may hand on to one another: all of a decode step of 256
// sequences of 4000 tokens each. What exceeds it is done by fewer blocks, to the same bits.
inline constexpr int32_t kAttentionPartials = 4096;

struct AttentionShape {
  int32_t heads;  // a multiple of kv_heads
  int32_t kv_heads;
  int32_t head_dim;    // a multiple of 8, at most 256
  int32_t max_blocks;  // columns of block_tables
  int32_t window = 0;  // 0: no sliding window
  int32_t most_partials = kAttentionPartials;
  // Of LaunchAttention: some rounds of all that run at once. With more to do, each does several.
  int32_t most_thread_blocks = 2048;

  bool operator==(const AttentionShape&) const = default;
};

// What the layers of a step have in common.
struct AttentionStep {
  AttentionShape shape;
  // Tokens of a sequence that are neighbours, in order of position, share what they read.
  const int32_t* positions;  // [tokens]; below 0: padding, whose rows of o become zeros
  const int32_t* sequence;   // [tokens]: row of block_tables; of padding, not read
  int32_t tokens;
  // AttentionWorkspaceBytes of this shape and at least so many tokens, on a boundary of 256 bytes;
  // any content. From a plan until the last launch that follows it, nobody else's.
  void* workspace;
};

// Bytes of device memory; grows with `tokens`. About most_partials * heads * head_dim * 4 at most.
// 0 where the shape is not as above.
size_t AttentionWorkspaceBytes(const AttentionShape& shape, int32_t tokens);

struct AttentionArgs {
  AttentionStep step;  // as it was planned
  const float* q;      // [tokens, heads * head_dim]; on a boundary of 8 bytes
  KvType type;         // not kFull
  const void* k;       // as KvView of kernels/tensor.h; on boundaries of 16 bytes
  const void* v;
  const int32_t* block_tables;  // [sequences, max_blocks]; entries past a sequence's end: not read
  float scale;
  float* o;  // out [tokens, heads * head_dim]; on a boundary of 8 bytes; not q
};

// Layers of different windows have a plan and a workspace for each window. Both return
// cudaErrorInvalidValue where shapes, types or alignments are not as above.
cudaError_t LaunchAttentionPlan(const AttentionStep& step, cudaStream_t stream);
cudaError_t LaunchAttention(const AttentionArgs& args, cudaStream_t stream);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ATTENTION_H_
