// How attention's work is cut, and where a step's plan and what blocks hand to one another lie.
//
// Context: positions are cut into splits, a block's least share, and splits into tiles, in which
// softmax goes forward. The cuts are at fixed positions, for results depend on them:
//   split   0      1      2            15     16        17
//         |------|------|------| ... |------|---------|---------| ...
//         0     256    512         3840   4096      5120      6144
// Short splits let a lone sequence of a few thousand tokens use a whole device; long ones, where
// there is enough to share out, cost less to put together.
//
// Tokens: neighbours of one sequence make a piece, whose rows, (token, query head) pairs of one K/V
// head, share what they read. Where the cuts are changes no result. A unit is a piece's whole
// context, or one split of it.
#ifndef STERNA_KERNELS_CUDA_ATTENTION_PLAN_CUH_
#define STERNA_KERNELS_CUDA_ATTENTION_PLAN_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention.h"

namespace sterna::cuda {

inline constexpr int kAttentionTile = 64;  // positions
inline constexpr int kShortSplit = 256;
inline constexpr int kShortSplits = 16;
inline constexpr int kLongSplit = 1024;
static_assert(kShortSplit % kAttentionTile == 0 && kLongSplit % kAttentionTile == 0, "");

__host__ __device__ __forceinline__ int SplitBegin(int split) {
  return split < kShortSplits ? split * kShortSplit
                              : kShortSplits * kShortSplit + (split - kShortSplits) * kLongSplit;
}
__host__ __device__ __forceinline__ int SplitOf(int position) {
  constexpr int kShortTokens = kShortSplits * kShortSplit;
  return position < kShortTokens ? position / kShortSplit
                                 : kShortSplits + (position - kShortTokens) / kLongSplit;
}
// The first position that a token at `position` sees.
__host__ __device__ __forceinline__ int FirstSeen(int position, int window) {
  return window > 0 && position >= window ? position - window + 1 : 0;
}

// Rows of a block: few, which all its warps share, or many, of which each warp has some.
inline constexpr int kFewRows = 16;
inline constexpr int kManyRows = 64;

struct alignas(16) AttentionUnit {
  int32_t first_token;
  int32_t tokens;
  int32_t split;    // -1: all
  int32_t partial;  // of the piece: where its partial results begin
};

struct AttentionPlan {
  int32_t* num_units;
  AttentionUnit* units;
  // Partial results: of a piece's split s, counted from its first, and token t, row
  // `partial + s * tokens + t`.
  int32_t* arrived;  // [most_partials][kv_heads * row_tiles]: splits done, at a piece's `partial`
  float2* stats;     // [most_partials][heads]: largest score, sum of weights
  float* values;     // [most_partials][heads][head_dim]: weighted sum of V

  int32_t most_units;
  int32_t most_partials;
  int32_t few_tokens;   // up to which a piece has few rows
  int32_t many_tokens;  // of a piece, at most
  int32_t row_tiles;    // blocks that share a K/V head's few rows, as a large group needs
};

bool IsValid(const AttentionShape& shape);
// Of a valid shape, laid out from `workspace` on; adds the bytes that this takes to *bytes.
AttentionPlan LayOutPlan(const AttentionShape& shape, int32_t tokens, void* workspace,
                         size_t* bytes);

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ATTENTION_PLAN_CUH_
