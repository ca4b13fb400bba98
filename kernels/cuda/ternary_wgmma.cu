// Ternary products of prompts on sm_90a: warpgroup products with the weights, decoded in registers,
// as the A operand and the activations, which the copy engine brings, as B in shared memory.
//
// A block has one warp that asks for boxes of activations, kTokens x 128 columns, several stages
// ahead, and two warpgroups that multiply: while one waits for its products or decodes, the other
// keeps the tensor cores busy. Weights go from memory to the registers of the one warp that
// multiplies by them.
#include "kernels/cuda/fragment_format.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/ternary_epilogue.cuh"
#include "kernels/cuda/ternary_linear.h"

namespace sterna::cuda {
namespace {

// A warpgroup multiplies kRowTiles times 64 rows. Values of groups are kept beside the sums, which
// leaves registers for one such tile, and none for a gate.
template <int kRowTiles_, bool kGrouped_>
struct Tile {
  static constexpr int kRowTiles = kRowTiles_;
  static constexpr bool kGrouped = kGrouped_;
  static constexpr int kTokens = kWgmmaTokens;
  static constexpr int kGroups = 2;  // warpgroups that multiply
  static constexpr int kThreads = (kGroups + 1) * 128;
  static constexpr int kStageBytes = kTokens * kTensorBoxBytes;
  static constexpr int kStages = 8;
  static constexpr int kBarrierBytes = 2 * kStages * static_cast<int>(sizeof(MemoryBarrier));
  static constexpr int kAhead = 2;  // blocks of weights
  static_assert(!kGrouped || kRowTiles == 1, "registers");
};

struct Params {
  TernaryLinearArgs args;
  TensorMap q;
};

template <typename T, typename Element>
using Accumulators = Element[T::kRowTiles][T::kTokens / 2];

// Rows of a warpgroup: tile j is row blocks first_block[j] .. + 3 of outputs[output[j]].
struct GroupRows {
  int output[2];
  int first_block[2];
  bool real;
};

__host__ __device__ constexpr int RowGroups(int rows, int row_tiles) {
  return (rows + 64 * row_tiles - 1) / (64 * row_tiles);
}

template <typename T>
__device__ GroupRows RowsOfGroup(const TernaryLinearArgs& p, int warpgroup) {
  GroupRows rows = {};
  const int tiles = p.gated ? 1 : T::kRowTiles;  // of one output
  int group = static_cast<int>(blockIdx.x) * T::kGroups + warpgroup;
  for (int i = 0; i < (p.gated ? 1 : p.num_outputs); ++i) {
    const int groups = RowGroups(p.outputs[i].w.rows, tiles);
    if (group < groups) {
      rows.real = true;
      for (int j = 0; j < T::kRowTiles; ++j) {
        rows.output[j] = p.gated ? j : i;
        rows.first_block[j] = (group * tiles + (p.gated ? 0 : j)) * 4;
      }
      break;
    }
    group -= groups;
  }
  return rows;
}

// The barriers of the stages of activations, behind them in shared memory.
template <typename T>
struct Stages {
  uint8_t* boxes = SharedMemory();
  MemoryBarrier* full = reinterpret_cast<MemoryBarrier*>(boxes + T::kStages * T::kStageBytes);
  MemoryBarrier* empty = full + T::kStages;

