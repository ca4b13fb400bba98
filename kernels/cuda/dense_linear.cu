// The output head: mma with the weights as the A operand. A vocabulary has rows enough for every
// warp of the device, so a warp has whole rows, which it streams from memory to its registers, as
// many blocks ahead as there are registers for; the parts of activations come in chunks of columns
// to shared memory, which all warps of a block share.
#include "kernels/cuda/dense_linear.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/row_block.cuh"
#include "kernels/cuda/token_stage.cuh"

namespace sterna::cuda {
namespace {

constexpr int kBlockRows = static_cast<int>(kDenseFragmentRows);
constexpr int kBlockRowBytes = static_cast<int>(kDenseFragmentRowBytes);
constexpr int kBlockLanes = static_cast<int>(kDenseFragmentBytes) / 16;
static_assert(kBlockLanes == 32, "a warp's load");
constexpr int kParts = static_cast<int>(kDenseParts);
constexpr int kSplitThreads = 512;
constexpr int kF32Warps = 8;

// Where the parts are (dense_linear.h).
struct SplitRows {
  uint8_t* parts;
  int stride;  // bytes of a row
  float* scales;

  __device__ uint8_t* part(const DenseLinearArgs& p, int i) const {
    return parts + static_cast<int64_t>(i) * p.tokens * stride;
  }
};

// What is particular to a type of weights: how a row is split, and what becomes of the products.
struct Bf16 {
  using Sum = float;
  static constexpr int kSums = 1;  // takes the products of both parts
  static constexpr int kBytes = 2;

  static __device__ __forceinline__ void Mma(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    MmaBf16(sum, a, b0, b1);
  }
  static __device__ __forceinline__ float Value(const DenseLinearArgs&, const SplitRows&, int, int,
                                                const float (&sums)[1][4], int i) {
    return sums[0][i];
  }
  static __device__ void SplitRow(const float* x, int cols, uint8_t* hi, uint8_t* mid, int stride,
                                  float* scale);
};

struct Int8 {
  using Sum = int32_t;
  static constexpr int kSums = 2;
  static constexpr int kBytes = 1;

