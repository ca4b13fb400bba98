// The instructions that CUDA C++ has no name for, and the launch of a kernel: all that this backend
// takes from the machine beyond the language. The kernels say everything else in plain C++, so that
// tests can compile them a second time for the host, on threads in software, with this header
// replaced (tests/testing/cuda_emulation.h).
//
// Rules that this needs of kernels: they take one struct by value; shared memory is dynamic, from
// SharedMemory(); warp collectives are called by all 32 lanes.
// Source: PTX ISA 9.0, the sections named below.
#ifndef STERNA_KERNELS_CUDA_PRIMITIVES_CUH_
#define STERNA_KERNELS_CUDA_PRIMITIVES_CUH_

#include <cuda.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace sterna::cuda {

inline constexpr unsigned kWarpThreads = 32;
inline constexpr unsigned kFullWarp = 0xffffffffu;

// This block's dynamic shared memory, on a boundary of 1024 bytes (what a swizzled tile wants).
__device__ __forceinline__ uint8_t* SharedMemory() {
  extern __shared__ __align__(1024) uint8_t sterna_shared_memory[];
  return sterna_shared_memory;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Programmatic dependent launch (section "griddepcontrol"): a kernel that was launched with
// `overlap` may start while the one before it still runs. It must wait before it reads or writes
// what that one may touch, and nobody gains before the other side lets go. Letting go early costs
// nothing: a kernel that waits, waits for the end of the one before it.
__device__ __forceinline__ void WaitForPreviousKernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// 16 bytes that are read once and by nobody else: weights.
__device__ __forceinline__ uint4 LoadStreaming(const uint4* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// Copies 16 bytes to shared memory in the background (section "cp.async"); zeros where !valid,
// `global` is then not read.
__device__ __forceinline__ void CopyAsync16(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
// The same with 8 bytes.
__device__ __forceinline__ void CopyAsync8(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(SharedAddress(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}
// Ends a group of copies; WaitForCopies<n> waits until all but this thread's n newest groups are
// there. Others see them after a barrier.
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kNewest>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

// d += a . b for a warp (section "mma.m16n8k32"): A [16, 32] u8 row-major, B [32, 8] s8, D [16, 8].
// Lane l, with r = l / 4 and c = l % 4, has of A, four columns in a register, byte by byte:
//   a[0]: row r, columns 4c .. 4c+3      a[1]: row r + 8, the same
//   a[2]: row r, columns 16 + 4c ..      a[3]: row r + 8, the same
// of B: b0: rows 4c .. 4c+3 of column r; b1: rows 16 + 4c .. of column r
// of D: d[0], d[1]: row r, columns 2c, 2c + 1; d[2], d[3]: row r + 8, the same.
__device__ __forceinline__ void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// The same with A s8.
__device__ __forceinline__ void MmaS8S8(int32_t (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d += a . b (section "mma.m16n8k16"): A [16, 16] row-major, B [16, 8], both of 16-bit floats, two
// columns (of B: rows) in a register, the first in its low half; D [16, 8] f32 as above.
//   a[0]: row r, columns 2c, 2c + 1      a[1]: row r + 8, the same
//   a[2]: row r, columns 8 + 2c, ..      a[3]: row r + 8, the same
//   b0: rows 2c, 2c + 1 of column r      b1: rows 8 + 2c, .. of column r
__device__ __forceinline__ void MmaF16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                       uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                        uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices of 16-bit elements from shared memory (section "ldmatrix"). Lane l names row
// l % 8 of matrix l / 8, 16 bytes on a boundary of 16; r[i] of lane l has of matrix i row l / 4,
// columns 2 (l % 4) and the next. Transposed: of row and column exchanged.
__device__ __forceinline__ void LoadMatrices(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared_row))
               : "memory");
}
__device__ __forceinline__ void LoadMatricesTransposed(uint32_t (&r)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(shared_row))
               : "memory");
}

// Two floats as halves, `low` in the low half, rounded as FloatToHalf of kernels/half_float.h does:
// half to even, what is too large to the largest half. And a half as a float.
__device__ __forceinline__ float ClampToF16(float x) {
  constexpr float kLargest = 65504.0f;
  return x > kLargest ? kLargest : x < -kLargest ? -kLargest : x;
}
__device__ __forceinline__ uint32_t PackF16(float low, float high) {
  const __half2 pair = __floats2half2_rn(ClampToF16(low), ClampToF16(high));
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float F16ToFloat(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

// Four int8 as halves, exactly: those of bytes 0 and 2 in `even`, of bytes 1 and 3 in `odd`.
__device__ __forceinline__ void UnpackI8(uint32_t bytes, uint32_t& even, uint32_t& odd) {
  // x + 128 in the last bits of 1024 is x + 1152.
  const uint32_t biased = bytes ^ 0x80808080u;
  const uint32_t pairs[2] = {__byte_perm(biased, 0x64646464u, 0x4240),
                             __byte_perm(biased, 0x64646464u, 0x4341)};
  const __half2 bias = __half2half2(__ushort_as_half(0x6480));
  const __half2 x = __hsub2(*reinterpret_cast<const __half2*>(&pairs[0]), bias);
  const __half2 y = __hsub2(*reinterpret_cast<const __half2*>(&pairs[1]), bias);
  even = *reinterpret_cast<const uint32_t*>(&x);
  odd = *reinterpret_cast<const uint32_t*>(&y);
}

// Two floats as bf16, `low` in the low half, rounded half to even; what is too large becomes
// infinity (section "cvt").
__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

// What follows exists on sm_90a alone; elsewhere it ends the kernel with an error.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define STERNA_SM90A 1
#else
#define STERNA_SM90A 0
#endif

// A barrier in shared memory (section "mbarrier") that threads and copies arrive at. It has
// phases: phase n ends when `count` threads have arrived and all announced bytes are there.
using MemoryBarrier = uint64_t;

__device__ __forceinline__ void InitBarrier(MemoryBarrier* barrier, int count) {
#if STERNA_SM90A
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(count)
               : "memory");
#else
  __trap();
#endif
}
// After InitBarrier, by the thread that did it, before the block's next barrier.
__device__ __forceinline__ void PublishBarriers() {
#if STERNA_SM90A
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void ArriveAt(MemoryBarrier* barrier) {
#if STERNA_SM90A
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(SharedAddress(barrier)) : "memory");
#endif
}
// The same, and announces bytes that copies will bring in this phase.
__device__ __forceinline__ void ArriveExpecting(MemoryBarrier* barrier, uint32_t bytes) {
#if STERNA_SM90A
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)),
      "r"(bytes)
      : "memory");
#endif
}
// Waits until the phase of this parity has ended; of a new barrier, phase 0 is going on.
__device__ __forceinline__ void WaitAt(MemoryBarrier* barrier, uint32_t parity) {
#if STERNA_SM90A
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "wait:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni end;\n"
      "bra.uni wait;\n"
      "end:\n"
      "}\n" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
#endif
}

