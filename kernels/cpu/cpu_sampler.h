// The Sample op for one row, without a sort of the vocabulary where none is needed.
//
// Thread contract: a pure function; rows may be sampled on several threads at once.
#ifndef STERNA_KERNELS_CPU_CPU_SAMPLER_H_
#define STERNA_KERNELS_CPU_CPU_SAMPLER_H_

#include <cstdint>
#include <span>

#include "kernels/cpu/kernel_table.h"
#include "kernels/sampling.h"

namespace sterna::cpu {

// `logits` [vocabulary]. A NaN logit counts as -infinity.
SampleResult SampleRow(const CpuKernels& kernels, const float* logits, int64_t vocabulary,
                       const SampleParams& params);

// Applies bias and penalties to `logits` [vocabulary]. A larger logit never becomes the smaller
// one.
void AdjustLogits(const SampleParams& params, std::span<float> logits);

// Whether the token drawn, and all that is reported of it, depends on the most likely tokens alone:
// on those with logits of at least LeastDrawable. The others may then be -infinity. A top_k of
// `many` or more does not count.
bool DrawsFromMostLikely(const SampleParams& params, int64_t many);

// For such params: no token whose adjusted logit is below this can be drawn, if every logit is at
// least what `lower` [vocabulary] says. Applies bias and penalties to `lower`.
float LeastDrawable(const CpuKernels& kernels, const SampleParams& params, std::span<float> lower);

}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_CPU_SAMPLER_H_
