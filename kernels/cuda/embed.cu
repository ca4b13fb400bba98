#include "kernels/cuda/embed.h"
#include "kernels/cuda/fragment_format.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/sampling.h"

namespace sterna::cuda {
namespace {

constexpr int kThreads = 256;
static_assert(DrawnToken(0) == -2 && DrawnToken(1) == -3, "as the kernel reads them");

// Word i of row `row`, columns one after another (dense_fragment_format.h).
__device__ __forceinline__ uint32_t LoadWord(const DenseWeights& w, int row, int i,
                                             int col_blocks) {
  const int64_t block = static_cast<int64_t>(row / 16) * col_blocks + i / 8;
  const int lane = row % 8 * 4 + i % 4;
  const int word = row % 16 / 8 + i % 8 / 4 * 2;
  return static_cast<const uint32_t*>(w.data)[block * 128 + lane * 4 + word];
}

// The row that a block of threads copies; negative: none.
__device__ __forceinline__ int RowOf(const EmbedTokensArgs& p) {
  const int row = p.token_ids[blockIdx.x];
  return row <= -2 ? p.drawn[-2 - row] : row;
}

// A thread writes what a word of the table holds: a column of f32, two of bf16, four of int8.
template <DenseType kType>
__global__ void __launch_bounds__(kThreads) EmbedTokensKernel(const EmbedTokensArgs p) {
  constexpr int kCols = kType == DenseType::kF32 ? 1 : kType == DenseType::kBf16 ? 2 : 4;
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int i = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const int cols = p.table.cols;
  if (i * kCols >= cols) return;
  const int row = RowOf(p);
  float v[kCols] = {};
  if (row >= 0) {
    if constexpr (kType == DenseType::kF32) {
      v[0] = static_cast<const float*>(p.table.data)[static_cast<int64_t>(row) * cols + i];
    } else {
      constexpr int kBlockCols = 8 * kCols;
      const uint32_t word = LoadWord(p.table, row, i, (cols + kBlockCols - 1) / kBlockCols);
#pragma unroll
      for (int j = 0; j < kCols; ++j) {
        if constexpr (kType == DenseType::kBf16) {
          v[j] = __uint_as_float(word >> (16 * j) << 16);
        } else {
          v[j] = static_cast<float>(static_cast<int8_t>(word >> (8 * j))) * p.table.scales[row];
        }
      }
    }
  }
  float* const x = p.x + static_cast<int64_t>(blockIdx.x) * cols + i * kCols;
#pragma unroll
  for (int j = 0; j < kCols; ++j) {
    if (i * kCols + j < cols) x[j] = v[j];
  }
}

// A thread writes four neighbouring columns: one 2-bit field of a word (fragment_format.h).
__global__ void __launch_bounds__(kThreads) EmbedTernaryKernel(const EmbedTokensArgs p) {
  LetNextKernelStart();
  WaitForPreviousKernel();
  const TernaryTable& table = p.ternary_table;
  const int col = 4 * (static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x));
  if (col >= table.cols) return;
  const int row = RowOf(p);
  uint32_t codes = 0x01010101u * kTernaryCodeZero;
  float scale = table.scale;
  if (row >= 0) {
    const int64_t col_blocks = (table.cols + 127) / 128;
    const int64_t block = row / 16 * col_blocks + col / 128;
    const int lane = row % 8 * 4 + col % 16 / 4;
    const int word = row % 16 / 8 + col % 32 / 16 * 2;
    codes = static_cast<const uint32_t*>(table.packed)[block * 128 + lane * 4 + word];
    codes = codes >> (2 * (col % 128 / 32)) & 0x03030303u;
    if (table.scales != nullptr) {
      const int groups = (table.cols + table.group_cols - 1) / table.group_cols;
      const int64_t group = static_cast<int64_t>(row / 16) * groups + col / table.group_cols;
      scale = table.scales[group * 16 + row % 16];
    }
  }
  float* const x = p.x + static_cast<int64_t>(blockIdx.x) * table.cols + col;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int weight = static_cast<int>(codes >> (8 * j) & 3) - kTernaryCodeZero;
    if (col + j < table.cols) x[j] = static_cast<float>(weight) * scale;
  }
}

// Threads that write `of_thread` neighbouring columns each.
LaunchShape ShapeOf(const EmbedTokensArgs& p, int cols, int of_thread) {
  const int words = (cols + of_thread - 1) / of_thread;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.tokens),
                    static_cast<unsigned>((words + kThreads - 1) / kThreads));
  shape.block = dim3(kThreads);
  shape.overlap = true;
  return shape;
}

template <DenseType kType>
cudaError_t LaunchType(const EmbedTokensArgs& p, cudaStream_t stream) {
  constexpr int kCols = kType == DenseType::kF32 ? 1 : kType == DenseType::kBf16 ? 2 : 4;
  return Launch(EmbedTokensKernel<kType>, ShapeOf(p, p.table.cols, kCols), stream, p);
}

cudaError_t LaunchTernary(const EmbedTokensArgs& p, cudaStream_t stream) {
  const TernaryTable& table = p.ternary_table;
  if (p.tokens < 1 || table.rows < 1 || table.cols < 1 ||
      reinterpret_cast<uintptr_t>(table.packed) % 16 != 0) {
    return cudaErrorInvalidValue;
  }
  const bool in_groups = table.scales != nullptr && table.group_cols < table.cols;
  if (in_groups && (table.group_cols < 1 || table.group_cols % kTernaryBlockCols != 0)) {
    return cudaErrorInvalidValue;
  }
  return Launch(EmbedTernaryKernel, ShapeOf(p, table.cols, 4), stream, p);
}

}  // namespace

cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& p, cudaStream_t stream) {
  if (p.ternary_table.packed != nullptr) return LaunchTernary(p, stream);
  if (p.tokens < 1 || p.table.rows < 1 || p.table.cols < 1 ||
      reinterpret_cast<uintptr_t>(p.table.data) % 16 != 0) {
    return cudaErrorInvalidValue;
  }
  switch (p.table.type) {
    case DenseType::kF32:
      return LaunchType<DenseType::kF32>(p, stream);
    case DenseType::kBf16:
      return LaunchType<DenseType::kBf16>(p, stream);
    case DenseType::kI8:
      if (p.table.scales == nullptr) return cudaErrorInvalidValue;
      return LaunchType<DenseType::kI8>(p, stream);
    case DenseType::kI6:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace sterna::cuda
