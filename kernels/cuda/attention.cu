// Attention of a step's units (attention_plan.cuh), one block at a time to each: a block copies
// tiles of K and V to shared memory some steps ahead of what it multiplies, in turns K, V, K, V,
// ...
//
// A unit of one split leaves a partial result; whichever block is the last to do so for a piece
// puts all of them together, in order of the splits. A unit of all splits does the same on its way,
// with the sum so far in o.
#include <cmath>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_plan.cuh"
#include "kernels/cuda/attention_stream.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {
namespace {

constexpr int kThreads = kAttentionThreads;
constexpr int kWarps = kAttentionWarps;

// Where a piece's vectors of its split `split`, counted from its first, are among partial results.
__device__ __forceinline__ int64_t PartialVector(const AttentionParams& p, const Work& work,
                                                 int split, int row) {
  const int64_t token = work.unit.partial + static_cast<int64_t>(split) * work.unit.tokens +
                        work.TokenOf(row, p.group);
  return token * p.args.step.shape.heads + work.HeadOf(row, p.group);
}
__device__ __forceinline__ int64_t OutputVector(const AttentionParams& p, const Work& work,
                                                int row) {
  const int64_t token = work.unit.first_token + work.TokenOf(row, p.group);
  return token * p.args.step.shape.heads + work.HeadOf(row, p.group);
}

// q's rows, and what they see.
template <typename P>
__device__ void LoadQueries(const AttentionParams& p, const Work& work,
                            const SharedLayout<typename P::Tile>& shared) {
  using E = typename P::Element;
  constexpr int kOfLane = P::Tile::kHd / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int hd = p.args.step.shape.head_dim;
#pragma unroll 4
  for (int row = P::warp(); row < P::kRows; row += kWarps) {
    const float* const q = p.args.q + OutputVector(p, work, row) * hd;
    float x[kOfLane];
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      x[i] = row < work.rows && i * 32 + lane < hd ? q[i * 32 + lane] : 0.0f;
    }
    const float factor = E::template StoreQuery<P>(x, row, shared.queries);
    if (lane == 0) {
      const int position = work.first_position + work.TokenOf(row, p.group);
      const int first = FirstSeen(position, p.args.step.shape.window);
      const int count = row < work.rows ? position - first + 1 : 0;
      shared.views[row] = {first, static_cast<unsigned>(count),
                           factor * p.score_scale * E::kUnscaleKeys};
    }
  }
}

