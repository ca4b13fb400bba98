#include "kernels/cuda/embed.h"
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

// A thread writes what a word of the table holds: a column of f32, two of bf16, four of int8.
template <DenseType kType>
__global__ void __launch_bounds__(kThreads) EmbedTokensKernel(const EmbedTokensArgs p) {
  constexpr int kCols = kType == DenseType::kF32 ? 1 : kType == DenseType::kBf16 ? 2 : 4;
  LetNextKernelStart();
  WaitForPreviousKernel();
  const int i = static_cast<int>(blockIdx.y) * kThreads + static_cast<int>(threadIdx.x);
  const int cols = p.table.cols;
  if (i * kCols >= cols) return;
  int row = p.token_ids[blockIdx.x];
  if (row <= -2) row = p.drawn[-2 - row];
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

template <DenseType kType>
cudaError_t LaunchType(const EmbedTokensArgs& p, cudaStream_t stream) {
  constexpr int kCols = kType == DenseType::kF32 ? 1 : kType == DenseType::kBf16 ? 2 : 4;
  const int words = (p.table.cols + kCols - 1) / kCols;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.tokens),
                    static_cast<unsigned>((words + kThreads - 1) / kThreads));
  shape.block = dim3(kThreads);
  shape.overlap = true;
  return Launch(EmbedTokensKernel<kType>, shape, stream, p);
}

}  // namespace

cudaError_t LaunchEmbedTokens(const EmbedTokensArgs& p, cudaStream_t stream) {
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
