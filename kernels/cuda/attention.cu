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
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = 4;
// Some rounds of all SMs' blocks; where there are more units, blocks do several.
constexpr int64_t kMostBlocks = 2048;

struct AttentionParams {
  AttentionArgs args;
  AttentionPlan plan;
  int group;          // query heads of a K/V head
  int query_rows;     // that there is room for
  float score_scale;  // scale * log2(e)
};

// What a block works on.
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

  // Rows count (token, head) pairs from the block's first on.
  __device__ int TokenOf(int row, int group) const { return (row_tile * kFewRows + row) / group; }
  __device__ int HeadOf(int row, int group) const {
    return kv_head * group + (row_tile * kFewRows + row) % group;
  }
};

__device__ Work WorkOf(const AttentionParams& p, int index) {
  const int tiles = p.plan.row_tiles;
  const int of_unit = p.args.step.shape.kv_heads * tiles;
  Work work;
  // Backwards: late tokens of a prompt have the most to do.
  work.unit = p.plan.units[*p.plan.num_units - 1 - index / of_unit];
  work.kv_head = index % of_unit / tiles;
  work.row_tile = index % tiles;
  const bool few = work.unit.tokens <= p.plan.few_tokens;
  work.rows = work.unit.tokens * p.group - work.row_tile * kFewRows;
  if (few && work.rows > kFewRows) work.rows = kFewRows;
  if (!few && work.row_tile > 0) work.rows = 0;  // the first has them all
  work.first_position = p.args.step.positions[work.unit.first_token];
  work.last_position = work.first_position + work.unit.tokens - 1;
  work.first_seen = FirstSeen(work.first_position, p.args.step.shape.window);
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
  return work;
}

// The block's shared memory.
template <typename T>
struct SharedLayout {
  uint8_t* queries;  // [2][rows][kQueryStride]: both parts
  float* factors;    // [kManyRows]
  // Exchanged by the warps of few rows: the largest scores, weights and their sums.
  float* largest;  // [kWarps][kFewRows]
  uint4* weights;  // [kWarps][32]
  float2* sums;    // [kWarps][32]
  uint8_t* buffers;

