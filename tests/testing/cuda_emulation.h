// The CUDA backend's own source, compiled for the host: a machine without a GPU runs every kernel,
// thread by thread, and compares what it computes with the reference.
//
// Put before the source with -include, this header takes the place of the CUDA language
// (threadIdx, __syncthreads, ...), of kernels/cuda/primitives.cuh (the matrix instructions by their
// documented fragments, asynchronous copies, launches), and of the part of the runtime that
// kernels/cuda/runtime.h names. A block's threads are fibers on one thread of the host, which
// change where they wait for one another and at fences, in an order that a seed decides, and up to
// three blocks run side by side: a barrier that is missing shows as a wrong result in some order.
// On purpose:
//   - shared memory and new device memory hold noise, not zeros, and end where they were asked to
//     end, so that AddressSanitizer sees what goes beyond;
//   - an asynchronous copy happens when it is waited for, not before;
//   - a block that cannot go on (threads at different barriers, lanes at different collectives)
//     ends the program and says who waits for what;
//   - so does a kernel that may start early and hands something over, or ends, without having
//     waited for the one before it.
// What this does not show: speed, memory ordering between threads that use no barrier, and whether
// the hardware is as documented. scripts/gpu-check is for those.
//
// Thread contract: one host thread at a time.
#ifndef STERNA_TESTS_TESTING_CUDA_EMULATION_H_
#define STERNA_TESTS_TESTING_CUDA_EMULATION_H_

// The headers this one stands for.
#define STERNA_KERNELS_CUDA_PRIMITIVES_CUH_
#define STERNA_KERNELS_CUDA_RUNTIME_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#include "kernels/half_float.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __grid_constant__

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) int2 {
  int32_t x, y;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// --- The runtime's functions, with their own names and meanings.

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost };
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaHostAllocDefault = 0;
inline constexpr unsigned cudaEventDisableTiming = 2;

namespace sterna::testing {
struct CudaStream;
struct CudaGraph;
struct CudaEvent;
}  // namespace sterna::testing
using cudaStream_t = sterna::testing::CudaStream*;
using cudaGraph_t = sterna::testing::CudaGraph*;
using cudaGraphExec_t = sterna::testing::CudaGraph*;
using cudaEvent_t = sterna::testing::CudaEvent*;

struct cudaDeviceProp {
  char name[256];
  int major, minor;
  int multiProcessorCount;
  size_t totalGlobalMem;
  size_t sharedMemPerBlockOptin;
};

const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetPCIBusId(char* id, int bytes, int device);
cudaError_t cudaMemGetInfo(size_t* free, size_t* total);
cudaError_t cudaMalloc(void** p, size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* p);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

// --- What tests may ask of the emulator.

namespace sterna::testing {

// The order in which threads, and blocks, run from now on; 0 is the order of their numbers. With
// any other seed some warps run far ahead of the rest of their block.
void SetCudaThreadOrder(uint64_t seed);
// Device memory that there is; and what is allocated of it now.
void SetCudaMemoryBytes(size_t bytes);
size_t CudaBytesAllocated();
// From now on every launch, copy and synchronisation fails with this error, as a sticky one does.
void SetCudaError(cudaError_t error);

// --- What the emulated language is made of.

const uint3& CudaThreadIdx();
const uint3& CudaBlockIdx();
const dim3& CudaBlockDim();
const dim3& CudaGridDim();
void CudaSyncThreads();
uint8_t* CudaSharedMemory();

// All 32 lanes of the warp give `bytes` (at most 64) of data; returns those of all, lane after lane
// at a distance of kCudaLaneBytes, good until the warp's next exchange. `what` must be the same.
inline constexpr size_t kCudaLaneBytes = 64;
const std::byte* CudaExchange(const char* what, const void* data, size_t bytes);
int CudaLane();

void CudaCopyAsync(void* shared, const void* global, size_t bytes, bool valid);
void CudaCommitCopies();
void CudaWaitForCopies(int newest);

// The current thread goes on once `done` returns true.
void CudaWaitUntil(const char* what, std::function<bool()> done);
// Does `work` in the background of the block: when nobody can go on without it.
void CudaLater(std::function<void()> work);
// The current thread's products, done when they are waited for.
void CudaLaterProduct(std::function<void()> product);
void CudaCommitProducts();
void CudaWaitForProducts(int newest);
// Does `node` now, or, while the stream is captured, when its graph is launched.
cudaError_t CudaEnqueue(cudaStream_t stream, std::function<cudaError_t()> node);
void CudaFillWithNoise(void* p, size_t bytes);

// As LaunchShape of the header that this one stands for.
struct CudaLaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  bool overlap = false;
};
cudaError_t CudaLaunch(const CudaLaunchShape& shape, cudaStream_t stream,
                       std::function<void()> thread);
