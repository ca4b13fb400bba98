// The plan of a step's attention: one block looks at all tokens and writes the list of units.
//
// Units for every split of every piece are the best for balance, but their partial results need
// memory. Where it does not suffice, pieces of short contexts, then all with many rows, are walked
// through by one block each.
#include "kernels/cuda/attention_plan.cuh"
#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {
namespace {

constexpr int kPlanThreads = 256;
constexpr int kPlanWarps = kPlanThreads / 32;

struct PlanParams {
  AttentionStep step;
  AttentionPlan plan;
};

// Whether a token is of the same piece as the one before it. Pieces end at fixed numbers of tokens,
// counted from the step's first, so that nobody needs to know where a piece began.
__device__ bool Continues(const PlanParams& p, int token) {
  if (token % p.plan.many_tokens == 0) return false;
  const int position = p.step.positions[token];
  const int before = p.step.positions[token - 1];
  if (position < 0 || before < 0) return position < 0 && before < 0;
  return position == before + 1 && p.step.sequence[token] == p.step.sequence[token - 1];
}

struct Piece {
  int tokens;  // 0: none begins here
  int splits;
  bool few;
};

__device__ Piece PieceAt(const PlanParams& p, int token) {
  Piece piece = {};
  if (token >= p.step.tokens || Continues(p, token)) return piece;
  piece.tokens = 1;
  while (token + piece.tokens < p.step.tokens && Continues(p, token + piece.tokens)) ++piece.tokens;
  piece.few = piece.tokens <= p.plan.few_tokens;
  const int position = p.step.positions[token];
  piece.splits = position < 0 ? 1
                              : SplitOf(position + piece.tokens - 1) -
                                    SplitOf(FirstSeen(position, p.step.shape.window)) + 1;
  return piece;
}

// The sum of `value` over the threads before this one; *total: over all. `sums`: one per warp.
__device__ int ExclusiveSum(int value, int* sums, int* total) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int inclusive = value;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(kFullWarp, inclusive, static_cast<unsigned>(distance));
    if (lane >= distance) inclusive += before;
  }
  __syncthreads();  // the last sums have been read
  if (lane == 31) sums[warp] = inclusive;
  __syncthreads();
  int before_warp = 0;
  *total = 0;
  for (int i = 0; i < kPlanWarps; ++i) {
    if (i < warp) before_warp += sums[i];
    *total += sums[i];
  }
  return before_warp + inclusive - value;
}

// Partial results of all pieces of few rows, or of many, that have at least so many splits.
__device__ int PartialsOf(const PlanParams& p, bool few, int least_splits, int* sums) {
  int partials = 0;
  for (int token = static_cast<int>(threadIdx.x); token < p.step.tokens; token += kPlanThreads) {
    const Piece piece = PieceAt(p, token);
    if (piece.few == few && piece.splits >= least_splits) partials += piece.tokens * piece.splits;
  }
  int total;
  ExclusiveSum(partials, sums, &total);
  return total;
}

__device__ void WriteUnits(const PlanParams& p, int token, const Piece& piece, bool split,
                           int first_unit, int partial) {
  if (!split) {
    p.plan.units[first_unit] = {token, piece.tokens, -1, 0};
    return;
  }
  const int first_split = SplitOf(FirstSeen(p.step.positions[token], p.step.shape.window));
  for (int i = 0; i < piece.splits; ++i) {
    p.plan.units[first_unit + i] = {token, piece.tokens, first_split + i, partial};
  }
  const int counters = p.step.shape.kv_heads * p.plan.row_tiles;
  for (int i = 0; i < counters; ++i) p.plan.arrived[partial * counters + i] = 0;
}