  static constexpr int kExchangeBytes =
      kManyRows * 4 + kWarps * kFewRows * 4 + kWarps * 32 * (16 + 8);
  static constexpr size_t Bytes(int query_rows) {
    return static_cast<size_t>(2 * query_rows * T::kQueryStride + kExchangeBytes +
                               T::kBuffers * T::kBufferBytes);
  }
  __device__ explicit SharedLayout(int query_rows) {
    uint8_t* next = SharedMemory();
    const auto take = [&](int bytes) {
      uint8_t* const part = next;
      next += bytes;
      return part;
    };
    queries = take(2 * query_rows * T::kQueryStride);
    factors = reinterpret_cast<float*>(take(kManyRows * 4));
    largest = reinterpret_cast<float*>(take(kWarps * kFewRows * 4));
    weights = reinterpret_cast<uint4*>(take(kWarps * 32 * 16));
    sums = reinterpret_cast<float2*>(take(kWarps * 32 * 8));
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
      : work_(work), buffers_(buffers), head_dim_(p.args.step.shape.head_dim) {
    const int kv_heads = p.args.step.shape.kv_heads;
    const int head_bytes = static_cast<int>(kKvBlockTokens) *
                           (head_dim_ * Element::kBytes + (Element::kScaled ? 4 : 0));
    block_bytes_ = static_cast<int64_t>(kv_heads) * head_bytes;
    k_ = static_cast<const uint8_t*>(p.args.k) + static_cast<int64_t>(work.kv_head) * head_bytes;
    v_ = static_cast<const uint8_t*>(p.args.v) + static_cast<int64_t>(work.kv_head) * head_bytes;
    const int sequence = p.args.step.sequence[work.unit.first_token];
    table_ = p.args.block_tables + static_cast<int64_t>(sequence) * p.args.step.shape.max_blocks;
    tile_ = work.first_tile;
    LoadBlocks();
#pragma unroll
    for (int i = 0; i < T::kBuffers - 1; ++i) Ask();
  }

  // The next tile of K or V, in turns, once all threads are here and done with the one before.
  __device__ const uint8_t* Next() {
    WaitForCopies<T::kBuffers - 2>();
    __syncthreads();
    Ask();
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
    block_ = real ? table_[first / 16] : 0;
  }
  __device__ void Ask() {
    if (tile_ < work_.end_tile) {
      uint8_t* const to = BufferOf(asked_);
      const bool is_k = asked_ % 2 == 0;
      CopyRows(is_k ? k_ : v_, to);
      if (is_k) {
        if constexpr (Element::kScaled) CopyScales(to + T::kScalesAt);
      } else {
        ++tile_;
        LoadBlocks();
      }
    }
    ++asked_;
    CommitCopies();  // nothing, too: groups are counted
  }
  // Rows that nobody sees become zeros, as does what fills up a row: whatever lies in a cache's
  // unused places, weights of zero must meet numbers.
  __device__ void CopyRows(const uint8_t* from, uint8_t* to) const {
    const int row_bytes = head_dim_ * Element::kBytes;
    const auto copy = [&](int row, int byte, auto copy_to) {
      const int64_t block = __shfl_sync(kFullWarp, block_, row / 16);
      const int position = tile_ * kAttentionTile + row;
      const bool valid =
          byte < row_bytes && position >= work_.first_seen && position <= work_.last_position;
      copy_to(to + row * T::kStride + byte,
              valid ? from + block * block_bytes_ + row % 16 * row_bytes + byte : from, valid);
    };
    if constexpr (Element::kBytes == 1) {
      if (row_bytes % 16 != 0) {
        for (int i = static_cast<int>(threadIdx.x); i < kAttentionTile * T::kChunks * 2;
             i += kThreads) {
          copy(i / (T::kChunks * 2), i % (T::kChunks * 2) * 8, CopyAsync8);
        }
        return;
      }
    }
#pragma unroll
    for (int i = 0; i < kAttentionTile * T::kChunks / kThreads; ++i) {
      const int chunk = i * kThreads + static_cast<int>(threadIdx.x);
      copy(chunk / T::kChunks, chunk % T::kChunks * 16, CopyAsync16);
    }
  }
  // K's scales and behind them V's: [2][kAttentionTile] f32.
  __device__ void CopyScales(uint8_t* to) const {
    if (threadIdx.x >= 32) return;
    const int lane = static_cast<int>(threadIdx.x);
    const int64_t block = __shfl_sync(kFullWarp, block_, lane / 4);
    const int position = tile_ * kAttentionTile + lane % 16 * 4;
    const bool valid = position <= work_.last_position && position + 3 >= work_.first_seen;
    const uint8_t* const from = lane < 16 ? k_ : v_;
    const int64_t offset = block * block_bytes_ + kKvBlockTokens * head_dim_ + lane % 4 * 16;
    CopyAsync16(to + lane * 16, valid ? from + offset : from, valid);
  }

  const Work& work_;
  uint8_t* buffers_;
  int head_dim_;
  int64_t block_bytes_;
  const uint8_t* k_;
  const uint8_t* v_;
  const int32_t* table_;
  int tile_;  // that is asked for next
  int32_t block_;
  int asked_ = 0;  // turns
  int taken_ = 0;
};

// Both parts of q's rows, and the factor that makes scores of their products.
template <typename P>
__device__ void LoadQueries(const AttentionParams& p, const Work& work,
                            const SharedLayout<typename P::Tile>& shared) {
  using T = typename P::Tile;
  constexpr int kOfLane = T::kHd / 32;
  constexpr int kLowPart = P::kRows * T::kQueryStride;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int hd = p.args.step.shape.head_dim;
#pragma unroll 4
  for (int row = P::warp(); row < P::kRows; row += kWarps) {
    const int64_t token = work.unit.first_token + work.TokenOf(row, p.group);
    const float* const q =
        p.args.q + (token * p.args.step.shape.heads + work.HeadOf(row, p.group)) * hd;
    float x[kOfLane];
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      x[i] = row < work.rows && i * 32 + lane < hd ? q[i * 32 + lane] : 0.0f;
      largest = fmaxf(largest, fabsf(x[i]));
    }
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, distance));
    }
    // The power of two that brings it to 2^14; of what is below 2^-86 as much as a float holds.
    int exponent = 127 + 14 - static_cast<int>(__float_as_uint(largest) >> 23);
    if (exponent > 100) exponent = 100;
    const float up = __uint_as_float(static_cast<unsigned>(127 + exponent) << 23);
    const float down = __uint_as_float(static_cast<unsigned>(127 - exponent) << 23);
    uint8_t* const to = shared.queries + row * T::kQueryStride;
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const float scaled = x[i] * up;
      const auto high = static_cast<uint16_t>(PackF16(scaled, 0.0f));
      const auto low = static_cast<uint16_t>(PackF16(scaled - F16ToFloat(high), 0.0f));
      uint8_t* const element = to + P::Element::QueryColumn(i * 32 + lane) * 2;
      *reinterpret_cast<uint16_t*>(element) = high;
      *reinterpret_cast<uint16_t*>(element + kLowPart) = low;
    }
    if (lane == 0) shared.factors[row] = down * p.score_scale;
  }
}

