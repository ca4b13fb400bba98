// The kernels of a sampling step, in the order of their launch; each block is of one row.
//
//   Own       logprobs: of each chunk the largest logit, the weights below it, the most likely
//   Bias, Penalties
//   Largest   of each chunk
//   Weights   draws: each chunk's weight; cuts: the row's histogram over the logits
//   Cut       cuts: the least likely token that top_k and top_p keep
//   Kept      cuts: each chunk's weight that is left
//   Finish    the token: the largest, or the walk to the uniform number; the logprobs
//
// A row is divided into at most kMostChunks chunks, by the vocabulary alone: few rows want many
// blocks, and a warp has a lane for each chunk. Rows that do not want a step leave it at once.
#include <cstdint>

#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/sample.h"
#include "kernels/cuda/sample_cut.cuh"
#include "kernels/cuda/sample_math.cuh"
#include "kernels/cuda/sample_row.cuh"

namespace sterna::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kAdjustBlocks = 32;  // of a row: as many entries as a context has tokens
static_assert(kChunkStep % kThreads == 0, "");

// --- The model's own logits, before anything is done to them.

__global__ void __launch_bounds__(kThreads) OwnKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.y);
  if (row.params.num_logprobs < 0) return;
  const Chunk chunk = ChunkOfBlock(row.vocabulary);
  auto* const scratch = reinterpret_cast<uint64_t*>(SharedMemory());
  // This thread's most likely token of a rank below `last`.
  const auto best_below = [&](uint64_t last) {
    uint64_t best = 0;
    ForTokens<8>(row.logits, nullptr, chunk.begin, chunk.end, [&](int token, float logit) {
      const uint64_t rank = RankOf(logit, token);
      if (rank < last && rank > best) best = rank;
    });
    return best;
  };
  uint64_t* const top = row.workspace.own_top[chunk.index];
  uint64_t best = best_below(~uint64_t{0});
  float largest = 0;
  // The first is wanted by all.
  for (int i = 0; i == 0 || i < row.params.num_logprobs; ++i) {
    const uint64_t next = BlockReduce(best, Max(), scratch);
    if (threadIdx.x == 0) top[i] = next;
    if (i == 0) largest = LogitOfRank(next);
    if (best == next && next != 0) best = best_below(next);
  }
  uint64_t mass = 0;
  ForTokens<8>(row.logits, nullptr, chunk.begin, chunk.end,
               [&](int, float logit) { mass += WeightOf(logit, largest, kLog2E); });
  mass = BlockReduce(mass, Add(), scratch);
  if (threadIdx.x == 0) row.workspace.own_mass[chunk.index] = mass;
}

// --- Bias and penalties. Where logprobs are asked for, an entry keeps what it replaced.

template <typename Adjust>
__device__ void AdjustEntry(const Row& row, SampleEntry& entry, const Adjust& adjust) {
  float& logit = row.logits[entry.token];
  const float before = logit;
  logit = adjust(before, entry);
  if (row.params.num_logprobs >= 0) entry.value = __float_as_uint(before);
}

template <typename Adjust>
__device__ void ForEntries(const Row& row, SampleEntry* first, uint32_t entries,
                           const Adjust& adjust) {
  for (uint32_t i = blockIdx.x * kThreads + threadIdx.x; i < entries;
       i += kAdjustBlocks * kThreads) {
    AdjustEntry(row, first[i], adjust);
  }
}

__global__ void __launch_bounds__(kThreads) BiasKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.y);
  ForEntries(
      row, row.Entries(p.staging, row.params.bias_offset_bytes), row.params.bias_entries,
      [](float logit, const SampleEntry& entry) { return logit + __uint_as_float(entry.value); });
}

__device__ float Penalised(const SampleRow& params, float logit, int in_output) {
  logit = logit > 0.0f ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  logit -= params.frequency_penalty * static_cast<float>(in_output);
  if (in_output > 0) logit -= params.presence_penalty;
  return logit;
}

