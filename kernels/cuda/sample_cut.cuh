// Finds the last of the most likely tokens that number, or weigh, so much. A histogram says in
// which bucket of logits it is; among that bucket's, which mostly fit into shared memory, the
// logit is found by halving the range of its integer keys. Nothing is sorted, and nothing depends
// on the order in which threads add.
#ifndef STERNA_KERNELS_CUDA_SAMPLE_CUT_CUH_
#define STERNA_KERNELS_CUDA_SAMPLE_CUT_CUH_

#include <cstdint>

#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/sample_math.cuh"
#include "kernels/cuda/sample_row.cuh"

namespace sterna::cuda {

inline constexpr int kCutThreads = 1024;
static_assert(kSampleBuckets == 2 * kCutThreads, "a thread has two");

struct TokenSums {
  uint64_t mass;
  uint64_t count;
};

// How much of the most likely tokens is wanted.
struct Wanted {
  bool by_mass;
  uint64_t amount;  // at least 1, at most what there is

  __device__ uint64_t Of(const TokenSums& sums) const { return by_mass ? sums.mass : sums.count; }
};

struct CutShared {
  static constexpr int kListed = 2048;
  uint64_t scratch[kCutThreads / 32];
  TokenSums warps[kCutThreads / 32];
  TokenSums above;  // in the buckets before `bucket`
  int bucket;
  uint32_t in_bucket;
  // Of the bucket's tokens, where it has no more than these.
  uint64_t weights[kListed];
  uint32_t keys[kListed];
};

// Sets shared.bucket to where the wanted amount is reached; false where no bucket reaches it, the
// rest being without weight. Whole blocks.
__device__ inline bool FindBucket(const Wanted& wanted, const SampleWorkspace& workspace,
                                  CutShared& shared) {
  const unsigned first = 2 * threadIdx.x;
  TokenSums own[2];
  for (unsigned i = 0; i < 2; ++i) {
    own[i] = {workspace.bucket_mass[first + i], workspace.bucket_count[first + i]};
  }
  const TokenSums both = {own[0].mass + own[1].mass, own[0].count + own[1].count};
  TokenSums through = {WarpInclusiveSum(both.mass), WarpInclusiveSum(both.count)};
  __syncthreads();  // a search before that found nothing has ended where this one ends
  if (Lane() == 31) shared.warps[WarpOfBlock()] = through;
  if (threadIdx.x == 0) {
    shared.bucket = -1;
    shared.in_bucket = 0;
  }
  __syncthreads();
  const bool before = Lane() < WarpOfBlock();
  const TokenSums warp = before ? shared.warps[Lane()] : TokenSums{0, 0};
  TokenSums above = {WarpReduce(warp.mass, Add()) + through.mass - both.mass,
                     WarpReduce(warp.count, Add()) + through.count - both.count};
  for (unsigned i = 0; i < 2; ++i) {
    const TokenSums with = {above.mass + own[i].mass, above.count + own[i].count};
    if (wanted.Of(above) < wanted.amount && wanted.Of(with) >= wanted.amount) {
      shared.bucket = static_cast<int>(first + i);
      shared.above = above;
    }
    above = with;
  }
  __syncthreads();
  return shared.bucket >= 0;
}

// Calls body(logit) for this thread's tokens of the bucket. Those that min_p does not keep are less
// likely than where a search ends, and so change nothing.
template <typename Body>
__device__ __forceinline__ void ForBucketOfRow(const Row& row, const Weighing& weighing, int bucket,
                                               const Body& body) {
  ForTokens<8>(row.logits, row.mask, 0, row.vocabulary, [&](int, float logit) {
    if (weighing.Bucket(logit) == bucket) body(logit);
  });
}

// Lists the tokens of the bucket. Whole blocks.
__device__ inline void ListBucket(const Row& row, const Weighing& weighing, CutShared& shared) {
  ForBucketOfRow(row, weighing, shared.bucket, [&](float logit) {
    const uint32_t i = atomicAdd(&shared.in_bucket, 1u);
    if (i >= CutShared::kListed) return;
    shared.keys[i] = KeyOf(logit);
    shared.weights[i] = weighing.Weight(logit);
  });
  __syncthreads();
}

// Calls body(key, weight()) for this thread's tokens of the bucket.
template <typename Body>
__device__ __forceinline__ void ForBucket(const Row& row, const Weighing& weighing,
                                          const CutShared& shared, const Body& body) {
  if (shared.in_bucket > CutShared::kListed) {
    ForBucketOfRow(row, weighing, shared.bucket, [&](float logit) {
      body(KeyOf(logit), [&] { return weighing.Weight(logit); });
    });
    return;
  }
  for (uint32_t i = threadIdx.x; i < shared.in_bucket; i += kCutThreads) {
    body(shared.keys[i], [&] { return shared.weights[i]; });
  }
}

// This thread's part of the sums of the bucket's tokens from `least` on.
__device__ inline TokenSums SumsFrom(uint32_t least, const Row& row, const Weighing& weighing,
                                     const CutShared& shared) {
  TokenSums sums = {0, 0};
  ForBucket(row, weighing, shared, [&](uint32_t key, const auto& weight) {
    if (key < least) return;
    sums.mass += weight();
    ++sums.count;
  });
  return sums;
}

// Sets `kept` to the most likely tokens that reach the wanted amount, and `mass` to their weight;
// changes neither where all that have a weight are fewer. Whole blocks.
__device__ inline void Cut(const Wanted& wanted, const Row& row, const Weighing& weighing,
                           CutShared& shared, SampleKept& kept, uint64_t& mass) {
  if (!FindBucket(wanted, row.workspace, shared)) return;
  ListBucket(row, weighing, shared);
  uint64_t most = 0;
  uint64_t least_inverted = 0;
  ForBucket(row, weighing, shared, [&](uint32_t key, const auto&) {
    most = Max()(most, uint64_t{key});
    least_inverted = Max()(least_inverted, uint64_t{~key});
  });
  // The largest key from which on the amount is reached is one that a token has.
  auto low = ~static_cast<uint32_t>(BlockReduce(least_inverted, Max(), shared.scratch));
  auto high = static_cast<uint32_t>(BlockReduce(most, Max(), shared.scratch));
  while (low < high) {
    const uint32_t middle = low + (high - low + 1) / 2;
    const uint64_t from = wanted.Of(SumsFrom(middle, row, weighing, shared));
    if (wanted.Of(shared.above) + BlockReduce(from, Add(), shared.scratch) >= wanted.amount) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  TokenSums above = SumsFrom(low + 1, row, weighing, shared);
  above.mass = BlockReduce(above.mass, Add(), shared.scratch) + shared.above.mass;
  above.count = BlockReduce(above.count, Add(), shared.scratch) + shared.above.count;
  const uint64_t weight = weighing.Weight(LogitOf(low));
  const uint64_t missing = wanted.amount - wanted.Of(above);
  const uint64_t ties = wanted.by_mass ? (missing + weight - 1) / weight : missing;
  kept = {low, static_cast<uint32_t>(ties)};
  mass = above.mass + ties * weight;
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_SAMPLE_CUT_CUH_
