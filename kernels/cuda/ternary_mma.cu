// Ternary products of up to a few hundred tokens, and of any number where there is no wgmma: mma
// with the weights as the A operand.
//
// Weights go from memory straight to the registers of the one warp that multiplies by them, as many
// blocks ahead as there are registers for; activations come in chunks of columns to shared memory,
// which all warps of a block share. Few tokens leave the time to memory, so few rows make a block
// and its warps share out the columns; many tokens want many rows for each activation that is read.
// Where that leaves multiprocessors idle, several blocks share the columns of a tile of outputs
// (TernaryPlan): each leaves its sums in the workspace, and the last one to be done adds them up,
// which is exact in any order.
#include "kernels/cuda/fragment_format.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/ternary_epilogue.cuh"
#include "kernels/cuda/ternary_linear.h"
#include "kernels/cuda/token_stage.cuh"

namespace sterna::cuda {
namespace {

// A block multiplies rows of kRowWarps x kRowBlocks row blocks by kTokens tokens; kSplit warps
// share the columns of each.
template <int kTokens_, int kRowBlocks_, bool kGrouped_>
struct Tile {
  static constexpr int kTokens = kTokens_;
  static constexpr int kRowBlocks = kRowBlocks_;  // of a warp
  // Values of groups are added in order, by one warp.
  static constexpr bool kGrouped = kGrouped_;
  static constexpr int kSplit = kGrouped ? 1 : kTokens <= 16 ? 64 / kTokens : 2;
  static constexpr int kRowWarps = MmaRowWarps(kTokens, kGrouped);
  static constexpr int kWarps = kRowWarps * kSplit;
  static constexpr int kThreads = kWarps * 32;
  // Activations: a stage holds kStageBlocks blocks of columns of every token.
  static constexpr int kStageBlocks = MmaStageCols(kTokens) / static_cast<int>(kFragmentCols);
  static constexpr int kTokenBytes = kStageBlocks * static_cast<int>(kFragmentCols);
  static constexpr int kStageBytes = kTokens * kTokenBytes;
  static constexpr int kStages = 3;
  static constexpr int kWarpBlocks = kStageBlocks / kSplit;  // of a stage, a warp's
  // Blocks of weights that a warp has asked for ahead of time. An H200 wants about 25 KiB of them
  // on their way to every multiprocessor, of which few rows give each but one block of threads.
  static constexpr int kAhead =
      kRowBlocks == 1 && (kTokens <= 16 || (kTokens == 32 && !kGrouped)) ? 8 : 4;
  static constexpr int kTokenTiles = kTokens / 8;
  static constexpr int kTogether = kTilesTogether<kTokenTiles>;
};

// Of sums or values, as MmaU8S8 has them.
template <typename T, typename Element>
using Accumulators = Element[T::kRowBlocks][T::kTokenTiles][4];

// The weights that a warp multiplies by.
struct WarpRows {
  int output[2];     // of args.outputs
  int row_block[2];  // in it
  bool real;         // else all there are to do are done by others
};

template <typename T>
__device__ WarpRows RowsOfWarp(const TernaryLinearArgs& p, int warp_row) {
  WarpRows rows = {};
  int group = static_cast<int>(blockIdx.x) * T::kRowWarps + warp_row;
  const int most = p.gated ? 1 : p.num_outputs;
  const int of_group = p.gated ? 1 : T::kRowBlocks;
  for (int i = 0; i < most; ++i) {
    const int blocks = (p.outputs[i].w.rows + 15) / 16;
    const int groups = (blocks + of_group - 1) / of_group;
    if (group < groups) {
      rows.real = true;
      for (int j = 0; j < T::kRowBlocks; ++j) {
        rows.output[j] = p.gated ? j : i;
        // The last group of an odd number of blocks does one twice.
        const int block = group * of_group + (p.gated ? 0 : j);
        rows.row_block[j] = block < blocks ? block : blocks - 1;
      }
      return rows;
    }
    group -= groups;
  }
  return rows;
}

// Asks for a stage's activations.
template <typename T>
__device__ void CopyStage(const TernaryLinearArgs& p, int first_token, int first_block,
                          uint8_t* stage) {
  CopyRowsToStage<T::kTokens, T::kTokenBytes, T::kThreads>(
      p.q, p.q_stride, first_token, p.tokens, first_block * static_cast<int>(kFragmentCols), stage);
  CommitCopies();
}

// b[n]: the activations' fragments of k-tiles `tile` and, with one tile of tokens, `tile` + 1.
template <typename T>
__device__ void LoadActivations(const uint8_t* stage, int block, int tile, int pair,
                                uint32_t (&b)[4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int matrix = lane / 8;
  const int token = (T::kTokenTiles == 1 ? 0 : pair * 2 + matrix / 2) * 8 + lane % 8;
  const int half_tile = T::kTokenTiles == 1 ? tile * 2 + matrix : tile * 2 + matrix % 2;
  LoadMatrices(b, StagedChunk<T::kTokenBytes>(stage, token, block * 8 + half_tile));
}

__device__ __forceinline__ void DecodeTile(const uint4& w, int tile, uint32_t (&a)[4]) {
  const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
  for (int r = 0; r < 4; ++r) a[r] = words[r] >> (2 * tile) & 0x03030303u;
}

// acc += weights . activations of k-tiles 2 * `half` and the next of one block.
template <typename T>
__device__ __forceinline__ void MultiplyHalfBlock(const uint8_t* stage, int block, int half,
                                                  const uint4 (&w)[T::kRowBlocks],
                                                  Accumulators<T, int32_t>& acc) {
  uint32_t b[4];
  if constexpr (T::kTokenTiles == 1) {
    LoadActivations<T>(stage, block, 2 * half, 0, b);
#pragma unroll
    for (int j = 0; j < T::kRowBlocks; ++j) {
      uint32_t a[4];
      DecodeTile(w[j], 2 * half, a);
      MmaU8S8(acc[j][0], a, b[0], b[1]);
      DecodeTile(w[j], 2 * half + 1, a);
      MmaU8S8(acc[j][0], a, b[2], b[3]);
    }
  } else {
#pragma unroll
    for (int tile = 2 * half; tile < 2 * half + 2; ++tile) {
      uint32_t a[T::kRowBlocks][4];
#pragma unroll
      for (int j = 0; j < T::kRowBlocks; ++j) DecodeTile(w[j], tile, a[j]);
#pragma unroll
      for (int pair = 0; pair < T::kTokenTiles / 2; ++pair) {
        LoadActivations<T>(stage, block, tile, pair, b);
#pragma unroll
        for (int j = 0; j < T::kRowBlocks; ++j) {
          MmaU8S8(acc[j][2 * pair], a[j], b[0], b[1]);
          MmaU8S8(acc[j][2 * pair + 1], a[j], b[2], b[3]);
        }
      }
    }
  }
}

// A part of a row block's sums or values.
template <typename T, typename Element>
__device__ __forceinline__ auto& Part(Element (&all)[T::kTokenTiles][4], int first) {
  return reinterpret_cast<Element(&)[T::kTogether][4]>(all[first]);
}

// Calls body(first tile, this lane's first token) for parts of the tiles.
template <typename T, typename Body>
__device__ __forceinline__ void ForParts(int first_token, const Body& body) {
  const int token = first_token + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int n = 0; n < T::kTokenTiles; n += T::kTogether) body(n, token + n * 8);
}

__device__ __forceinline__ int LaneRow(int row_block) {
  return row_block * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
}

// values += those of the sums of `group`, which begin anew.
template <typename T>
__device__ __forceinline__ void EndGroup(const TernaryLinearArgs& p, const WarpRows& rows,
                                         int first_token, int group, Accumulators<T, int32_t>& acc,
                                         Accumulators<T, float>& values) {
  ForParts<T>(first_token, [&](int n, int token) {
    const TokenScales<T::kTogether> tokens(p, token, group);
#pragma unroll
    for (int j = 0; j < T::kRowBlocks; ++j) {
      const RowScales scales(p, p.outputs[rows.output[j]].w, LaneRow(rows.row_block[j]), group);
      AddGroup<T::kTogether>(tokens, scales, Part<T>(acc[j], n), Part<T>(values[j], n));
    }
  });
}

// The outputs of one part.
template <typename T>
__device__ __forceinline__ void StorePart(const TernaryLinearArgs& p, const WarpRows& rows,
                                          int token,
                                          float (&values)[T::kRowBlocks][T::kTogether][4]) {
  if constexpr (T::kRowBlocks == 2) {
    if (p.gated) {
      StoreGated<T::kTogether>(p, LaneRow(rows.row_block[0]), token, values[0], values[1]);
      return;
    }
  }
#pragma unroll
  for (int j = 0; j < T::kRowBlocks; ++j) {
    if (j == 1 && rows.row_block[1] == rows.row_block[0]) break;  // accumulates once
    StoreOutputs<T::kTogether>(p, rows.output[j], LaneRow(rows.row_block[j]), token, values[j]);
  }
}

template <typename T>
__device__ __forceinline__ void Store(const TernaryLinearArgs& p, const WarpRows& rows,
                                      int first_token, const Accumulators<T, int32_t>& acc,
                                      Accumulators<T, float>& values) {
  ForParts<T>(first_token, [&](int n, int token) {
    float part[T::kRowBlocks][T::kTogether][4];
    if constexpr (T::kGrouped) {
#pragma unroll
      for (int j = 0; j < T::kRowBlocks; ++j) {
        ForLane<T::kTogether>(0, 0,
                              [&](int m, int i, int, int) { part[j][m][i] = values[j][n + m][i]; });
      }
    } else {
      const TokenScales<T::kTogether> tokens(p, token, 0);
#pragma unroll
      for (int j = 0; j < T::kRowBlocks; ++j) {
        const RowScales scales(p, p.outputs[rows.output[j]].w, LaneRow(rows.row_block[j]), 0);
        ToValues<T::kTogether>(tokens, scales, Part<T>(acc[j], n), part[j]);
      }
    }
    StorePart<T>(p, rows, token, part);
  });
}

// Adds up the sums of the warps that share rows, in the first of them; false in the others.
template <typename T>
__device__ bool AddSplits(int warp_row, int split, uint8_t* shared, Accumulators<T, int32_t>& acc) {
  if constexpr (T::kSplit > 1) {
    constexpr int kTiles = T::kRowBlocks * T::kTokenTiles;
    static_assert(T::kRowWarps * (T::kSplit - 1) * kTiles * 4 * 32 * 4 <= T::kStageBytes, "");
    const int lane = static_cast<int>(threadIdx.x) % 32;
    auto& own = reinterpret_cast<int32_t(&)[kTiles][4]>(acc);
    int32_t* sums =
        reinterpret_cast<int32_t*>(shared) + warp_row * (T::kSplit - 1) * kTiles * 4 * 32 + lane;
    __syncthreads();  // the activations there are no longer wanted
    if (split > 0) {
      ForLane<kTiles>(0, 0, [&](int n, int i, int, int) {
        sums[((split - 1) * kTiles * 4 + n * 4 + i) * 32] = own[n][i];
      });
    }
    __syncthreads();
    if (split > 0) return false;
    ForLane<kTiles>(0, 0, [&](int n, int i, int, int) {
#pragma unroll
      for (int other = 0; other < T::kSplit - 1; ++other) {
        own[n][i] += sums[(other * kTiles * 4 + n * 4 + i) * 32];
      }
    });
  }
  return true;
}

// The first stage of the part of those that share the stages out, which are gridDim.z.
__device__ __forceinline__ int StageOfSplit(int stages, unsigned part) {
  return static_cast<int>(static_cast<unsigned>(stages) * part / gridDim.z);
}

// Adds up the sums of the blocks that share columns, in the last one to be done; false in the
// others. By whole warps, those of the same rows of each block, whatever the others do.
template <typename T>
__device__ bool AddBlocks(const TernaryLinearArgs& p, int warp_row, Accumulators<T, int32_t>& acc) {
  if (gridDim.z == 1) return true;
  constexpr int kTiles = T::kRowBlocks * T::kTokenTiles;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int blocks = static_cast<int>(gridDim.z);
  const int own_block = static_cast<int>(blockIdx.z);
  const int number =
      static_cast<int>(blockIdx.y * gridDim.x + blockIdx.x) * T::kRowWarps + warp_row;
  auto& own = reinterpret_cast<int32_t(&)[kTiles][4]>(acc);
  int32_t* const counter = static_cast<int32_t*>(p.workspace) + number;
  int4* const sums =
      reinterpret_cast<int4*>(static_cast<uint8_t*>(p.workspace) + kMmaCounterBytes) +
      static_cast<int64_t>(number) * blocks * kTiles * 32 + lane;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    sums[(own_block * kTiles + n) * 32] = {own[n][0], own[n][1], own[n][2], own[n][3]};
  }
  // Fences of the lane that counts, between barriers of the warp, are all lanes': their sums are
  // there for whoever learns of them from the counter, and so are the others' for them.
  __syncwarp();
  int before = 0;
  if (lane == 0) {
    __threadfence();
    before = atomicAdd(counter, 1);
    __threadfence();
  }
  before = __shfl_sync(kFullWarp, before, 0);
  __syncwarp();
  if (before != blocks - 1) return false;
  // Nobody counts any more; the next launch that does waits for the end of this one.
  if (lane == 0) *counter = 0;
#pragma unroll 1
  for (int block = 0; block < blocks; ++block) {
    if (block == own_block) continue;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int4 other = __ldcg(sums + (block * kTiles + n) * 32);
      own[n][0] += other.x;
      own[n][1] += other.y;
      own[n][2] += other.z;
      own[n][3] += other.w;
    }
  }
  return true;
}

