// A row's norm and its int8 codes. With few tokens all that counts is how long one row takes: a
// block has a thread for every four columns as far as threads go, the row is read once, to
// registers, and a reduction is one barrier. The next kernel, products that can fetch weights
// meanwhile, is let go at once.
#include "kernels/cuda/norm_quantize.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/row_block.cuh"
#include "kernels/ternary_format.h"

namespace sterna::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kMostWarps = kMostThreads / 32;
// Groups are made of units of so many columns, four to each of kUnitLanes lanes.
constexpr int kUnitCols = static_cast<int>(kTernaryBlockCols);
constexpr int kUnitLanes = kUnitCols / 4;
static_assert(kUnitLanes == 16, "half a warp");

// Fours of columns that a row has, those of the last unit included, and the threads that take
// kFours each: four i of thread t is i * threads + t, so that a unit is half a warp's.
constexpr __host__ __device__ int RowFours(int cols) {
  return (cols + kUnitCols - 1) / kUnitCols * kUnitLanes;
}
constexpr int RowThreads(int cols, int fours_of_thread) {
  return (RowFours(cols) + 32 * fours_of_thread - 1) / (32 * fours_of_thread) * 32;
}

__device__ __forceinline__ int FirstCol(int i) {
  return 4 * (i * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x));
}

// v = this thread's columns of row blockIdx.x, normalised where there is a weight.
template <int kFours>
__device__ __forceinline__ void LoadRow(const float* all_x, const float* weight, float eps,
                                        int cols, float* scratch, float (&v)[kFours][4]) {
  // Weights do not depend on what ran before. Registers do not hold more than these.
  constexpr bool kEarly = kFours <= 4;
  float w[kEarly ? kFours : 1][4] = {};
  if (kEarly && weight != nullptr) {
#pragma unroll
    for (int i = 0; i < kFours; ++i) LoadFour(weight, FirstCol(i), cols, w[kEarly ? i : 0]);
  }
  LetNextKernelStart();
  WaitForPreviousKernel();
  const float* x = all_x + static_cast<int64_t>(blockIdx.x) * cols;
#pragma unroll
  for (int i = 0; i < kFours; ++i) LoadFour(x, FirstCol(i), cols, v[i]);
  if (weight == nullptr) return;
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) squares += v[i][j] * v[i][j];
  }
  const float root = sqrtf(BlockSum(squares, scratch) / static_cast<float>(cols) + eps);
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    float(&of_four)[4] = w[kEarly ? i : 0];
    if (!kEarly) LoadFour(weight, FirstCol(i), cols, of_four);
#pragma unroll
    for (int j = 0; j < 4; ++j) v[i][j] = v[i][j] / root * of_four[j];
  }
}

template <int kFours>
__global__ void __launch_bounds__(kMostThreads) RmsNormKernel(const RmsNormArgs p) {
  float v[kFours][4];
  LoadRow(p.x, p.weight, p.eps, p.cols, reinterpret_cast<float*>(SharedMemory()), v);
  float* y = p.y + static_cast<int64_t>(blockIdx.x) * p.cols;
#pragma unroll
  for (int i = 0; i < kFours; ++i) StoreFour(y, FirstCol(i), p.cols, v[i]);
}

// The largest magnitude of four columns; those beyond the end of the row are 0, or 0 / 0.
__device__ __forceinline__ float LargestOf(const float (&v)[4]) {
  float largest = 0.0f;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const float magnitude = fabsf(v[j]);
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

__device__ __forceinline__ float ScaleOf(float largest) {
  return 127.0f / (largest > 1e-5f ? largest : 1e-5f);
}

__device__ __forceinline__ int RoundToInt8(float value) {
  const float rounded = rintf(value);
  if (rounded >= 127.0f) return 127;
  return rounded > -128.0f ? static_cast<int>(rounded) : -128;  // NaN as well
}

// Writes four codes, or those of the columns that pad the last unit, 0; returns their sum.
__device__ __forceinline__ int QuantizeFour(const RmsNormQuantizeArgs& p, int col,
                                            const float (&v)[4], float s) {
  int codes[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) codes[j] = col + j < p.cols ? RoundToInt8(v[j] * s) : 0;
  if (col < p.q_stride) {
    int8_t* q = p.q + static_cast<int64_t>(blockIdx.x) * p.q_stride + col;
    *reinterpret_cast<uint32_t*>(q) = PackBytes(codes);
  }
  return codes[0] + codes[1] + codes[2] + codes[3];
}

// One scale for the row.
template <int kFours>
__device__ __forceinline__ void QuantizeRow(const RmsNormQuantizeArgs& p, uint32_t* scratch,
                                            const float (&v)[kFours][4]) {
  float largest = 0.0f;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const float of_four = LargestOf(v[i]);
    largest = of_four > largest ? of_four : largest;
  }
  // Magnitudes are ordered as their bits are.
  const float s = ScaleOf(__uint_as_float(BlockMax(__float_as_uint(largest), scratch)));
  int32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kFours; ++i) sum += QuantizeFour(p, FirstCol(i), v[i], s);
  sum = BlockSum(sum, reinterpret_cast<int32_t*>(scratch + kMostWarps));
  if (threadIdx.x == 0) {
    p.s[blockIdx.x] = s;
    p.sum[blockIdx.x] = sum;
  }
}