__global__ void __launch_bounds__(kThreads) PenaltiesKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.y);
  const SampleRow& params = row.params;
  SampleEntry* const first = row.Entries(p.staging, params.counts_offset_bytes);
  // The token drawn before counts once more where it has an entry already, else in the last.
  const int drawn = params.drawn_row < 0 ? -1 : p.drawn[params.drawn_row];
  const uint32_t entries = params.counts_entries - (params.drawn_row < 0 ? 0u : 1u);
  ForEntries(row, first, entries, [&](float logit, const SampleEntry& entry) {
    return Penalised(params, logit, static_cast<int>(entry.value) + (entry.token == drawn ? 1 : 0));
  });
  if (drawn < 0 || blockIdx.x != kAdjustBlocks - 1) return;
  uint64_t found = 0;
  for (uint32_t i = threadIdx.x; i < entries; i += kThreads) found += first[i].token == drawn;
  found = BlockReduce(found, Add(), reinterpret_cast<uint64_t*>(SharedMemory()));
  if (found != 0 || threadIdx.x != 0) return;
  first[entries].token = drawn;
  AdjustEntry(row, first[entries], [&](float logit, const SampleEntry&) {
    return Penalised(params, logit, /*in_output=*/1);
  });
}

// --- The largest logit and the weights.

__global__ void __launch_bounds__(kThreads) LargestKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.y);
  const Chunk chunk = ChunkOfBlock(row.vocabulary);
  uint64_t best = 0;
  ForTokens<16>(row.logits, row.mask, chunk.begin, chunk.end,
                [&](int token, float logit) { best = Max()(best, RankOf(logit, token)); });
  best = BlockReduce(best, Max(), reinterpret_cast<uint64_t*>(SharedMemory()));
  LetNextKernelStart();
  if (threadIdx.x == 0) row.workspace.largest[chunk.index] = best;
  if (!row.Cuts()) return;
  for (unsigned i = blockIdx.x * kThreads + threadIdx.x; i < kSampleBuckets;
       i += gridDim.x * kThreads) {
    row.workspace.bucket_mass[i] = 0;
    row.workspace.bucket_count[i] = 0;
  }
}

struct Histogram {
  uint32_t low[kSampleBuckets];  // halves of masses
  uint32_t high[kSampleBuckets];
  uint32_t count[kSampleBuckets];
};

__device__ void AddToRow(const Histogram& histogram, SampleWorkspace& workspace) {
  for (int i = static_cast<int>(threadIdx.x); i < kSampleBuckets; i += kThreads) {
    const uint64_t mass = static_cast<uint64_t>(histogram.high[i]) << 32 | histogram.low[i];
    if (mass != 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(&workspace.bucket_mass[i]),
                static_cast<unsigned long long>(mass));
    }
    if (histogram.count[i] != 0) atomicAdd(&workspace.bucket_count[i], histogram.count[i]);
  }
}

// What min_p does not keep has no weight and is not counted.
__global__ void __launch_bounds__(kThreads) WeightsKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.y);
  if (row.params.draws == 0) return;
  auto* const scratch = reinterpret_cast<uint64_t*>(SharedMemory());
  auto& histogram = *reinterpret_cast<Histogram*>(scratch + kWarps);
  const bool cuts = row.Cuts();
  const bool counts = row.params.top_k > 0;
  if (cuts) {
    auto* const words = reinterpret_cast<uint32_t*>(&histogram);
    for (unsigned i = threadIdx.x; i < sizeof(Histogram) / 4; i += kThreads) words[i] = 0;
    __syncthreads();
  }
  const Weighing weighing(row, LargestRank(row));
  const Chunk chunk = ChunkOfBlock(row.vocabulary);
  uint64_t mass = 0;
  uint64_t count = 0;
  ForTokens<8>(row.logits, row.mask, chunk.begin, chunk.end, [&](int, float logit) {
    if (!weighing.PassesMinP(logit)) return;
    const uint64_t weight = weighing.Weight(logit);
    mass += weight;
    ++count;
    if (!cuts) return;
    const int bucket = weighing.Bucket(logit);
    if (bucket == kSampleBuckets - 1) return;
    AddToHalves(&histogram.low[bucket], &histogram.high[bucket], weight);
    if (counts) atomicAdd(&histogram.count[bucket], 1u);
  });
  mass = BlockReduce(mass, Add(), scratch);  // and the histogram is whole
  count = BlockReduce(count, Add(), scratch);
  LetNextKernelStart();
  if (threadIdx.x == 0) {
    row.workspace.mass[chunk.index] = mass;
    row.workspace.count[chunk.index] = static_cast<uint32_t>(count);
  }
  if (cuts) AddToRow(histogram, row.workspace);
}