template <typename P>
__device__ LaneRows RowsOfLane(const AttentionParams& p, const Work& work,
                               const SharedLayout<typename P::Tile>& shared) {
  LaneRows rows;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = P::FirstRow() + static_cast<int>(threadIdx.x) % 32 / 4 + i * 8;
    const int position = work.first_position + work.TokenOf(row, p.group);
    rows.first[i] = FirstSeen(position, p.args.step.shape.window);
    rows.count[i] = row < work.rows ? static_cast<unsigned>(position - rows.first[i] + 1) : 0;
    rows.factor[i] = shared.factors[row];
    rows.largest[i] = -INFINITY;
    rows.sum[i] = 0.0f;
  }
  return rows;
}

// Takes a tile's K into `rows`: weights for V's product, and `keep`, what o so far is worth.
template <typename P>
__device__ __forceinline__ void WeighTile(int tile, const uint8_t* keys,
                                          const SharedLayout<typename P::Tile>& shared,
                                          LaneRows& rows, uint32_t (&weights)[4][4],
                                          float (&keep)[2], float (&sums)[4][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Scores<P> s;
  MultiplyKeys<P>(shared.queries, keys, s);
  float largest[2];
  MaskScores<P>(rows, tile, keys, s, largest);
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
    Weigh<P>(base, P::ScoreGroup(i), keys, s[i], weights[i], sums[i]);
  }
  if constexpr (!P::kMany) {
    shared.weights[P::warp() * 32 + lane] =
        make_uint4(weights[0][0], weights[0][1], weights[0][2], weights[0][3]);
    shared.sums[P::warp() * 32 + lane] = make_float2(sums[0][0], sums[0][1]);
  }
}