template <typename T>
__global__ void __launch_bounds__(T::kThreads) TernaryLinearKernel(const TernaryLinearArgs p) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int split = warp % T::kSplit;
  const int warp_row = warp / T::kSplit;
  const int first_token = static_cast<int>(blockIdx.y) * T::kTokens;
  const int all_col_blocks = (p.cols + 127) / 128;
  const int all_stages = (all_col_blocks + T::kStageBlocks - 1) / T::kStageBlocks;
  // The columns of this block of threads, of those that share them; groups are counted from 0.
  const int first_stage = T::kGrouped ? 0 : StageOfSplit(all_stages, blockIdx.z);
  const int stages =
      (T::kGrouped ? all_stages : StageOfSplit(all_stages, blockIdx.z + 1)) - first_stage;
  const int first_block = first_stage * T::kStageBlocks;
  const int after = all_col_blocks - first_block;
  const int col_blocks = after < stages * T::kStageBlocks ? after : stages * T::kStageBlocks;
  uint8_t* const shared = SharedMemory();
  const auto stage_at = [&](int stage) { return shared + stage % T::kStages * T::kStageBytes; };

  // Weights do not depend on what ran before.
  const WarpRows rows = RowsOfWarp<T>(p, warp_row);
  const uint4* packed[T::kRowBlocks];