// --- What top_k and top_p keep.

__global__ void __launch_bounds__(kCutThreads, 1) CutKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.x);
  if (!row.Cuts()) return;
  const Weighing weighing(row, LargestRank(row));
  const bool real = Lane() < NumChunks(row.vocabulary);
  uint64_t mass = WarpReduce(real ? row.workspace.mass[Lane()] : uint64_t{0}, Add());
  const uint32_t count = WarpReduce(real ? row.workspace.count[Lane()] : 0u, Add());
  auto& shared = *reinterpret_cast<CutShared*>(SharedMemory());

  SampleKept kept = kKeepAll;
  // First top_k, then top_p of what is left: those are the most likely, so it ends among them.
#pragma unroll 1
  for (int by_mass = 0; by_mass < 2; ++by_mass) {
    Wanted wanted = {by_mass != 0, static_cast<uint64_t>(row.params.top_k)};
    if (wanted.by_mass) {
      if (row.params.top_p >= 1.0f) continue;
      const double least = ceil(static_cast<double>(row.params.top_p) * static_cast<double>(mass));
      wanted.amount = static_cast<uint64_t>(least);
      if (wanted.amount < 1) wanted.amount = 1;  // one is always kept
      if (wanted.amount > mass) wanted.amount = mass;
    } else if (wanted.amount == 0 || wanted.amount >= count) {
      continue;
    }
    Cut(wanted, row, weighing, shared, kept, mass);
  }
  LetNextKernelStart();
  if (threadIdx.x == 0) row.workspace.kept = kept;
}

// What a walk over tokens in the order of their ids meets.
struct Share {
  uint64_t mass;  // of tokens above kept.key
  uint32_t ties;  // tokens at it
};
__device__ __forceinline__ void AddTo(Share& share, const Weighing& weighing,
                                      const SampleKept& kept, float logit) {
  const uint32_t key = KeyOf(logit);
  if (key < kept.key || !weighing.PassesMinP(logit)) return;
  if (key == kept.key) {
    ++share.ties;
  } else {
    share.mass += weighing.Weight(logit);
  }
}

__global__ void __launch_bounds__(kThreads) KeptKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.y);
  if (!row.Cuts()) return;
  auto* const scratch = reinterpret_cast<uint64_t*>(SharedMemory());
  const Weighing weighing(row, LargestRank(row));
  const SampleKept kept = row.workspace.kept;
  const Chunk chunk = ChunkOfBlock(row.vocabulary);
  Share share = {};
  ForTokens<8>(row.logits, row.mask, chunk.begin, chunk.end,
               [&](int, float logit) { AddTo(share, weighing, kept, logit); });
  const uint64_t mass = BlockReduce(share.mass, Add(), scratch);
  const uint64_t ties = BlockReduce(uint64_t{share.ties}, Add(), scratch);
  LetNextKernelStart();
  if (threadIdx.x == 0) {
    row.workspace.mass[chunk.index] = mass;
    row.workspace.count[chunk.index] = static_cast<uint32_t>(ties);
  }
}

// --- The token and the logprobs.

// What is left of a walk.
struct Walk {
  uint64_t target;      // ends where the mass is more than this
  uint32_t ties;        // that are still kept
  uint64_t tie_weight;  // of each
};

// Walks past the lanes' shares in their order: up to the one in which the walk ends, which is
// returned, or past all, then -1. Whole warps.
__device__ int Pass(Walk& walk, const Share& lane) {
  const uint32_t ties_through = WarpInclusiveSum(lane.ties);
  const uint32_t ties_before = ties_through - lane.ties;
  const uint32_t ties_left = walk.ties > ties_before ? walk.ties - ties_before : 0;
  const uint32_t ties = lane.ties < ties_left ? lane.ties : ties_left;
  const uint64_t mass = lane.mass + ties * walk.tie_weight;
  const uint64_t through = WarpInclusiveSum(mass);
  const unsigned ends = __ballot_sync(kFullWarp, through > walk.target);
  const int last = ends == 0 ? 31 : __ffs(static_cast<int>(ends)) - 1;
  const bool all = ends == 0;
  walk.target -= __shfl_sync(kFullWarp, all ? through : through - mass, last);
  walk.ties = __shfl_sync(kFullWarp, all ? ties_left - ties : ties_left, last);
  return all ? -1 : last;
}