// After all warps of few rows are there: what the others wrote.
template <typename P>
__device__ __forceinline__ void ReadWeights(const SharedLayout<typename P::Tile>& shared,
                                            uint32_t (&weights)[4][4], float (&sums)[4][2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    const uint4 w = shared.weights[i * 32 + lane];
    weights[i][0] = w.x;
    weights[i][1] = w.y;
    weights[i][2] = w.z;
    weights[i][3] = w.w;
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

// Ends a split: its o goes to `to` as it is (`first`), or together with what lies there; as a
// result with `last`. to: this lane's rows' vectors, or null.
template <typename P>
__device__ __forceinline__ void StoreSplit(const LaneRows& rows, const Outputs<P>& o, int hd,
                                           bool first, bool last, float* const (&to)[2],
                                           Totals& totals) {
  using E = typename P::Element;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Together together[2];
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    const float sum = FourLanesSum(rows.sum[row]);
    together[row] = Join(first ? -INFINITY : totals.largest[row], rows.largest[row]);
    totals.sum[row] = JoinSums(together[row], first ? 0.0f : totals.sum[row], sum);
    totals.largest[row] = together[row].largest;
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
        auto* const p = reinterpret_cast<float2*>(to[row] + dim);
        float2 value = make_float2(o[i][E::OutputOf(pair, 0)][row * 2 + E::ColumnOf(pair, 0)],
                                   o[i][E::OutputOf(pair, 1)][row * 2 + E::ColumnOf(pair, 1)]);
        if (!first) {
          const float2 before = *p;
          value.x = JoinSums(together[row], before.x, value.x);
          value.y = JoinSums(together[row], before.y, value.y);
        }
        if (last) {
          value.x = Normalized<E>(value.x, totals.sum[row]);
          value.y = Normalized<E>(value.y, totals.sum[row]);
        }
        *p = value;
      }
    }
  }
}

// The first of a piece's partial results, of those for `token` of it.
__device__ __forceinline__ int64_t PartialOf(const AttentionUnit& unit, int split, int token) {
  return unit.partial + static_cast<int64_t>(split) * unit.tokens + token;
}

// Whether this block is the last of its piece: the others' partial results are there.
__device__ bool IsLastOfPiece(const AttentionParams& p, const Work& work, int splits, int* shared) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    const int counters = p.args.step.shape.kv_heads * p.plan.row_tiles;
    int* const arrived = p.plan.arrived + static_cast<int64_t>(work.unit.partial) * counters +
                         work.kv_head * p.plan.row_tiles + work.row_tile;
    *shared = atomicAdd(arrived, 1) == splits - 1;
    if (*shared) *arrived = 0;  // for the next layer
  }
  __syncthreads();
  __threadfence();
  return *shared != 0;
}

// o of a piece's rows from the partial results of all its splits.
template <typename E>
__device__ void JoinPartials(const AttentionParams& p, const Work& work, int splits) {
  const int heads = p.args.step.shape.heads;
  const int hd = p.args.step.shape.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < work.rows * hd / 2; i += kThreads) {
    const int row = i / (hd / 2);
    const int dim = i % (hd / 2) * 2;
    const int token = work.TokenOf(row, p.group);
    const int head = work.HeadOf(row, p.group);
    float largest = -INFINITY;
    float sum = 0.0f;
    float2 value = make_float2(0.0f, 0.0f);
#pragma unroll 4
    for (int split = 0; split < splits; ++split) {
      const int64_t at = PartialOf(work.unit, split, token) * heads + head;
      // Not through the first-level cache, which may have seen these bytes too early.
      const float2 stats = __ldcg(p.plan.stats + at);
      const float2 part = __ldcg(reinterpret_cast<const float2*>(p.plan.values + at * hd + dim));
      const Together together = Join(largest, stats.x);
      largest = together.largest;
      sum = JoinSums(together, sum, stats.y);
      value.x = JoinSums(together, value.x, part.x);
      value.y = JoinSums(together, value.y, part.y);
    }
    const int64_t at = static_cast<int64_t>(work.unit.first_token + token) * heads + head;
    *reinterpret_cast<float2*>(p.args.o + at * hd + dim) =
        make_float2(Normalized<E>(value.x, sum), Normalized<E>(value.y, sum));
  }
}

// Where a split's o goes: `base` has a vector for each token, from `first` on, and head.
template <typename P>
__device__ __forceinline__ void VectorsOfLane(const AttentionParams& p, const Work& work,
                                              float* base, int64_t first, float* (&to)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = P::FirstRow() + static_cast<int>(threadIdx.x) % 32 / 4 + i * 8;
    const int64_t at =
        (first + work.TokenOf(row, p.group)) * p.args.step.shape.heads + work.HeadOf(row, p.group);
    to[i] = row < work.rows ? base + at * p.args.step.shape.head_dim : nullptr;
  }
}