#pragma unroll
  for (int j = 0; j < T::kRowBlocks; ++j) {
    packed[j] =
        p.outputs[rows.output[j]].w.packed +
        (static_cast<int64_t>(rows.row_block[j]) * all_col_blocks + first_block + split) * 32 +
        lane;
  }
  uint4 ahead[T::kAhead][T::kRowBlocks];
  // Block i of this warp's.
  const auto ask = [&](int i, uint4(&to)[T::kRowBlocks]) {
#pragma unroll
    for (int j = 0; j < T::kRowBlocks; ++j) {
      if (rows.real && i * T::kSplit + split < col_blocks) {
        to[j] = LoadStreaming(packed[j] + static_cast<int64_t>(i) * T::kSplit * 32);
      }
    }
  };
#pragma unroll
  for (int i = 0; i < T::kAhead; ++i) ask(i, ahead[i]);

  WaitForPreviousKernel();
  // Who comes next waits for this kernel's end, and asks for its weights meanwhile.
  LetNextKernelStart();
#pragma unroll
  for (int stage = 0; stage < T::kStages - 1; ++stage) {
    if (stage < stages) {
      CopyStage<T>(p, first_token, first_block + stage * T::kStageBlocks, stage_at(stage));
    } else {
      CommitCopies();  // groups are counted
    }
  }
  // Makes `stage` readable, and asks for one that takes the place of the stage before it.
  const auto begin_stage = [&](int stage) {
    WaitForCopies<T::kStages - 2>();
    __syncthreads();  // all have this stage, and are done with the one before
    if (stage + T::kStages - 1 < stages) {
      CopyStage<T>(p, first_token, first_block + (stage + T::kStages - 1) * T::kStageBlocks,
                   stage_at(stage + T::kStages - 1));
    } else {
      CommitCopies();
    }
  };

  Accumulators<T, int32_t> acc = {};
  Accumulators<T, float> values = {};
  int group = 0;
  const int blocks = stages * T::kWarpBlocks;  // of this warp's, not all of which need be there