struct FinishShared {
  uint64_t mass[kWarps];
  uint32_t ties[kWarps];
  int token;
  float own;  // the token's logit, as the model has it
};

// The token of the row's uniform number: down from chunks to the parts of warps and to tokens. All
// threads get it. Whole blocks.
__device__ int Draw(const Row& row, const Weighing& weighing, FinishShared& shared) {
  const SampleKept kept = row.Cuts() ? row.workspace.kept : kKeepAll;
  const bool real = Lane() < NumChunks(row.vocabulary);
  Share share = {};
  if (real) share = {row.workspace.mass[Lane()], row.workspace.count[Lane()]};
  Walk walk = {0, kept.ties, kept.ties == 0 ? 0 : weighing.Weight(LogitOf(kept.key))};
  const uint64_t total = WarpReduce(share.mass, Add()) + walk.ties * walk.tie_weight;
  walk.target = __umul64hi(row.params.uniform, total);
  const Chunk chunk = ChunkAt(row.vocabulary, Pass(walk, share));

  const int part = ChunkTokens(row.vocabulary) / kWarps;
  int begin = chunk.begin + WarpOfBlock() * part;
  int end = begin + part < chunk.end ? begin + part : chunk.end;
  share = {};
  for (int token = begin + Lane(); token < end; token += 32) {
    AddTo(share, weighing, kept, row.Choosable(token));
  }
  const uint64_t mass = WarpReduce(share.mass, Add());
  const uint32_t ties = WarpReduce(share.ties, Add());
  if (Lane() == 0) {
    shared.mass[WarpOfBlock()] = mass;
    shared.ties[WarpOfBlock()] = ties;
  }
  __syncthreads();
  if (WarpOfBlock() == 0) {
    share = {};
    if (Lane() < kWarps) share = {shared.mass[Lane()], shared.ties[Lane()]};
    begin = chunk.begin + Pass(walk, share) * part;
    end = begin + part < chunk.end ? begin + part : chunk.end;
    for (int first = begin; first < end; first += 32) {
      share = {};
      if (first + Lane() < end) AddTo(share, weighing, kept, row.Choosable(first + Lane()));
      const int lane = Pass(walk, share);
      if (lane < 0) continue;
      if (Lane() == 0) shared.token = first + lane;
      break;
    }
  }
  __syncthreads();
  return shared.token;
}

// The logit of `token` before bias and penalties, wherever these have left it. Whole blocks.
__device__ float OwnLogit(const SampleArgs& p, const Row& row, int token, FinishShared& shared) {
  if (threadIdx.x == 0) shared.own = row.logits[token];
  const auto look = [&](uint32_t offset_bytes, uint32_t entries) {
    __syncthreads();
    const SampleEntry* const first = row.Entries(p.staging, offset_bytes);
    for (uint32_t i = threadIdx.x; i < entries; i += kThreads) {
      if (first[i].token == token) shared.own = __uint_as_float(first[i].value);
    }
  };
  look(row.params.counts_offset_bytes, row.params.counts_entries);
  look(row.params.bias_offset_bytes, row.params.bias_entries);  // was first, so has the last word
  __syncthreads();
  return Canonical(shared.own);
}

