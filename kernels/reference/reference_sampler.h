// The Sample op written down as kernels/sampling.h states it, with one full sort and no shortcuts.
//
// Thread contract: a pure function.
#ifndef STERNA_KERNELS_REFERENCE_REFERENCE_SAMPLER_H_
#define STERNA_KERNELS_REFERENCE_REFERENCE_SAMPLER_H_

#include <cstdint>

#include "kernels/sampling.h"

namespace sterna {

// `logits` [vocabulary]. A NaN logit counts as -infinity. All arithmetic is in double.
template <typename F>
SampleResult ReferenceSampleRow(const F* logits, int64_t vocabulary, const SampleParams& params);

}  // namespace sterna

#endif  // STERNA_KERNELS_REFERENCE_REFERENCE_SAMPLER_H_