  __device__ uint8_t* box(int block) const { return boxes + block % T::kStages * T::kStageBytes; }
  __device__ static uint32_t parity(int block) { return block / T::kStages % 2; }
};

// Asks for the activations of all blocks of columns, each as soon as there is room.
template <typename T>
__device__ void BringActivations(const Params& p, const Stages<T>& stages, int col_blocks) {
  const int first_token = static_cast<int>(blockIdx.y) * T::kTokens;
  for (int block = 0; block < col_blocks; ++block) {
    const int stage = block % T::kStages;
    if (block >= T::kStages) WaitAt(&stages.empty[stage], stages.parity(block) ^ 1);
    ArriveExpecting(&stages.full[stage], T::kStageBytes);
    CopyBoxAsync(stages.box(block), &p.q, first_token, block * static_cast<int>(kFragmentCols),
                 &stages.full[stage]);
  }
}

inline constexpr int kTogether = kTilesTogether<kWgmmaTokens / 8>;

// Tiles first .. first + kTogether - 1 of a row tile's sums or values.
template <typename Element>
__device__ __forceinline__ auto& Part(Element (&all)[kWgmmaTokens / 2], int first) {
  return reinterpret_cast<Element(&)[kTogether][4]>(all[first * 4]);
}

// Calls body(first tile, this lane's first token) for parts of the tiles.
template <typename Body>
__device__ __forceinline__ void ForParts(int first_token, const Body& body) {
  const int token = first_token + static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int n = 0; n < kWgmmaTokens / 8; n += kTogether) body(n, token + n * 8);
}

// This lane's first row of a tile that begins with `first_block`.
__device__ __forceinline__ int LaneRow(int first_block) {
  const int thread = static_cast<int>(threadIdx.x);
  return (first_block + thread / 32 % 4) * 16 + thread % 32 / 4;
}

// values += those of the sums of `group`, which begin anew.
template <typename T>
__device__ __forceinline__ void EndGroup(const TernaryLinearArgs& p, const GroupRows& rows,
                                         int first_token, int group, Accumulators<T, int32_t>& acc,
                                         Accumulators<T, float>& values) {
  const int row = LaneRow(rows.first_block[0]);
  const RowScales scales(p, p.outputs[rows.output[0]].w, row, group);
  ForParts(first_token, [&](int n, int token) {
    AddGroup<kTogether>(TokenScales<kTogether>(p, token, group), scales, Part(acc[0], n),
                        Part(values[0], n));
  });
}

template <typename T>
__device__ __forceinline__ void Store(const TernaryLinearArgs& p, const GroupRows& rows,
                                      int first_token, const Accumulators<T, int32_t>& acc,
                                      Accumulators<T, float>& values) {
  ForParts(first_token, [&](int n, int token) {
    if constexpr (T::kGrouped) {
      StoreOutputs<kTogether>(p, rows.output[0], LaneRow(rows.first_block[0]), token,
                              Part(values[0], n));
    } else {
      float part[T::kRowTiles][kTogether][4];
      const TokenScales<kTogether> tokens(p, token, 0);
#pragma unroll
      for (int j = 0; j < T::kRowTiles; ++j) {
        const int row = LaneRow(rows.first_block[j]);
        const RowScales scales(p, p.outputs[rows.output[j]].w, row, 0);
        ToValues<kTogether>(tokens, scales, Part(acc[j], n), part[j]);
        if (!p.gated) StoreOutputs<kTogether>(p, rows.output[j], row, token, part[j]);
      }
      if (p.gated) {
        StoreGated<kTogether>(p, LaneRow(rows.first_block[0]), token, part[0], part[1]);
      }
    }
  });
}

// acc += weights . activations of k-tiles first .. last-1 of a block.
template <typename T>
__device__ __forceinline__ void Multiply(const uint8_t* box, const uint4 (&w)[T::kRowTiles],
                                         int first, int last, Accumulators<T, int32_t>& acc) {
  uint32_t a[T::kRowTiles][4][4];
#pragma unroll
  for (int j = 0; j < T::kRowTiles; ++j) {
    const uint32_t words[4] = {w[j].x, w[j].y, w[j].z, w[j].w};
#pragma unroll
    for (int tile = first; tile < last; ++tile) {
#pragma unroll
      for (int r = 0; r < 4; ++r) a[j][tile][r] = words[r] >> (2 * tile) & 0x03030303u;
    }
  }
#pragma unroll
  for (int j = 0; j < T::kRowTiles; ++j) {
    HandOver(acc[j]);
#pragma unroll
    for (int tile = first; tile < last; ++tile) HandOver(a[j][tile]);
  }
  BeginProducts();
#pragma unroll
  for (int tile = first; tile < last; ++tile) {
#pragma unroll
    for (int j = 0; j < T::kRowTiles; ++j) WarpgroupMmaU8S8(acc[j], a[j][tile], box, tile);
  }
  CommitProducts();
  WaitForProducts<0>();
#pragma unroll
  for (int j = 0; j < T::kRowTiles; ++j) HandOver(acc[j]);
}

template <typename T>
__device__ void MultiplyRows(const Params& params, const Stages<T>& stages, int col_blocks) {
  const TernaryLinearArgs& p = params.args;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int first_token = static_cast<int>(blockIdx.y) * T::kTokens;
  const GroupRows rows = RowsOfGroup<T>(p, static_cast<int>(threadIdx.x) / 128 - 1);

  const uint4* packed[T::kRowTiles];
#pragma unroll
  for (int j = 0; j < T::kRowTiles; ++j) {
    const TernaryWeights& w = p.outputs[rows.output[j]].w;
    // Rows past the end are multiplied by the last ones there are, and not stored.
    const int last = (w.rows + 15) / 16 - 1;
    const int block = rows.first_block[j] + warp < last ? rows.first_block[j] + warp : last;
    packed[j] = w.packed + static_cast<int64_t>(block) * col_blocks * 32 + lane;
  }
  uint4 ahead[T::kAhead][T::kRowTiles];
  const auto ask = [&](int block, uint4(&to)[T::kRowTiles]) {
#pragma unroll
    for (int j = 0; j < T::kRowTiles; ++j) {
      if (block < col_blocks) to[j] = LoadStreaming(packed[j] + static_cast<int64_t>(block) * 32);
    }
  };
#pragma unroll
  for (int i = 0; i < T::kAhead; ++i) ask(i, ahead[i]);
  WaitForPreviousKernel();  // which may still make the activations' scales, and read what is stored
  LetNextKernelStart();

  Accumulators<T, int32_t> acc = {};
  Accumulators<T, float> values = {};
  int group = 0;
#pragma unroll 1
  for (int first = 0; first < col_blocks; first += T::kAhead) {
#pragma unroll
    for (int i = 0; i < T::kAhead; ++i) {
      const int block = first + i;
      if (block >= col_blocks) break;
      WaitAt(&stages.full[block % T::kStages], stages.parity(block));
      const uint8_t* box = stages.box(block);
      if constexpr (T::kGrouped) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          Multiply<T>(box, ahead[i], 2 * half, 2 * half + 2, acc);
          const int end = block * 128 + (half + 1) * 64;
          if (group < p.num_groups && (end % p.group_cols == 0 || end >= p.cols)) {
            EndGroup<T>(p, rows, first_token, group, acc, values);
            ++group;
          }
        }
      } else {
        Multiply<T>(box, ahead[i], 0, 4, acc);
      }
      if (lane == 0) ArriveAt(&stages.empty[block % T::kStages]);
      ask(block + T::kAhead, ahead[i]);
    }
  }
  if (!rows.real) return;
  Store<T>(p, rows, first_token, acc, values);
}