  static __device__ __forceinline__ void Mma(int32_t (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    MmaS8S8(sum, a, b0, b1);
  }
  // As the CPU has it, operation by operation.
  static __device__ __forceinline__ float Value(const DenseLinearArgs& p, const SplitRows& split,
                                                int token, int row, const int32_t (&sums)[2][4],
                                                int i) {
    const float sum = static_cast<float>(sums[0][i]) * 256.0f + static_cast<float>(sums[1][i]);
    return sum * (split.scales[token] * p.w.scales[row]);
  }
  static __device__ void SplitRow(const float* x, int cols, uint8_t* hi, uint8_t* lo, int stride,
                                  float* scale);
};

template <typename Type>
__device__ __forceinline__ SplitRows SplitRowsOf(const DenseLinearArgs& p) {
  constexpr int kCols = kBlockRowBytes / Type::kBytes;
  SplitRows split;
  split.parts = static_cast<uint8_t*>(p.workspace);
  split.stride = (p.w.cols + kCols - 1) / kCols * kBlockRowBytes;
  split.scales = reinterpret_cast<float*>(split.part(p, kParts));
  return split;
}

// What two bf16 leave of two floats; nothing of what is an infinity by then.
__device__ __forceinline__ float LeftOver(float x, uint32_t bf16) {
  const bool infinite = (bf16 & 0x7fff) == 0x7f80;
  return infinite ? 0.0f : x - __uint_as_float(bf16 << 16);
}

__device__ void Bf16::SplitRow(const float* x, int cols, uint8_t* hi, uint8_t* mid, int stride,
                               float*) {
  for (int col = 4 * static_cast<int>(threadIdx.x); col < stride / kBytes;
       col += 4 * kSplitThreads) {
    float v[4];
    LoadFour(x, col, cols, v);
    const uint2 high = make_uint2(PackBf16(v[0], v[1]), PackBf16(v[2], v[3]));
    *reinterpret_cast<uint2*>(hi + col * kBytes) = high;
    *reinterpret_cast<uint2*>(mid + col * kBytes) =
        make_uint2(PackBf16(LeftOver(v[0], high.x & 0xffff), LeftOver(v[1], high.x >> 16)),
                   PackBf16(LeftOver(v[2], high.y & 0xffff), LeftOver(v[3], high.y >> 16)));
  }
}

__device__ void Int8::SplitRow(const float* x, int cols, uint8_t* hi, uint8_t* lo, int stride,
                               float* scale) {
  constexpr float kLargestCode = 127 * 256 + 127;
  constexpr float kSmallest = 1e-30f;  // its reciprocal times kLargestCode is finite
  constexpr uint32_t kInfinity = 0x7f800000u;
  // Magnitudes are ordered as their bits are, NaN above infinity.
  uint32_t bits = 0;
  for (int col = 4 * static_cast<int>(threadIdx.x); col < cols; col += 4 * kSplitThreads) {
    float v[4];
    LoadFour(x, col, cols, v);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t magnitude = __float_as_uint(v[j]) & 0x7fffffffu;
      bits = magnitude > bits ? magnitude : bits;
    }
  }
  bits = BlockMax(bits, reinterpret_cast<uint32_t*>(SharedMemory()));
  const float largest = __uint_as_float(bits);
  const bool usable = bits < kInfinity && largest >= kSmallest;
  const float to_integer = usable ? kLargestCode / largest : 0.0f;
  if (threadIdx.x == 0) {
    const float nan = __uint_as_float(0x7fc00000u);
    *scale = usable ? largest / kLargestCode : bits < kInfinity ? 0.0f : nan;
  }
  for (int col = 4 * static_cast<int>(threadIdx.x); col < stride; col += 4 * kSplitThreads) {
    float v[4];
    LoadFour(x, col, cols, v);
    int high[4], low[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int code = usable ? static_cast<int>(rintf(v[j] * to_integer)) : 0;
      high[j] = (code + 128) >> 8;
      low[j] = code - high[j] * 256;
    }
    *reinterpret_cast<uint32_t*>(hi + col) = PackBytes(high);
    *reinterpret_cast<uint32_t*>(lo + col) = PackBytes(low);
  }
}

// Splits row blockIdx.x.
template <typename Type>
__global__ void __launch_bounds__(kSplitThreads) SplitRowsKernel(const DenseLinearArgs p) {
  LetNextKernelStart();  // to ask for its weights
  WaitForPreviousKernel();
  const SplitRows split = SplitRowsOf<Type>(p);
  const auto token = static_cast<int64_t>(blockIdx.x);
  Type::SplitRow(p.x + token * p.w.cols, p.w.cols, split.part(p, 0) + token * split.stride,
                 split.part(p, 1) + token * split.stride, split.stride, split.scales + token);
}

// A block multiplies kWarps x kRowBlocks row blocks by kTokens tokens.
template <typename Type_, int kTokens_>
struct Tile {
  using Type = Type_;
  static constexpr int kTokens = kTokens_;
  static constexpr int kTokenTiles = kTokens / 8;
  static constexpr int kRowBlocks = 2;  // of a warp
  // Many tokens want many rows for each activation that is read.
  static constexpr int kWarps = kTokens <= 16 ? 4 : 8;
  static constexpr int kThreads = kWarps * 32;
  // A stage has both parts of kStageBlocks blocks of columns of every token.
  static constexpr int kStageBlocks = 256 / kTokens;
  static constexpr int kRowBytes = kStageBlocks * kBlockRowBytes;
  static constexpr int kPartBytes = kTokens * kRowBytes;
  static constexpr int kStageBytes = kParts * kPartBytes;
  static constexpr int kStages = 3;
  static constexpr int kSums = kRowBlocks * kTokenTiles * Type::kSums * 4;  // of a lane
  // Blocks of weights that a warp has asked for ahead of time, as registers allow.
  static constexpr int kAhead = kSums <= 16 ? 8 : 4;
  static_assert(kStageBlocks % kAhead == 0, "registers are named at compile time");
  // Where few tokens leave the time to memory, 16 warps of a multiprocessor wait for it.
  static constexpr int kResident = kSums <= 32 ? 512 / kThreads : 1;
};

template <typename T>
using Sums = typename T::Type::Sum[T::kRowBlocks][T::kTokenTiles][T::Type::kSums][4];

template <typename T>
__device__ __forceinline__ void CopyStage(const DenseLinearArgs& p, const SplitRows& split,
                                          int first_token, int index, uint8_t* stage) {
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    CopyRowsToStage<T::kTokens, T::kRowBytes, T::kThreads>(
        split.part(p, part), split.stride, first_token, p.tokens, index * T::kRowBytes,
        stage + part * T::kPartBytes);
  }
  CommitCopies();
}

// sums += weights . activations of one block of columns. The order of an output's products is the
// same in every tile: k upwards, and of the same k the first part's before the second's.
template <typename T>
__device__ __forceinline__ void MultiplyBlock(const uint8_t* stage, int block,
                                              const uint4 (&w)[T::kRowBlocks], Sums<T>& sums) {
  // Two tiles of tokens at once, as a product has to wait for the one before that has its sum.
  constexpr int kAtOnce = T::kTokenTiles == 1 ? 1 : 2;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  uint32_t a[T::kRowBlocks][4];
#pragma unroll
  for (int j = 0; j < T::kRowBlocks; ++j) {
    a[j][0] = w[j].x;
    a[j][1] = w[j].y;
    a[j][2] = w[j].z;
    a[j][3] = w[j].w;
  }
#pragma unroll
  for (int first = 0; first < T::kTokenTiles; first += kAtOnce) {
    uint32_t b[kAtOnce][4];  // both registers of the first part, then of the second
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      const int row = lane / 16 * T::kTokens + (first + n) * 8 + lane % 8;
      LoadMatrices(b[n], StagedChunk<T::kRowBytes>(stage, row, block * 2 + lane / 8 % 2));
    }
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
#pragma unroll
        for (int j = 0; j < T::kRowBlocks; ++j) {
          T::Type::Mma(sums[j][first + n][part % T::Type::kSums], a[j], b[n][2 * part],
                       b[n][2 * part + 1]);
        }
      }
    }
  }
}

