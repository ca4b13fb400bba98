// A stage: some columns of some rows of activations in shared memory, where the products of a block
// of threads read them as B operands.
#ifndef STERNA_KERNELS_CUDA_TOKEN_STAGE_CUH_
#define STERNA_KERNELS_CUDA_TOKEN_STAGE_CUH_

#include <cstdint>

#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {

// Where a row's 16 bytes `chunk` are. Chunks lie exchanged within eight, so that the eight rows
// that a warp reads at once lie in different banks.
template <int kRowBytes>
__device__ __forceinline__ const uint8_t* StagedChunk(const uint8_t* stage, int row, int chunk) {
  static_assert(kRowBytes % 128 == 0, "");
  return stage + row * kRowBytes + (chunk ^ (row % 8)) * 16;
}

// Asks for bytes first_byte .. first_byte + kRowBytes - 1 of kRows rows from `first_row` on; zeros
// where rows, of `num_rows`, or their bytes, `stride` from one to the next, end. By all kThreads
// threads, each of which has to commit its copies.
template <int kRows, int kRowBytes, int kThreads>
__device__ __forceinline__ void CopyRowsToStage(const void* rows, int stride, int first_row,
                                                int num_rows, int first_byte, uint8_t* stage) {
  constexpr int kChunks = kRowBytes / 16;  // of a row
  const auto* const bytes = static_cast<const uint8_t*>(rows);
  static_assert(kRows * kChunks % kThreads == 0, "no thread has more to do than another");
#pragma unroll
  for (int turn = 0; turn < kRows * kChunks / kThreads; ++turn) {
    const int i = turn * kThreads + static_cast<int>(threadIdx.x);
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int byte = first_byte + chunk * 16;
    const bool valid = first_row + row < num_rows && byte < stride;
    const uint8_t* from =
        valid ? bytes + static_cast<int64_t>(first_row + row) * stride + byte : bytes;
    CopyAsync16(const_cast<uint8_t*>(StagedChunk<kRowBytes>(stage, row, chunk)), from, valid);
  }
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_TOKEN_STAGE_CUH_