// A matrix of bytes in device memory as the copy engine sees it (section "Tensors"): it comes in
// boxes of `box_rows` x 128 bytes, zeros where a box goes beyond, 16-byte chunk c of row r of a box
// at chunk c ^ (r % 8) (128-byte swizzle, what wgmma reads).
struct TensorMap {
  CUtensorMap map;
};
inline constexpr int kTensorBoxBytes = 128;  // of a row

// [rows, row_bytes], rows at a distance of row_bytes, a multiple of 16, from `base`, on a boundary
// of 16; box_rows <= 256. cudaErrorNotSupported without a driver that has it.
inline cudaError_t MakeTensorMap(const void* base, int64_t rows, int64_t row_bytes, int box_rows,
                                 TensorMap* tensor) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  constexpr unsigned kSince = 12000;
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                             kSince, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(row_bytes), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(row_bytes)};
  const cuuint32_t box[2] = {kTensorBoxBytes, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function)(
      &tensor->map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(base), sizes, strides, box,
      steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// Brings the box at (first row, first byte) to `shared`, on a boundary of 1024, and its bytes to
// `barrier`. `tensor` is a kernel's parameter, __grid_constant__.
__device__ __forceinline__ void CopyBoxAsync(void* shared, const TensorMap* tensor, int row,
                                             int byte, MemoryBarrier* barrier) {
#if STERNA_SM90A
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3}], [%4];" ::"r"(SharedAddress(shared)),
      "l"(&tensor->map), "r"(byte), "r"(row), "r"(SharedAddress(barrier))
      : "memory");