// Takes a tile's K into `rows`: weights for V's product, and `keep`, what o so far is worth.
template <typename P>
__device__ __forceinline__ void WeighTile(int tile, const uint8_t* keys,
                                          const SharedLayout<typename P::Tile>& shared,
                                          LaneRows& rows, Weights<P>& weights, float (&keep)[2],
                                          float (&sums)[4][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Scores<P> s;
  MultiplyKeys<P>(shared.queries, keys, s);
  float largest[2];
  MaskScores<P>(shared.views, tile, keys, s, largest);
  if constexpr (!P::kMany) {
    float* const all = shared.largest + lane / 4;
    if (lane % 4 == 0) {
      all[P::warp() * kFewRows] = largest[0];
      all[P::warp() * kFewRows + 8] = largest[1];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      largest[0] = fmaxf(largest[0], all[i * kFewRows]);
      largest[1] = fmaxf(largest[1], all[i * kFewRows + 8]);
    }
  }
  float base[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Together together = Join(rows.largest[i], largest[i]);
    rows.largest[i] = together.largest;
    keep[i] = together.keep;
    base[i] = FiniteOrZero(together.largest);
  }
#pragma unroll
  for (int i = 0; i < P::kScoreGroups; ++i) {
    Weigh<P>(base, P::ScoreGroup(i), keys, i, s[i], weights, sums[i]);
  }
  if constexpr (!P::kMany) {
#pragma unroll
    for (int part = 0; part < P::Element::kWeightParts; ++part) {
      const uint32_t(&w)[4] = weights[part][0];
      shared.weights[(part * kWarps + P::warp()) * 32 + lane] = make_uint4(w[0], w[1], w[2], w[3]);
    }
    shared.sums[P::warp() * 32 + lane] = make_float2(sums[0][0], sums[0][1]);
  }
}

// After all warps of few rows are there: what the others wrote.
template <typename P>
__device__ __forceinline__ void ReadWeights(const SharedLayout<typename P::Tile>& shared,
                                            Weights<P>& weights, float (&sums)[4][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
#pragma unroll
    for (int part = 0; part < P::Element::kWeightParts; ++part) {
      const uint4 w = shared.weights[(part * kWarps + i) * 32 + lane];
      weights[part][i][0] = w.x;
      weights[part][i][1] = w.y;
      weights[part][i][2] = w.z;
      weights[part][i][3] = w.w;
    }
    const float2 sum = shared.sums[i * 32 + lane];
    sums[i][0] = sum.x;
    sums[i][1] = sum.y;
  }
}

// Splits' results put together so far, of a lane's rows.
struct Totals {
  float largest[2];
  float sum[2];
};

// As it leaves attention. No minus zero: whether a sum comes to it depends on how many zeros, of
// positions that the row does not see, were added.
template <typename E>
__device__ __forceinline__ float Normalized(float value, float sum) {
  return value * (E::kUnscaleValues / sum) + 0.0f;
}

// Ends a split. A unit of one leaves o as it is; one of all puts it together with the sum so far in
// the output (`first`: there is none), and makes a result of that with `last`.
template <typename P>
__device__ __forceinline__ void StoreSplit(const AttentionParams& p, const Work& work,
                                           const LaneRows& rows, const Outputs<P>& o, bool first,
                                           bool last, Totals& totals) {
  using E = typename P::Element;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int hd = p.args.step.shape.head_dim;
  const bool partial = work.unit.split >= 0;
  Together together[2];
  float* to[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float sum = FourLanesSum(rows.sum[i]);
    together[i] = Join(first ? -INFINITY : totals.largest[i], rows.largest[i]);
    totals.sum[i] = JoinSums(together[i], first ? 0.0f : totals.sum[i], sum);
    totals.largest[i] = together[i].largest;
    const int row = P::FirstRow() + lane / 4 + i * 8;
    if (row >= work.rows) {
      to[i] = nullptr;
    } else if (partial) {
      const int split = work.unit.split - SplitOf(work.first_seen);
      const int64_t vector = PartialVector(p, work, split, row);
      to[i] = p.plan.values + vector * hd;
      if (lane % 4 == 0 && (P::kMany || P::warp() == 0)) {
        p.plan.stats[vector] = make_float2(totals.largest[i], totals.sum[i]);
      }
    } else {
      to[i] = p.args.o + OutputVector(p, work, row) * hd;
    }
  }
#pragma unroll
  for (int i = 0; i < P::kValueGroups; ++i) {
    if (!P::HasValueGroup(i)) continue;
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      const int dim = P::ValueGroup(i) * 16 + E::PairDim(pair, lane);
#pragma unroll
      for (int row = 0; row < 2; ++row) {
        if (dim >= hd || to[row] == nullptr) continue;
        auto* const vector = reinterpret_cast<float2*>(to[row] + dim);
        float2 value = make_float2(o[i][E::OutputOf(pair, 0)][row * 2 + E::ColumnOf(pair, 0)],
                                   o[i][E::OutputOf(pair, 1)][row * 2 + E::ColumnOf(pair, 1)]);
        if (!first) {
          const float2 before = *vector;
          value.x = JoinSums(together[row], before.x, value.x);
          value.y = JoinSums(together[row], before.y, value.y);
        }
        if (last && !partial) {
          value.x = Normalized<E>(value.x, totals.sum[row]);
          value.y = Normalized<E>(value.y, totals.sum[row]);
        }
        *vector = value;
      }
    }
  }
}

// Whether this block is the last of its piece: the others' partial results are there.
__device__ bool IsLastOfPiece(const AttentionParams& p, const Work& work, int splits, int* shared) {
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // for all, as it lies between barriers
    const int counters = p.args.step.shape.kv_heads * p.plan.row_tiles;
    int* const arrived = p.plan.arrived + static_cast<int64_t>(work.unit.partial) * counters +
                         work.kv_head * p.plan.row_tiles + work.row_tile;
    *shared = atomicAdd(arrived, 1) == splits - 1;
    if (*shared) *arrived = 0;  // for the next layer
    __threadfence();
  }
  __syncthreads();
  return *shared != 0;
}

// o of a piece's rows from the partial results of all its splits.
template <typename E>
__device__ void JoinPartials(const AttentionParams& p, const Work& work, int splits) {
  const int hd = p.args.step.shape.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < work.rows * hd / 2; i += kThreads) {
    const int row = i / (hd / 2);
    const int dim = i % (hd / 2) * 2;
    float largest = -INFINITY;
    float sum = 0.0f;
    float2 value = make_float2(0.0f, 0.0f);
#pragma unroll 4
    for (int split = 0; split < splits; ++split) {
      const int64_t at = PartialVector(p, work, split, row);
      // Not through the first-level cache, which may have seen these bytes too early.
      const float2 stats = __ldcg(p.plan.stats + at);
      const float2 part = __ldcg(reinterpret_cast<const float2*>(p.plan.values + at * hd + dim));
      const Together together = Join(largest, stats.x);
      largest = together.largest;
      sum = JoinSums(together, sum, stats.y);
      value.x = JoinSums(together, value.x, part.x);
      value.y = JoinSums(together, value.y, part.y);
    }
    *reinterpret_cast<float2*>(p.args.o + OutputVector(p, work, row) * hd + dim) =
        make_float2(Normalized<E>(value.x, sum), Normalized<E>(value.y, sum));
  }
}

