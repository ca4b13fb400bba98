// AVX2 with FMA.
#include "kernels/cpu/avx2_kernels.h"

namespace sterna::cpu {
namespace {

constexpr CpuKernels kKernels =
    VectorKernels<Avx2Vector>::Table("avx2", Avx2Ternary<Avx2Vector>::TernaryLinear);

}  // namespace

const CpuKernels& Avx2Kernels() { return kKernels; }

}  // namespace sterna::cpu