// A scale for each group: maxima and sums of units meet in shared memory, [units] words of either.
template <int kFours>
__device__ __forceinline__ void QuantizeGroups(const RmsNormQuantizeArgs& p, uint32_t* scratch,
                                               const float (&v)[kFours][4]) {
  const int units = RowFours(p.cols) / kUnitLanes;
  const int of_group = p.group_cols / kUnitCols;
  auto* largest = reinterpret_cast<float*>(scratch);
  auto* sums = reinterpret_cast<int32_t*>(scratch + units);
  const bool first_of_unit = threadIdx.x % kUnitLanes == 0;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int col = FirstCol(i);
    float of_unit = LargestOf(v[i]);
#pragma unroll
    for (int mask = kUnitLanes / 2; mask > 0; mask /= 2) {
      const float other = __shfl_xor_sync(kFullWarp, of_unit, mask);
      of_unit = other > of_unit ? other : of_unit;
    }
    if (first_of_unit && col < p.cols) largest[col / kUnitCols] = of_unit;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int col = FirstCol(i);
    const int group = col / p.group_cols;
    float of_group_largest = 0.0f;
    for (int u = group * of_group; u < (group + 1) * of_group && u < units; ++u) {
      of_group_largest = largest[u] > of_group_largest ? largest[u] : of_group_largest;
    }
    const float s = ScaleOf(of_group_largest);
    int32_t sum = QuantizeFour(p, col, v[i], s);
#pragma unroll
    for (int mask = kUnitLanes / 2; mask > 0; mask /= 2) {
      sum += __shfl_xor_sync(kFullWarp, sum, mask);
    }
    if (first_of_unit && col < p.cols) {
      sums[col / kUnitCols] = sum;
      if (col % p.group_cols == 0) p.s[static_cast<int64_t>(blockIdx.x) * p.num_groups + group] = s;
    }
  }
  __syncthreads();
  for (int group = static_cast<int>(threadIdx.x); group < p.num_groups;
       group += static_cast<int>(blockDim.x)) {
    int32_t sum = 0;
    for (int u = group * of_group; u < (group + 1) * of_group && u < units; ++u) sum += sums[u];
    p.sum[static_cast<int64_t>(blockIdx.x) * p.num_groups + group] = sum;
  }
}

template <int kFours>
__global__ void __launch_bounds__(kMostThreads) RmsNormQuantizeKernel(const RmsNormQuantizeArgs p) {
  auto* const scratch = reinterpret_cast<uint32_t*>(SharedMemory());
  float v[kFours][4];
  LoadRow(p.x, p.weight, p.eps, p.cols, reinterpret_cast<float*>(scratch), v);
  if (p.num_groups == 1) {
    QuantizeRow(p, scratch + kMostWarps, v);
  } else {
    QuantizeGroups(p, scratch + kMostWarps, v);
  }
  // Units beyond the last that the row is part of.
  int8_t* const q = p.q + static_cast<int64_t>(blockIdx.x) * p.q_stride;
  for (int col = FirstCol(kFours); col < p.q_stride; col += 4 * static_cast<int>(blockDim.x)) {
    *reinterpret_cast<uint32_t*>(q + col) = 0;
  }
}

template <int kFours, typename Args>
cudaError_t LaunchFours(void (*kernel)(Args), const Args& p, int shared_words,
                        cudaStream_t stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(p.tokens));
  shape.block = dim3(static_cast<unsigned>(RowThreads(p.cols, kFours)));
  shape.shared_bytes = static_cast<size_t>(shared_words) * sizeof(uint32_t);
  shape.overlap = true;
  return Launch(kernel, shape, stream, p);
}

template <typename Args>
bool IsValidNorm(const Args& p) {
  static_assert(RowFours(kMostNormCols) == 8 * kMostThreads, "");
  return p.tokens >= 1 && p.cols >= 1 && p.cols <= kMostNormCols;
}

bool IsValid(const RmsNormQuantizeArgs& p) {
  if (!IsValidNorm(p) || p.num_groups < 1 || p.q_stride < p.cols ||
      p.q_stride % kTernaryBlockCols != 0 || reinterpret_cast<uintptr_t>(p.q) % 4 != 0) {
    return false;
  }
  if (p.num_groups == 1) return p.group_cols >= p.cols;
  return p.group_cols >= 1 && p.group_cols % kTernaryBlockCols == 0 &&
         (p.cols + p.group_cols - 1) / p.group_cols == p.num_groups;
}

}  // namespace

cudaError_t LaunchRmsNorm(const RmsNormArgs& p, cudaStream_t stream) {
  if (!IsValidNorm(p) || p.weight == nullptr) return cudaErrorInvalidValue;
  const int fours = RowFours(p.cols);
  if (fours <= kMostThreads) return LaunchFours<1>(RmsNormKernel<1>, p, kMostWarps, stream);
  if (fours <= 2 * kMostThreads) return LaunchFours<2>(RmsNormKernel<2>, p, kMostWarps, stream);
  if (fours <= 4 * kMostThreads) return LaunchFours<4>(RmsNormKernel<4>, p, kMostWarps, stream);
  return LaunchFours<8>(RmsNormKernel<8>, p, kMostWarps, stream);
}

cudaError_t LaunchRmsNormQuantize(const RmsNormQuantizeArgs& p, cudaStream_t stream) {
  if (!IsValid(p)) return cudaErrorInvalidValue;
  const int fours = RowFours(p.cols);
  // Of the norm's sum; then of the row's maximum and sum, or of those of units.
  const int words = kMostWarps + 2 * (p.num_groups == 1 ? kMostWarps : fours / kUnitLanes);
  if (fours <= kMostThreads) return LaunchFours<1>(RmsNormQuantizeKernel<1>, p, words, stream);
  if (fours <= 2 * kMostThreads) return LaunchFours<2>(RmsNormQuantizeKernel<2>, p, words, stream);
  if (fours <= 4 * kMostThreads) return LaunchFours<4>(RmsNormQuantizeKernel<4>, p, words, stream);
  return LaunchFours<8>(RmsNormQuantizeKernel<8>, p, words, stream);
}

}  // namespace sterna::cuda