template <typename P>
__device__ void Attend(const AttentionParams& p, const Work& work,
                       const SharedLayout<typename P::Tile>& shared) {
  using T = typename P::Tile;
  TileStream<T> stream(p, work, shared.buffers);
  LoadQueries<P>(p, work, shared);  // theirs are there with the first tile
  LaneRows rows = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
  Outputs<P> o = {};
  Totals totals = {};
  bool first = true;
  for (int tile = work.first_tile; tile < work.end_tile; ++tile) {
    Weights<P> weights;
    float keep[2];
    float sums[4][2];
    WeighTile<P>(tile, stream.Next(), shared, rows, weights, keep, sums);
    const uint8_t* const values = stream.Next();
    if constexpr (!P::kMany) ReadWeights<P>(shared, weights, sums);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      rows.sum[i] = fmaf(rows.sum[i], keep[i], sums[0][i] + sums[1][i] + sums[2][i] + sums[3][i]);
    }
    AddValues<P>(weights, keep, values, o);

    const bool last = tile + 1 == work.end_tile;
    const int end = (tile + 1) * kAttentionTile;
    if (!last && SplitOf(end) == SplitOf(end - 1)) continue;
    StoreSplit<P>(p, work, rows, o, first, last, totals);
    first = false;
    rows = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
#pragma unroll
    for (int i = 0; i < P::kValueGroups * 8; ++i) o[i / 8][i / 4 % 2][i % 4] = 0.0f;
  }
  WaitForCopies<0>();
  if (work.unit.split < 0) return;
  const int splits = SplitOf(work.last_position) - SplitOf(work.first_seen) + 1;
  if (IsLastOfPiece(p, work, splits, reinterpret_cast<int*>(shared.sums))) {
    JoinPartials<typename P::Element>(p, work, splits);
  }
}

__device__ void StoreZeros(const AttentionParams& p, const Work& work) {
  const int hd = p.args.step.shape.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < work.rows * hd; i += kThreads) {
    p.args.o[OutputVector(p, work, i / hd) * hd + i % hd] = 0.0f;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, T::kBlocks) AttentionKernel(const AttentionParams p) {
  WaitForPreviousKernel();
  LetNextKernelStart();
  const int count = *p.plan.num_units * p.args.step.shape.kv_heads * p.plan.row_tiles;
  const SharedLayout<T> shared(p.query_rows);
  Work& work = *shared.work;
  for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
    __syncthreads();  // the unit before is done with the memory
    if (threadIdx.x == 0) {
      FindRows(p, i, work);
      if (work.first_position >= 0) FindContext<typename T::Element>(p, work);
    }
    __syncthreads();
    if (work.rows <= 0) continue;
    if (work.first_position < 0) {
      StoreZeros(p, work);
    } else if (work.unit.tokens <= p.plan.few_tokens) {
      Attend<WarpPart<T, false>>(p, work, shared);
    } else {
      Attend<WarpPart<T, true>>(p, work, shared);
    }
  }
}

template <typename T>
cudaError_t LaunchTile(const AttentionArgs& args, cudaStream_t stream) {
  const AttentionShape& heads = args.step.shape;
  size_t bytes = 0;
  AttentionParams params = {};
  params.args = args;
  params.plan = LayOutPlan(heads, args.step.tokens, args.step.workspace, &bytes);
  params.group = heads.heads / heads.kv_heads;
  params.query_rows = args.step.tokens <= params.plan.few_tokens ? kFewRows : kManyRows;
  params.score_scale = args.scale * 1.44269504f;
  const int64_t most =
      static_cast<int64_t>(params.plan.most_units) * heads.kv_heads * params.plan.row_tiles;
  LaunchShape shape;
  shape.grid = dim3(
      static_cast<unsigned>(most < heads.most_thread_blocks ? most : heads.most_thread_blocks));
  shape.block = dim3(kThreads);
  shape.shared_bytes = SharedLayout<T>::Bytes(params.query_rows);
  shape.overlap = true;
  return Launch(AttentionKernel<T>, shape, stream, params);
}

template <typename E>
cudaError_t LaunchElement(const AttentionArgs& args, cudaStream_t stream) {
  const int hd = args.step.shape.head_dim;
  if (hd <= 64) return LaunchTile<HeadTile<E, 64>>(args, stream);
  if (hd <= 96) return LaunchTile<HeadTile<E, 96>>(args, stream);
  if (hd <= 128) return LaunchTile<HeadTile<E, 128>>(args, stream);
  return LaunchTile<HeadTile<E, 256>>(args, stream);
}

bool OnBoundary(const void* p, uintptr_t bytes) {
  return p != nullptr && reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

}  // namespace

cudaError_t LaunchAttention(const AttentionArgs& args, cudaStream_t stream) {
  if (!IsValid(args.step.shape) || args.step.tokens < 1 || !OnBoundary(args.step.workspace, 256) ||
      !OnBoundary(args.q, 8) || !OnBoundary(args.o, 8) || !OnBoundary(args.k, 16) ||
      !OnBoundary(args.v, 16)) {
    return cudaErrorInvalidValue;
  }
  switch (args.type) {
    case KvType::kF16:
      return LaunchElement<F16Element>(args, stream);
    case KvType::kBf16:
      return LaunchElement<Bf16Element>(args, stream);
    case KvType::kI8:
      return LaunchElement<I8Element>(args, stream);
    case KvType::kF8:
      return LaunchElement<F8Element>(args, stream);
    case KvType::kFull:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace sterna::cuda
