// A block's share of attention: which rows and positions, what it has in shared memory, and K and V
// on their way there.
#ifndef STERNA_KERNELS_CUDA_ATTENTION_STREAM_CUH_
#define STERNA_KERNELS_CUDA_ATTENTION_STREAM_CUH_

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_plan.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {

inline constexpr int kAttentionThreads = 128;
inline constexpr int kAttentionWarps = kAttentionThreads / 32;

struct AttentionParams {
  AttentionArgs args;
  AttentionPlan plan;
  int group;          // query heads of a K/V head
  int query_rows;     // that there is room for
  float score_scale;  // scale * log2(e)
};

// Bytes of K, or of V, that one head has in one block of the cache.
template <typename E>
__device__ __forceinline__ int HeadBlockBytes(int head_dim) {
  return static_cast<int>(kKvBlockTokens) * (head_dim * E::kBytes + (E::kScaled ? 4 : 0));
}

// What a block works on; in shared memory, as registers are for sums.
struct Work {
  AttentionUnit unit;
  int kv_head;
  int row_tile;
  int rows;            // of this block
  int first_position;  // of the first token
  int last_position;   // of the last
  int first_seen;      // by the first token
  int first_tile;
  int end_tile;
  const uint8_t* k;  // the head's, of block 0
  const uint8_t* v;
  const int32_t* block_table;

  // Rows count (token, head) pairs from the block's first on.
  __device__ int TokenOf(int row, int group) const { return (row_tile * kFewRows + row) / group; }
  __device__ int HeadOf(int row, int group) const {
    return kv_head * group + (row_tile * kFewRows + row) % group;
  }
};

__device__ __forceinline__ void FindRows(const AttentionParams& p, int index, Work& work) {
  const int tiles = p.plan.row_tiles;
  const int of_unit = p.args.step.shape.kv_heads * tiles;
  // Backwards: late tokens of a prompt have the most to do.
  work.unit = p.plan.units[*p.plan.num_units - 1 - index / of_unit];
  work.kv_head = index % of_unit / tiles;
  work.row_tile = index % tiles;
  const bool few = work.unit.tokens <= p.plan.few_tokens;
  work.rows = work.unit.tokens * p.group - work.row_tile * kFewRows;
  if (few && work.rows > kFewRows) work.rows = kFewRows;
  if (!few && work.row_tile > 0) work.rows = 0;  // the first has them all
  work.first_position = p.args.step.positions[work.unit.first_token];
}

template <typename E>
__device__ __forceinline__ void FindContext(const AttentionParams& p, Work& work) {
  const AttentionShape& shape = p.args.step.shape;
  work.last_position = work.first_position + work.unit.tokens - 1;
  work.first_seen = FirstSeen(work.first_position, shape.window);
  int begin = work.first_seen;
  int last = work.last_position;
  if (work.unit.split >= 0) {
    const int split_begin = SplitBegin(work.unit.split);
    const int split_last = SplitBegin(work.unit.split + 1) - 1;
    if (begin < split_begin) begin = split_begin;
    if (last > split_last) last = split_last;
  }
  work.first_tile = begin / kAttentionTile;
  work.end_tile = last / kAttentionTile + 1;
  const int64_t head = static_cast<int64_t>(work.kv_head) * HeadBlockBytes<E>(shape.head_dim);
  work.k = static_cast<const uint8_t*>(p.args.k) + head;
  work.v = static_cast<const uint8_t*>(p.args.v) + head;
  work.block_table =
      p.args.block_tables +
      static_cast<int64_t>(p.args.step.sequence[work.unit.first_token]) * shape.max_blocks;
}

// The block's shared memory.
template <typename T>
struct SharedLayout {
  Work* work;
  uint8_t* queries;  // 2 * kQueryStride for each row, as the element's operands want it
  RowView* views;    // [kManyRows]
  // Exchanged by the warps of few rows: the largest scores, weights and their sums.
  float* largest;  // [kAttentionWarps][kFewRows]
  uint4* weights;  // [kWeightParts][kAttentionWarps][32]
  float2* sums;    // [kAttentionWarps][32]
  uint8_t* buffers;

  static constexpr int kWorkBytes = (sizeof(Work) + 15) / 16 * 16;
  static constexpr int kWeightBytes = T::Element::kWeightParts * kAttentionWarps * 32 * 16;
  static constexpr int kExchangeBytes =
      kManyRows * 16 + kAttentionWarps * kFewRows * 4 + kWeightBytes + kAttentionWarps * 32 * 8;
  static constexpr size_t Bytes(int query_rows) {
    return static_cast<size_t>(kWorkBytes + 2 * query_rows * T::kQueryStride + kExchangeBytes +
                               T::kBuffers * T::kBufferBytes);
  }
  __device__ explicit SharedLayout(int query_rows) {
    uint8_t* next = SharedMemory();
    const auto take = [&](int bytes) {
      uint8_t* const part = next;
      next += bytes;
      return part;
    };
    work = reinterpret_cast<Work*>(take(kWorkBytes));
    queries = take(2 * query_rows * T::kQueryStride);
    views = reinterpret_cast<RowView*>(take(kManyRows * 16));
    largest = reinterpret_cast<float*>(take(kAttentionWarps * kFewRows * 4));
    weights = reinterpret_cast<uint4*>(take(kWeightBytes));
    sums = reinterpret_cast<float2*>(take(kAttentionWarps * 32 * 8));
    buffers = next;
  }
};

// Tiles of K and V on their way to shared memory.
template <typename T>
class TileStream {
 public:
  using Element = typename T::Element;

  // Begins to copy.
  __device__ TileStream(const AttentionParams& p, const Work& work, uint8_t* buffers)
      : work_(work), shape_(p.args.step.shape), buffers_(buffers), tile_(work.first_tile) {
    LoadBlocks();
#pragma unroll
    for (int i = 0; i < T::kBuffers - 1; ++i) Ask(i);
  }

  // The next tile of K or V, in turns, once all threads are here and done with the one before.
  __device__ const uint8_t* Next() {
    WaitForCopies<T::kBuffers - 2>();
    __syncthreads();
    Ask(taken_ + T::kBuffers - 1);
    return BufferOf(taken_++);
  }

 private:
  __device__ uint8_t* BufferOf(int turn) const {
    return buffers_ + turn % T::kBuffers * T::kBufferBytes;
  }
  // Of the four blocks that make tile_ lane l knows that of number l % 4.
  __device__ void LoadBlocks() {
    const int first = (tile_ * 4 + static_cast<int>(threadIdx.x) % 4) * 16;
    const bool real =
        tile_ < work_.end_tile && first <= work_.last_position && first + 15 >= work_.first_seen;
    block_ = real ? work_.block_table[first / 16] : 0;
  }
  __device__ void Ask(int turn) {
    if (tile_ < work_.end_tile) {
      uint8_t* const to = BufferOf(turn);
      const bool is_k = turn % 2 == 0;
      CopyRows(is_k ? work_.k : work_.v, to);
      if (is_k) {
        if constexpr (Element::kScaled) CopyScales(to + T::kScalesAt);
      } else {
        ++tile_;
        LoadBlocks();
      }
    }
    CommitCopies();  // nothing, too: groups are counted
  }
  // Rows that nobody sees become zeros, as does what fills up a row: whatever lies in a cache's
  // unused places, weights of zero must meet numbers.
  __device__ void CopyRows(const uint8_t* from, uint8_t* to) const {
    const int row_bytes = shape_.head_dim * Element::kBytes;
    const int64_t block_bytes = shape_.kv_heads * HeadBlockBytes<Element>(shape_.head_dim);
    const int first = work_.first_seen - tile_ * kAttentionTile;
    const int last = work_.last_position - tile_ * kAttentionTile;
#pragma unroll 2
    for (int i = 0; i < kAttentionTile * T::kChunks / kAttentionThreads; ++i) {
      const int chunk = i * kAttentionThreads + static_cast<int>(threadIdx.x);
      const int row = chunk / T::kChunks;
      const int byte = chunk % T::kChunks * 16;
      const int64_t block = __shfl_sync(kFullWarp, block_, row / 16);
      const bool seen = row >= first && row <= last;
      const uint8_t* const chunk_from = from + block * block_bytes + row % 16 * row_bytes + byte;
      uint8_t* const chunk_to = to + row * T::kStride + byte;
      if (Element::kBytes == 1 && row_bytes % 16 != 0) {
        // Rows on boundaries of 8 bytes only.
#pragma unroll
        for (int half = 0; half < 16; half += 8) {
          const bool valid = seen && byte + half < row_bytes;
          CopyAsync8(chunk_to + half, valid ? chunk_from + half : from, valid);
        }
      } else {
        const bool valid = seen && byte < row_bytes;
        CopyAsync16(chunk_to, valid ? chunk_from : from, valid);
      }
    }
  }
  // K's scales and behind them V's: [2][kAttentionTile] f32.
  __device__ void CopyScales(uint8_t* to) const {
    if (threadIdx.x >= 32) return;
    const int lane = static_cast<int>(threadIdx.x);
    const int64_t block = __shfl_sync(kFullWarp, block_, lane / 4);
    const int position = tile_ * kAttentionTile + lane % 16 * 4;
    const bool valid = position <= work_.last_position && position + 3 >= work_.first_seen;
    const uint8_t* const from = lane < 16 ? work_.k : work_.v;
    const int head_bytes = HeadBlockBytes<Element>(shape_.head_dim);
    const int64_t offset = block * shape_.kv_heads * head_bytes + head_bytes -
                           static_cast<int>(kKvBlockTokens) * 4 + lane % 4 * 16;
    CopyAsync16(to + lane * 16, valid ? from + offset : from, valid);
  }

  const Work& work_;
  const AttentionShape& shape_;
  uint8_t* buffers_;
  int tile_;  // that is asked for next
  int32_t block_;
  int taken_ = 0;  // turns
};

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ATTENTION_STREAM_CUH_