// Whole warps: one.
__device__ void WriteLogprobs(const SampleArgs& p, const Row& row, int token, float own) {
  const SampleWorkspace& w = row.workspace;
  const bool real = Lane() < NumChunks(row.vocabulary);
  const uint64_t* const top = w.own_top[Lane()];  // of this lane's chunk
  uint64_t head = real ? top[0] : 0;
  const float chunk_largest = LogitOfRank(head);
  const float largest = LogitOfRank(WarpReduce(head, Max()));
  const auto below = [&](float logit) {
    return logit == largest ? 0.0 : static_cast<double>(logit) - static_cast<double>(largest);
  };
  // A chunk's unit is its own largest. The sum has one order, that of the lanes.
  const double mass = real ? static_cast<double>(w.own_mass[Lane()]) *
                                 Exp2(below(chunk_largest) * kLog2E) / kWeightOne
                           : 0.0;
  const double log_total = log(WarpReduce(mass, Add()));
  auto* const tokens = reinterpret_cast<SampleToken*>(p.results);
  if (Lane() == 0) tokens[row.index] = {token, static_cast<float>(below(own) - log_total)};

  SampleToken* const out = tokens + p.rows + static_cast<int64_t>(row.index) * kMostTopLogprobs;
  int used = 0;  // of this lane's
  for (int i = 0; i < row.params.num_logprobs && i < row.vocabulary; ++i) {
    const uint64_t next = WarpReduce(head, Max());
    const float logit = LogitOfRank(next);
    if (Lane() == 0) out[i] = {TokenOfRank(next), static_cast<float>(below(logit) - log_total)};
    if (head != next) continue;
    ++used;
    head = used < row.params.num_logprobs ? top[used] : 0;
  }
}

__global__ void __launch_bounds__(kThreads, 4) FinishKernel(const SampleArgs p) {
  WaitForPreviousKernel();
  const Row row(p, blockIdx.x);
  auto& shared = *reinterpret_cast<FinishShared*>(SharedMemory());
  const uint64_t largest = LargestRank(row);
  int token = TokenOfRank(largest);
  if (row.params.target >= 0) token = row.params.target;
  if (row.params.draws != 0) token = Draw(row, Weighing(row, largest), shared);
  if (threadIdx.x == 0 && p.drawn != nullptr) p.drawn[row.index] = token;
  if (row.params.num_logprobs < 0) {
    if (threadIdx.x == 0) reinterpret_cast<SampleToken*>(p.results)[row.index] = {token, 0.0f};
    return;
  }
  const float own = OwnLogit(p, row, token, shared);
  if (WarpOfBlock() == 0) WriteLogprobs(p, row, token, own);
}

bool IsAligned(const void* pointer) {
  return pointer != nullptr &&
         reinterpret_cast<uintptr_t>(pointer) % kSampleBufferAlignmentBytes == 0;
}

bool IsValid(const SampleArgs& p) {
  return p.rows >= 1 && p.rows <= kMostSampleRows && p.vocabulary >= 1 &&
         p.vocabulary <= kMostVocabulary && p.logits != nullptr && IsAligned(p.staging) &&
         IsAligned(p.workspace) && IsAligned(p.results);
}

}  // namespace

size_t SampleWorkspaceBytes(int64_t rows) { return static_cast<size_t>(rows) * kWorkspaceBytes; }

cudaError_t LaunchSample(const SampleArgs& p, cudaStream_t stream) {
  if (!IsValid(p)) return cudaErrorInvalidValue;
  const auto rows = static_cast<unsigned>(p.rows);
  const dim3 chunks(static_cast<unsigned>(NumChunks(p.vocabulary)), rows);
  const dim3 adjust(kAdjustBlocks, rows);
  constexpr size_t kScratch = kWarps * sizeof(uint64_t);
  const size_t histogram = p.work.cuts ? sizeof(Histogram) : 0;
  const struct {
    bool wanted;
    void (*kernel)(SampleArgs);
    LaunchShape shape;
  } steps[] = {
      {p.work.logprobs, OwnKernel, {chunks, dim3(kThreads), kScratch, true}},
      {p.work.bias, BiasKernel, {adjust, dim3(kThreads), 0, true}},
      {p.work.penalties, PenaltiesKernel, {adjust, dim3(kThreads), kScratch, true}},
      {true, LargestKernel, {chunks, dim3(kThreads), kScratch, true}},
      {p.work.draws, WeightsKernel, {chunks, dim3(kThreads), kScratch + histogram, true}},
      {p.work.cuts, CutKernel, {dim3(rows), dim3(kCutThreads), sizeof(CutShared), true}},
      {p.work.cuts, KeptKernel, {chunks, dim3(kThreads), kScratch, true}},
      {true, FinishKernel, {dim3(rows), dim3(kThreads), sizeof(FinishShared), true}},
  };
  for (const auto& step : steps) {
    if (!step.wanted) continue;
    const cudaError_t error = Launch(step.kernel, step.shape, stream, p);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace sterna::cuda
