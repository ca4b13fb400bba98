// A row of a sampling step as the kernels see it: where its things are, how it is divided, what its
// logits are worth.
#ifndef STERNA_KERNELS_CUDA_SAMPLE_ROW_CUH_
#define STERNA_KERNELS_CUDA_SAMPLE_ROW_CUH_

#include <cstdint>

#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_math.cuh"

namespace sterna::cuda {

// Chunks are multiples of this, for a block's threads and for 32 of each of its warps.
inline constexpr int kChunkStep = 256;
inline constexpr int kMostChunks = 32;

// The tokens that are kept: those above `key`, and the first `ties` of those at it.
struct SampleKept {
  uint32_t key;
  uint32_t ties;
};
inline constexpr SampleKept kKeepAll = {0, 0};

// What kernels leave one another for a row. "Chunk" arrays have grid-many entries.
struct SampleWorkspace {
  uint64_t largest[kMostChunks];                    // ranks
  uint64_t mass[kMostChunks];                       // Weights: of all; Kept: above kept.key
  uint64_t own_mass[kMostChunks];                   // below each chunk's own largest
  uint64_t own_top[kMostChunks][kMostTopLogprobs];  // ranks; 0 where a chunk has no more
  uint64_t bucket_mass[kSampleBuckets];
  uint32_t bucket_count[kSampleBuckets];  // where there is a top_k
  uint32_t count[kMostChunks];            // of tokens: Weights: all; Kept: at kept.key
  SampleKept kept;
};
static_assert(sizeof(SampleWorkspace) % kSampleBufferAlignmentBytes == 8, "rounded up below");
inline constexpr size_t kWorkspaceBytes = sizeof(SampleWorkspace) + 8;

__host__ __device__ inline int ChunkTokens(int vocabulary) {
  const int tokens = (vocabulary + kMostChunks - 1) / kMostChunks;
  return (tokens + kChunkStep - 1) / kChunkStep * kChunkStep;
}
__host__ __device__ inline int NumChunks(int vocabulary) {
  const int tokens = ChunkTokens(vocabulary);
  return (vocabulary + tokens - 1) / tokens;
}

__device__ __forceinline__ bool IsAllowed(const uint32_t* mask, int token) {
  return (mask[token / 32] >> (token % 32) & 1) != 0;
}

// One row, and what a block needs to reach its things.
struct Row {
  const SampleRow& params;
  SampleWorkspace& workspace;
  float* logits;
  const uint32_t* mask;  // or null
  int index;
  int vocabulary;

  __device__ Row(const SampleArgs& p, unsigned row)
      : params(reinterpret_cast<const SampleRow*>(p.staging)[row]),
        workspace(*reinterpret_cast<SampleWorkspace*>(p.workspace + row * kWorkspaceBytes)),
        logits(p.logits + static_cast<int64_t>(row) * p.vocabulary),
        mask(p.mask == nullptr ? nullptr
                               : p.mask + static_cast<int64_t>(row) * ((p.vocabulary + 31) / 32)),
        index(static_cast<int>(row)),
        vocabulary(p.vocabulary) {}

  __device__ float Choosable(int token) const {
    if (mask != nullptr && !IsAllowed(mask, token)) return -Infinity();
    return Canonical(logits[token]);
  }
  __device__ bool Cuts() const {
    return params.draws != 0 && (params.top_k > 0 || params.top_p < 1.0f);
  }
  __device__ SampleEntry* Entries(uint8_t* staging, uint32_t offset_bytes) const {
    return reinterpret_cast<SampleEntry*>(staging + offset_bytes);
  }
};

struct Chunk {
  int index;
  int begin;
  int end;
};
__device__ inline Chunk ChunkAt(int vocabulary, int index) {
  const int tokens = ChunkTokens(vocabulary);
  const int end = (index + 1) * tokens;
  return {index, index * tokens, end < vocabulary ? end : vocabulary};
}
__device__ inline Chunk ChunkOfBlock(int vocabulary) {
  return ChunkAt(vocabulary, static_cast<int>(blockIdx.x));
}

// Calls body(token, logit) for this thread's tokens of [begin, end), a stride apart; the logit is
// canonical, and -infinity where `mask`, or null, does not allow the token. A thread asks for
// kBatch logits before it looks at the first.
template <int kBatch, typename Body>
__device__ __forceinline__ void ForTokens(const float* logits, const uint32_t* mask, int begin,
                                          int end, const Body& body) {
  const int stride = static_cast<int>(blockDim.x);
  for (int first = begin + static_cast<int>(threadIdx.x); first < end; first += kBatch * stride) {
    float batch[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int token = first + i * stride;
      batch[i] = token < end ? logits[token] : 0.0f;
    }
    if (mask != nullptr) {
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int token = first + i * stride;
        if (token < end && !IsAllowed(mask, token)) batch[i] = -Infinity();
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int token = first + i * stride;
      if (token < end) body(token, Canonical(batch[i]));
    }
  }
}

// The most likely of all chunks' first. Whole warps.
__device__ inline uint64_t LargestRank(const Row& row) {
  const bool real = Lane() < NumChunks(row.vocabulary);
  return WarpReduce(real ? row.workspace.largest[Lane()] : uint64_t{0}, Max());
}

// What a logit is worth in a row with a temperature.
struct Weighing {
  double scale;
  double min_p_depth;
  float largest;
  float bucket_scale;

  __device__ Weighing(const Row& row, uint64_t largest_rank)
      : scale(row.params.exponent_scale),
        min_p_depth(row.params.min_p_depth),
        largest(LogitOfRank(largest_rank)),
        bucket_scale(row.params.bucket_scale) {}

  __device__ uint64_t Weight(float logit) const { return WeightOf(logit, largest, scale); }
  __device__ bool PassesMinP(float logit) const {
    return logit == largest ||
           static_cast<double>(logit) - static_cast<double>(largest) >= min_p_depth;
  }
  // Grows as the logit falls. The last has no weight.
  __device__ int Bucket(float logit) const {
    if (logit == largest) return 0;
    const float depth = (largest - logit) * bucket_scale;
    return depth < static_cast<float>(kSampleBuckets - 1) ? static_cast<int>(depth)
                                                          : kSampleBuckets - 1;
  }
};

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_SAMPLE_ROW_CUH_