void CudaWaitForPreviousKernel();
// Others run before the current thread goes on.
void CudaFence();

template <typename T>
T CudaShuffle(const char* what, T value, int from) {
  static_assert(sizeof(T) <= kCudaLaneBytes);
  const std::byte* all = CudaExchange(what, &value, sizeof(T));
  T result;
  std::memcpy(&result, all + static_cast<size_t>(from) * kCudaLaneBytes, sizeof(T));
  return result;
}

}  // namespace sterna::testing

#define threadIdx (::sterna::testing::CudaThreadIdx())
#define blockIdx (::sterna::testing::CudaBlockIdx())
#define blockDim (::sterna::testing::CudaBlockDim())
#define gridDim (::sterna::testing::CudaGridDim())

inline void __syncthreads() { ::sterna::testing::CudaSyncThreads(); }
inline void __syncwarp() { ::sterna::testing::CudaExchange("__syncwarp", nullptr, 0); }
template <typename T>
T __shfl_sync(unsigned, T value, int from) {
  return ::sterna::testing::CudaShuffle("__shfl_sync", value, from & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return ::sterna::testing::CudaShuffle("__shfl_xor_sync", value,
                                        ::sterna::testing::CudaLane() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const int lane = ::sterna::testing::CudaLane();
  const int from = lane - static_cast<int>(delta);
  return ::sterna::testing::CudaShuffle("__shfl_up_sync", value, from < 0 ? lane : from);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  const std::byte* all = ::sterna::testing::CudaExchange("__ballot_sync", &predicate, 1);
  unsigned ballot = 0;
  for (size_t lane = 0; lane < 32; ++lane) {
    if (all[lane * ::sterna::testing::kCudaLaneBytes] != std::byte{0}) ballot |= 1u << lane;
  }
  return ballot;
}
template <typename T>
T __reduce_add_sync(unsigned, T value) {
  const std::byte* all =
      ::sterna::testing::CudaExchange("__reduce_add_sync", &value, sizeof(value));
  T sum = 0;
  for (size_t lane = 0; lane < 32; ++lane) {
    T of_lane;
    std::memcpy(&of_lane, all + lane * ::sterna::testing::kCudaLaneBytes, sizeof(T));
    sum += of_lane;
  }
  return sum;
}
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  const std::byte* all =
      ::sterna::testing::CudaExchange("__reduce_max_sync", &value, sizeof(value));
  unsigned largest = 0;
  for (size_t lane = 0; lane < 32; ++lane) {
    unsigned of_lane;
    std::memcpy(&of_lane, all + lane * ::sterna::testing::kCudaLaneBytes, sizeof(of_lane));
    largest = std::max(largest, of_lane);
  }
  return largest;
}
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
// Threads change only where they wait and at fences, so this is as atomic as it must be.
template <typename T>
T atomicAdd(T* p, T value) {
  const T before = *p;
  *p += value;
  return before;
}
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}

template <typename T>
T __ldcg(const T* p) {
  return *p;
}
inline void __threadfence() { ::sterna::testing::CudaFence(); }

// The product's code may be in the same program.
#define cuda cuda_emulated

