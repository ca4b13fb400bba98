// The Sample op for one row, without a sort of the vocabulary where none is needed.
//
// Thread contract: a pure function; rows may be sampled on several threads at once.
#ifndef STERNA_KERNELS_CPU_CPU_SAMPLER_H_
#define STERNA_KERNELS_CPU_CPU_SAMPLER_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/sampling.h"

namespace sterna::cpu {

// `logits` [vocabulary]. A NaN logit counts as -infinity.
SampleResult SampleRow(const CpuKernels& kernels, const float* logits, int64_t vocabulary,
                       const SampleParams& params);

}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_CPU_SAMPLER_H_