__global__ void __launch_bounds__(kPlanThreads) PlanKernel(const PlanParams p) {
  int* const sums = reinterpret_cast<int*>(SharedMemory());
  WaitForPreviousKernel();
  LetNextKernelStart();
  // At least 2: what has one split hands nothing on.
  int least_few = 2;
  int partials = PartialsOf(p, true, least_few, sums);
  while (partials > p.plan.most_partials) {
    least_few *= 2;
    partials = PartialsOf(p, true, least_few, sums);
  }
  const bool split_many = PartialsOf(p, false, 2, sums) <= p.plan.most_partials - partials;

  int first_unit = 0;
  int first_partial = 0;
  for (int first = 0; first < p.step.tokens; first += kPlanThreads) {
    const int token = first + static_cast<int>(threadIdx.x);
    const Piece piece = PieceAt(p, token);
    const bool split = piece.few ? piece.splits >= least_few : split_many && piece.splits >= 2;
    int units;
    const int unit = ExclusiveSum(piece.tokens == 0 ? 0 : split ? piece.splits : 1, sums, &units);
    const int partial = ExclusiveSum(split ? piece.tokens * piece.splits : 0, sums, &partials);
    if (piece.tokens > 0) {
      WriteUnits(p, token, piece, split, first_unit + unit, first_partial + partial);
    }
    first_unit += units;
    first_partial += partials;
  }
  if (threadIdx.x == 0) *p.plan.num_units = first_unit;
}

int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace

bool IsValid(const AttentionShape& shape) {
  return shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 &&
         shape.head_dim > 0 && shape.head_dim % 8 == 0 && shape.head_dim <= 256 &&
         shape.max_blocks > 0 && shape.max_blocks <= INT32_MAX / kKvBlockTokens &&
         shape.window >= 0 && shape.most_partials >= 0 && shape.most_thread_blocks > 0;
}

AttentionPlan LayOutPlan(const AttentionShape& shape, int32_t tokens, void* workspace,
                         size_t* bytes) {
  const int group = shape.heads / shape.kv_heads;
  const int64_t most_splits =
      SplitOf(shape.max_blocks * static_cast<int32_t>(kKvBlockTokens) - 1) + 1;
  AttentionPlan plan = {};
  plan.few_tokens = group < kFewRows ? kFewRows / group : 1;
  plan.many_tokens = group < kManyRows ? kManyRows / group : 1;
  plan.row_tiles = group <= kFewRows ? 1 : (group + kFewRows - 1) / kFewRows;
  const int64_t most_partials = Least(tokens * most_splits, shape.most_partials);
  plan.most_partials = static_cast<int32_t>(most_partials);
  plan.most_units = static_cast<int32_t>(Least(tokens * most_splits, most_partials + tokens));

  auto* const begin = static_cast<uint8_t*>(workspace);
  size_t used = 0;
  const auto take = [&](int64_t size) {
    uint8_t* const part = begin == nullptr ? nullptr : begin + used;
    used += (static_cast<size_t>(size) + 255) / 256 * 256;
    return part;
  };
  plan.num_units = reinterpret_cast<int32_t*>(take(sizeof(int32_t)));
  plan.units = reinterpret_cast<AttentionUnit*>(
      take(plan.most_units * static_cast<int64_t>(sizeof(AttentionUnit))));
  plan.arrived = reinterpret_cast<int32_t*>(take(most_partials * shape.kv_heads * plan.row_tiles *
                                                 static_cast<int64_t>(sizeof(int32_t))));
  plan.stats = reinterpret_cast<float2*>(
      take(most_partials * shape.heads * static_cast<int64_t>(sizeof(float2))));
  plan.values = reinterpret_cast<float*>(
      take(most_partials * shape.heads * shape.head_dim * static_cast<int64_t>(sizeof(float))));
  *bytes += used;
  return plan;
}

size_t AttentionWorkspaceBytes(const AttentionShape& shape, int32_t tokens) {
  if (!IsValid(shape) || tokens < 1) return 0;
  size_t bytes = 0;
  LayOutPlan(shape, tokens, nullptr, &bytes);
  return bytes;
}

cudaError_t LaunchAttentionPlan(const AttentionStep& step, cudaStream_t stream) {
  if (!IsValid(step.shape) || step.tokens < 1 || step.workspace == nullptr ||
      reinterpret_cast<uintptr_t>(step.workspace) % 256 != 0) {
    return cudaErrorInvalidValue;
  }
  size_t bytes = 0;
  const PlanParams params = {step, LayOutPlan(step.shape, step.tokens, step.workspace, &bytes)};
  LaunchShape shape;
  shape.grid = dim3(1);
  shape.block = dim3(kPlanThreads);
  shape.shared_bytes = kPlanWarps * sizeof(int);
  shape.overlap = true;
  return Launch(PlanKernel, shape, stream, params);
}

}  // namespace sterna::cuda