namespace sterna::cuda {

inline constexpr unsigned kWarpThreads = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

inline uint8_t* SharedMemory() { return testing::CudaSharedMemory(); }
inline void WaitForPreviousKernel() { testing::CudaWaitForPreviousKernel(); }
inline void LetNextKernelStart() {}
inline uint4 LoadStreaming(const uint4* p) { return *p; }
inline void CopyAsync16(void* shared, const void* global, bool valid = true) {
  testing::CudaCopyAsync(shared, global, 16, valid);
}
inline void CopyAsync8(void* shared, const void* global, bool valid = true) {
  testing::CudaCopyAsync(shared, global, 8, valid);
}
inline void CommitCopies() { testing::CudaCommitCopies(); }
template <int kNewest>
void WaitForCopies() {
  testing::CudaWaitForCopies(kNewest);
}

void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void MmaS8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void MmaF16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
void LoadMatrices(uint32_t (&r)[4], const void* shared_row);
void LoadMatricesTransposed(uint32_t (&r)[4], const void* shared_row);

inline float F16ToFloat(uint16_t bits) { return HalfToFloat(bits); }
inline uint32_t PackF16(float low, float high) {
  return FloatToHalf(low) | uint32_t{FloatToHalf(high)} << 16;
}

inline void UnpackI8(uint32_t bytes, uint32_t& even, uint32_t& odd) {
  const auto half = [&](int i) {
    return uint32_t{FloatToHalf(static_cast<float>(static_cast<int8_t>(bytes >> (8 * i))))};
  };
  even = half(0) | half(2) << 16;
  odd = half(1) | half(3) << 16;
}
inline uint32_t RoundToBf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  return std::isnan(x) ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t PackBf16(float low, float high) {
  return RoundToBf16(low) | RoundToBf16(high) << 16;
}

#define STERNA_SM90A 1

// Eight bytes, as the real one.
struct MemoryBarrier {
  uint8_t parity;  // of the phase that goes on
  uint8_t count;
  uint8_t to_arrive;
  uint8_t initialised;
  int32_t bytes_to_come;
};
static_assert(sizeof(MemoryBarrier) == 8);
inline constexpr uint8_t kInitialised = 0xb7;

void InitBarrier(MemoryBarrier* barrier, int count);
inline void PublishBarriers() {}
void ArriveAt(MemoryBarrier* barrier);
void ArriveExpecting(MemoryBarrier* barrier, uint32_t bytes);
void WaitAt(MemoryBarrier* barrier, uint32_t parity);

struct TensorMap {
  const uint8_t* base;
  int64_t rows;
  int64_t row_bytes;
  int box_rows;
};
inline constexpr int kTensorBoxBytes = 128;
cudaError_t MakeTensorMap(const void* base, int64_t rows, int64_t row_bytes, int box_rows,
                          TensorMap* tensor);
void CopyBoxAsync(void* shared, const TensorMap* tensor, int row, int byte, MemoryBarrier* barrier);

template <int kRegisters>
void ShrinkRegisters() {}
template <int kRegisters>
void GrowRegisters() {}

inline constexpr int kWgmmaTokens = 128;
template <typename T, size_t kCount>
void HandOver(T (&)[kCount]) {}
inline void BeginProducts() {}
inline void CommitProducts() { testing::CudaCommitProducts(); }
template <int kNewest>
void WaitForProducts() {
  testing::CudaWaitForProducts(kNewest);
}
void WarpgroupMmaU8S8(int32_t (&d)[kWgmmaTokens / 2], const uint32_t (&a)[4], const void* box,
                      int k_tile);
using LaunchShape = testing::CudaLaunchShape;

template <typename Params>
cudaError_t Launch(void (*kernel)(Params), const LaunchShape& shape, cudaStream_t stream,
                   const Params& params) {
  return testing::CudaLaunch(shape, stream, [kernel, params] { kernel(params); });
}

}  // namespace sterna::cuda

#endif  // STERNA_TESTS_TESTING_CUDA_EMULATION_H_