#pragma unroll 1
  for (int first = 0; first < blocks; first += T::kAhead) {
#pragma unroll
    for (int i = 0; i < T::kAhead; ++i) {
      const int number = first + i;
      if (number >= blocks) break;
      const int stage = number / T::kWarpBlocks;
      if (number % T::kWarpBlocks == 0) begin_stage(stage);
      const int in_stage = number % T::kWarpBlocks * T::kSplit + split;
      const int block = stage * T::kStageBlocks + in_stage;
      if (!rows.real || block >= col_blocks) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        MultiplyHalfBlock<T>(stage_at(stage), in_stage, half, ahead[i], acc);
        if constexpr (T::kGrouped) {
          const int end = block * 128 + (half + 1) * 64;
          if (group < p.num_groups && (end % p.group_cols == 0 || end >= p.cols)) {
            EndGroup<T>(p, rows, first_token, group, acc, values);
            ++group;
          }
        }
      }
      ask(number + T::kAhead, ahead[i]);
    }
  }
  WaitForCopies<0>();
  if (!AddSplits<T>(warp_row, split, shared, acc) || !rows.real) return;
  if (!T::kGrouped && !AddBlocks<T>(p, warp_row, acc)) return;
  Store<T>(p, rows, first_token, acc, values);
}

template <typename T>
cudaError_t LaunchTile(const TernaryLinearArgs& p, const TernaryPlan& plan, cudaStream_t stream) {
  const auto stages = static_cast<int>(CeilDiv(MmaStages(p), plan.split));  // of a block
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(MmaRowTiles(p, plan)),
                    static_cast<unsigned>((p.tokens + T::kTokens - 1) / T::kTokens),
                    static_cast<unsigned>(plan.split));
  shape.block = dim3(T::kThreads);
  shape.shared_bytes =
      static_cast<size_t>(T::kStageBytes) * (stages < T::kStages ? stages : T::kStages);
  shape.overlap = true;
  return Launch(TernaryLinearKernel<T>, shape, stream, p);
}

template <int kTokens, bool kGrouped>
cudaError_t LaunchTokens(const TernaryLinearArgs& p, const TernaryPlan& plan, cudaStream_t stream) {
  return plan.row_blocks == 2 ? LaunchTile<Tile<kTokens, 2, kGrouped>>(p, plan, stream)
                              : LaunchTile<Tile<kTokens, 1, kGrouped>>(p, plan, stream);
}

}  // namespace

cudaError_t LaunchTernaryMma(const TernaryLinearArgs& p, const TernaryPlan& plan,
                             cudaStream_t stream) {
  const int tokens = MmaTileTokens(p);
  if (p.num_groups > 1) {
    return tokens == 8 ? LaunchTokens<8, true>(p, plan, stream)
                       : LaunchTokens<32, true>(p, plan, stream);
  }
  switch (tokens) {
    case 8:
      return LaunchTokens<8, false>(p, plan, stream);
    case 16:
      return LaunchTokens<16, false>(p, plan, stream);
    case 32:
      return LaunchTokens<32, false>(p, plan, stream);
    default:
      return LaunchTokens<64, false>(p, plan, stream);
  }
}

}  // namespace sterna::cuda
