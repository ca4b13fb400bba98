// AVX-VNNI: AVX2 with vpdpbusd on 32 bytes, as on client processors without AVX-512.
#include "kernels/cpu/avx2_kernels.h"

namespace sterna::cpu {
namespace {

struct AvxVnniVector : Avx2Vector {
  static constexpr int64_t kMostShortlistTokens = INT64_MAX;

  // vpdpbusd takes the codes, too large by the offset.
  static IntReg ByteSumStart(int32_t x_sum) { return _mm256_set1_epi32(-kDenseInt8Offset * x_sum); }
  static IntReg ByteWeights(IntReg codes) { return codes; }
  static IntReg AddByteProducts(IntReg sums, IntReg weights, IntReg x) {
    return _mm256_dpbusd_avx_epi32(sums, weights, x);
  }

  static IntReg AddCodeProducts(IntReg sums, IntReg codes, IntReg x) {
    return _mm256_dpbusd_avx_epi32(sums, codes, x);
  }
  static IntReg BlockSums(IntReg sums) { return sums; }
};

constexpr CpuKernels kKernels =
    VectorKernels<AvxVnniVector>::Table("avx_vnni", Avx2Ternary<AvxVnniVector>::TernaryLinear);

}  // namespace

const CpuKernels& AvxVnniKernels() { return kKernels; }

}  // namespace sterna::cpu