template <typename T>
__device__ __forceinline__ void StoreOutputs(const DenseLinearArgs& p, const SplitRows& split,
                                             int first_row_block, int first_token,
                                             const Sums<T>& sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int j = 0; j < T::kRowBlocks; ++j) {
#pragma unroll
    for (int n = 0; n < T::kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = (first_row_block + j) * kBlockRows + lane / 4 + i / 2 * 8;
        const int token = first_token + n * 8 + lane % 4 * 2 + i % 2;
        if (row < p.w.rows && token < p.tokens) {
          p.y[static_cast<int64_t>(token) * p.w.rows + row] =
              T::Type::Value(p, split, token, row, sums[j][n], i);
        }
      }
    }
  }
}

// The weights of a warp, on their way to its registers.
template <typename T>
struct WeightStream {
  const uint4* packed[T::kRowBlocks];  // block `next` of each row block, this lane's part
  int next;                            // of the blocks that `ahead` is for, the first
  int blocks;                          // that there are
  uint4 ahead[T::kAhead][T::kRowBlocks];

  // Of no row block beyond the last of the matrix: for such, the first's weights serve.
  __device__ __forceinline__ WeightStream(const DenseWeights& w, int first_row_block,
                                          int row_blocks, int col_blocks)
      : next(0), blocks(first_row_block < row_blocks ? col_blocks : 0) {
#pragma unroll
    for (int j = 0; j < T::kRowBlocks; ++j) {
      const int block = first_row_block + j < row_blocks ? first_row_block + j : first_row_block;
      packed[j] = static_cast<const uint4*>(w.data) +
                  static_cast<int64_t>(block) * col_blocks * kBlockLanes + threadIdx.x % 32;
    }
  }
  // Asks for block next + i.
  __device__ __forceinline__ void Ask(int i) {
    if (next + i >= blocks) return;
#pragma unroll
    for (int j = 0; j < T::kRowBlocks; ++j) {
      ahead[i][j] = LoadStreaming(packed[j] + i * kBlockLanes);
    }
  }
  __device__ __forceinline__ void Advance() {
    next += T::kAhead;
#pragma unroll
    for (int j = 0; j < T::kRowBlocks; ++j) packed[j] += T::kAhead * kBlockLanes;
  }
};

template <typename T>
__global__ void __launch_bounds__(T::kThreads, T::kResident)
    DenseLinearKernel(const DenseLinearArgs p) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  // Blocks that run at the same time have the same weights, so that memory is read once.
  const int token_tiles = (p.tokens + T::kTokens - 1) / T::kTokens;
  const int first_token = static_cast<int>(blockIdx.x) % token_tiles * T::kTokens;
  const int first_row_block =
      (static_cast<int>(blockIdx.x) / token_tiles * T::kWarps + warp) * T::kRowBlocks;
  const int row_blocks = (p.w.rows + kBlockRows - 1) / kBlockRows;
  const SplitRows split = SplitRowsOf<typename T::Type>(p);
  const int col_blocks = split.stride / kBlockRowBytes;
  const int stages = (col_blocks + T::kStageBlocks - 1) / T::kStageBlocks;
  uint8_t* const shared = SharedMemory();
  const auto stage_at = [&](int stage) { return shared + stage % T::kStages * T::kStageBytes; };

  // Weights do not depend on what ran before.
  WeightStream<T> weights(p.w, first_row_block, row_blocks, col_blocks);
#pragma unroll
  for (int i = 0; i < T::kAhead; ++i) weights.Ask(i);
  weights.Advance();

  WaitForPreviousKernel();
  const auto copy = [&](int stage) {
    if (stage < stages) {
      CopyStage<T>(p, split, first_token, stage, stage_at(stage));
    } else {
      CommitCopies();  // groups are counted
    }
  };