template <typename P>
__device__ void StoreStats(const AttentionParams& p, const Work& work, int64_t first,
                           const Totals& totals) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (lane % 4 != 0 || (!P::kMany && P::warp() != 0)) return;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int row = P::FirstRow() + lane / 4 + i * 8;
    if (row >= work.rows) continue;
    const int64_t at =
        (first + work.TokenOf(row, p.group)) * p.args.step.shape.heads + work.HeadOf(row, p.group);
    p.plan.stats[at] = make_float2(totals.largest[i], totals.sum[i]);
  }
}

template <typename P>
__device__ void Attend(const AttentionParams& p, const Work& work) {
  using T = typename P::Tile;
  const bool one_split = work.unit.split >= 0;
  const int first_split = SplitOf(work.first_seen);
  const SharedLayout<T> shared(p.query_rows);
  __syncthreads();  // the unit before is done with it
  TileStream<T> stream(p, work, shared.buffers);
  LoadQueries<P>(p, work, shared);
  __syncthreads();
  LaneRows rows = RowsOfLane<P>(p, work, shared);
  const int64_t first_vector =
      one_split ? PartialOf(work.unit, work.unit.split - first_split, 0) : work.unit.first_token;
  float* to[2];
  VectorsOfLane<P>(p, work, one_split ? p.plan.values : p.args.o, first_vector, to);

  Outputs<P> o = {};
  Totals totals = {};
  bool first = true;
  for (int tile = work.first_tile; tile < work.end_tile; ++tile) {
    uint32_t weights[4][4];
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
    StoreSplit<P>(rows, o, p.args.step.shape.head_dim, first, last && !one_split, to, totals);
    first = false;
    rows.largest[0] = rows.largest[1] = -INFINITY;
    rows.sum[0] = rows.sum[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < P::kValueGroups * 8; ++i) o[i / 8][i / 4 % 2][i % 4] = 0.0f;
  }
  WaitForCopies<0>();
  if (!one_split) return;
  StoreStats<P>(p, work, first_vector, totals);
  const int splits = SplitOf(work.last_position) - first_split + 1;
  if (IsLastOfPiece(p, work, splits, reinterpret_cast<int*>(shared.sums))) {
    JoinPartials<typename P::Element>(p, work, splits);
  }
}

__device__ void StoreZeros(const AttentionParams& p, const Work& work) {
  const int hd = p.args.step.shape.head_dim;
  for (int i = static_cast<int>(threadIdx.x); i < work.rows * hd; i += kThreads) {
    const int64_t token = work.unit.first_token + work.TokenOf(i / hd, p.group);
    const int64_t head = work.HeadOf(i / hd, p.group);
    p.args.o[(token * p.args.step.shape.heads + head) * hd + i % hd] = 0.0f;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, T::kBlocks) AttentionKernel(const AttentionParams p) {
  WaitForPreviousKernel();
  const int count = *p.plan.num_units * p.args.step.shape.kv_heads * p.plan.row_tiles;
  for (int i = static_cast<int>(blockIdx.x); i < count; i += static_cast<int>(gridDim.x)) {
    const Work work = WorkOf(p, i);
    if (work.rows <= 0) continue;
    if (work.first_position < 0) {
      StoreZeros(p, work);
    } else if (work.unit.tokens <= p.plan.few_tokens) {
      Attend<WarpPart<T, false>>(p, work);
    } else {
      Attend<WarpPart<T, true>>(p, work);
    }
  }
  LetNextKernelStart();
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
  shape.grid = dim3(static_cast<unsigned>(most < kMostBlocks ? most : kMostBlocks));
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
    case KvType::kI8:
      return LaunchElement<I8Element>(args, stream);
    case KvType::kFull:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace sterna::cuda