#endif
}

// Gives registers back, or takes them: of each thread of a warpgroup, to hold this many.
template <int kRegisters>
__device__ __forceinline__ void ShrinkRegisters() {
#if STERNA_SM90A
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void GrowRegisters() {
#if STERNA_SM90A
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

// d += a . b for a warpgroup, four warps from a warp divisible by four on (section
// "wgmma.mma_async"): A [64, 32] u8, rows 16w .. of warp w, as MmaU8S8 has them; B 32 of the 128
// bytes of each of kWgmmaTokens rows, from byte 32 * k_tile on, of a box as CopyBoxAsync brings it;
// D [64, kWgmmaTokens], d[4n + i] what MmaU8S8 has as d[i] for rows 8n .. 8n+7 of the box.
// In the background: registers are handed over by BeginProducts and back by WaitForProducts<n>,
// when all but the n newest groups that CommitProducts ended are done. The compiler does not know:
// HandOver keeps what it does to registers on its side of either.
inline constexpr int kWgmmaTokens = 128;

template <typename T, size_t kCount>
__device__ __forceinline__ void HandOver(T (&registers)[kCount]) {
  static_assert(sizeof(T) == 4, "");
#pragma unroll
  for (size_t i = 0; i < kCount; ++i) asm volatile("" : "+r"(registers[i])::"memory");
}
__device__ __forceinline__ void BeginProducts() {
#if STERNA_SM90A
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void CommitProducts() {
#if STERNA_SM90A
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int kNewest>
__device__ __forceinline__ void WaitForProducts() {
#if STERNA_SM90A
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
#endif
}

__device__ __forceinline__ void WarpgroupMmaU8S8(int32_t (&d)[kWgmmaTokens / 2],
                                                 const uint32_t (&a)[4], const void* box,
                                                 int k_tile) {
#if STERNA_SM90A
  // Section "Matrix descriptor": addresses in units of 16 bytes; eight rows of 128 bytes follow one
  // another at a distance of 1024; layout 1 is the 128-byte swizzle.
  const uint64_t descriptor = (SharedAddress(box) + 32 * k_tile) >> 4 & 0x3fff | 1ull << 16 |
                              uint64_t{1024 >> 4} << 32 | 1ull << 62;
#define STERNA_D4(i) "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3])
#define STERNA_D16(i) STERNA_D4(i), STERNA_D4(i + 4), STERNA_D4(i + 8), STERNA_D4(i + 12)
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "{%64, %65, %66, %67}, %68, 1;"
      : STERNA_D16(0), STERNA_D16(16), STERNA_D16(32), STERNA_D16(48)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(descriptor));
#undef STERNA_D16
#undef STERNA_D4
#endif
}

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  bool overlap = false;  // WaitForPreviousKernel is in the kernel
};

// Returns what the launch itself says; what fails while the kernel runs shows up later.
template <typename Params>
cudaError_t Launch(void (*kernel)(Params), const LaunchShape& shape, cudaStream_t stream,
                   const Params& params) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (shape.shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  // A kernel compiled for something older has no wait in it. All of a build's are compiled alike.
  static const bool can_overlap = [&] {
    cudaFuncAttributes attributes = {};
    return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90;
  }();
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = shape.overlap && can_overlap ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_PRIMITIVES_CUH_