#pragma unroll
  for (int stage = 0; stage < T::kStages - 1; ++stage) copy(stage);
  Sums<T> sums = {};
  for (int stage = 0; stage < stages; ++stage) {
    WaitForCopies<T::kStages - 2>();
    __syncthreads();  // all have this stage, and are done with the one before
    copy(stage + T::kStages - 1);
#pragma unroll 1
    for (int first = 0; first < T::kStageBlocks; first += T::kAhead) {
#pragma unroll
      for (int i = 0; i < T::kAhead; ++i) {
        if (stage * T::kStageBlocks + first + i >= weights.blocks) break;
        MultiplyBlock<T>(stage_at(stage), first + i, weights.ahead[i], sums);
        weights.Ask(i);
      }
      weights.Advance();
    }
  }
  LetNextKernelStart();
  WaitForCopies<0>();
  StoreOutputs<T>(p, split, first_row_block, first_token, sums);
}

// A warp has one output: lane l's products are those of columns l, l + 32, ...
__global__ void __launch_bounds__(kF32Warps * 32) DenseF32Kernel(const DenseLinearArgs p) {
  WaitForPreviousKernel();
  const int row = static_cast<int>(blockIdx.x) * kF32Warps + static_cast<int>(threadIdx.x) / 32;
  const auto token = static_cast<int64_t>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= p.w.rows) return;
  const float* w = static_cast<const float*>(p.w.data) + static_cast<int64_t>(row) * p.w.cols;
  const float* x = p.x + token * p.w.cols;
  float sum = 0.0f;
  for (int k = lane; k < p.w.cols; k += 32) sum += x[k] * w[k];
  sum = WarpSum(sum);
  if (lane == 0) p.y[token * p.w.rows + row] = sum;
}

template <typename T>
cudaError_t LaunchTile(const DenseLinearArgs& p, cudaStream_t stream) {
  const int64_t cols = kBlockRowBytes / T::Type::kBytes * T::kStageBlocks;
  const int64_t stages = (p.w.cols + cols - 1) / cols;
  const int rows_of_block = kBlockRows * T::kRowBlocks * T::kWarps;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((p.w.rows + rows_of_block - 1) / rows_of_block) *
                    static_cast<unsigned>((p.tokens + T::kTokens - 1) / T::kTokens));
  shape.block = dim3(T::kThreads);
  shape.shared_bytes =
      static_cast<size_t>(T::kStageBytes) * (stages < T::kStages ? stages : T::kStages);
  shape.overlap = true;
  return Launch(DenseLinearKernel<T>, shape, stream, p);
}

template <typename Type>
cudaError_t LaunchType(const DenseLinearArgs& p, cudaStream_t stream) {
  LaunchShape split;
  split.grid = dim3(static_cast<unsigned>(p.tokens));
  split.block = dim3(kSplitThreads);
  split.shared_bytes = kSplitThreads / 32 * sizeof(uint32_t);
  split.overlap = true;
  const cudaError_t error = Launch(SplitRowsKernel<Type>, split, stream, p);
  if (error != cudaSuccess) return error;
  if (p.tokens <= 8) return LaunchTile<Tile<Type, 8>>(p, stream);
  if (p.tokens <= 16) return LaunchTile<Tile<Type, 16>>(p, stream);
  if (p.tokens <= 32) return LaunchTile<Tile<Type, 32>>(p, stream);
  return LaunchTile<Tile<Type, 64>>(p, stream);
}

cudaError_t LaunchF32(const DenseLinearArgs& p, cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((p.w.rows + kF32Warps - 1) / kF32Warps),
                    static_cast<unsigned>(p.tokens));
  shape.block = dim3(kF32Warps * 32);
  shape.overlap = true;
  return Launch(DenseF32Kernel, shape, stream, p);
}

bool IsValid(const DenseLinearArgs& p) {
  if (p.tokens < 1 || p.w.rows < 1 || p.w.cols < 1) return false;
  if (p.w.type == DenseType::kF32) return true;
  return p.workspace != nullptr && reinterpret_cast<uintptr_t>(p.workspace) % 16 == 0 &&
         reinterpret_cast<uintptr_t>(p.w.data) % 16 == 0;
}

}  // namespace

cudaError_t LaunchDenseLinear(const DenseLinearArgs& p, cudaStream_t stream) {
  if (!IsValid(p)) return cudaErrorInvalidValue;
  switch (p.w.type) {
    case DenseType::kF32:
      return LaunchF32(p, stream);
    case DenseType::kBf16:
      return LaunchType<Bf16>(p, stream);
    case DenseType::kI8:
      if (p.w.scales == nullptr || p.w.cols > kMaxDenseInt8Cols) return cudaErrorInvalidValue;
      return LaunchType<Int8>(p, stream);
    case DenseType::kI6:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace sterna::cuda