template <typename T>
__global__ void __launch_bounds__(T::kThreads, 1)
    TernaryWgmmaKernel(const __grid_constant__ Params p) {
  const int col_blocks = (p.args.cols + 127) / 128;
  const Stages<T> stages;
  if (threadIdx.x == 0) {
    for (int stage = 0; stage < T::kStages; ++stage) {
      InitBarrier(&stages.full[stage], 1);
      InitBarrier(&stages.empty[stage], T::kGroups * 4);  // a warp each
    }
    PublishBarriers();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ShrinkRegisters<24>();
    WaitForPreviousKernel();
    if (threadIdx.x == 0) BringActivations<T>(p, stages, col_blocks);
  } else {
    GrowRegisters<240>();
    MultiplyRows<T>(p, stages, col_blocks);
  }
}

template <typename T>
cudaError_t LaunchTile(const TernaryLinearArgs& args, cudaStream_t stream) {
  Params p = {.args = args, .q = {}};
  const cudaError_t error = MakeTensorMap(args.q, args.tokens, args.q_stride, T::kTokens, &p.q);
  if (error != cudaSuccess) return error;
  int groups = 0;
  for (int i = 0; i < (args.gated ? 1 : args.num_outputs); ++i) {
    groups += RowGroups(args.outputs[i].w.rows, args.gated ? 1 : T::kRowTiles);
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((groups + T::kGroups - 1) / T::kGroups),
                    static_cast<unsigned>((args.tokens + T::kTokens - 1) / T::kTokens));
  shape.block = dim3(T::kThreads);
  shape.shared_bytes = T::kStages * T::kStageBytes + T::kBarrierBytes;
  shape.overlap = true;
  return Launch(TernaryWgmmaKernel<T>, shape, stream, p);
}

static_assert(kWgmmaBlockTokens == kWgmmaTokens, "");
static_assert(kWgmmaBlockRows == 64 * 2 * Tile<2, false>::kGroups, "");

// Blocks of half the rows take half the time; how often all multiprocessors have to take one says
// which are done first.
bool SmallBlocksAreFaster(const TernaryLinearArgs& p, const DeviceTraits& device) {
  const auto rounds = [&](int64_t rows) {
    return CeilDiv(WgmmaBlocks(p, rows), device.multiprocessors);
  };
  return rounds(kWgmmaBlockRows / 2) < 2 * rounds(kWgmmaBlockRows);
}

}  // namespace

cudaError_t LaunchTernaryWgmma(const TernaryLinearArgs& p, const DeviceTraits& device,
                               cudaStream_t stream) {
  if (p.num_groups == 1) {
    // A gate's block has two row tiles in any case.
    return !p.gated && SmallBlocksAreFaster(p, device) ? LaunchTile<Tile<1, false>>(p, stream)
                                                       : LaunchTile<Tile<2, false>>(p, stream);
  }
  if (!p.gated) return LaunchTile<Tile<1, true>>(p, stream);
  // Sums and values of gate and up are more than there are registers.
  TernaryLinearArgs gate = p;
  gate.gated = false;
  gate.num_outputs = 1;
  TernaryLinearArgs up = gate;
  up.outputs[0] = {.w = p.outputs[1].w, .y = p.outputs[0].y};
  up.epilogue = Epilogue::kMultiply;
  const cudaError_t error = LaunchTile<Tile<1, true>>(gate, stream);
  return error == cudaSuccess ? LaunchTile<Tile<1, true>>(up, stream) : error;
}

}  // namespace sterna::cuda
