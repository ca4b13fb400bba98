// What is decided by measurement at start: how the device computes this model, and how many tokens
// one step may have so that sequences that decode do not wait too long for the prompts beside them.
// None of it changes a bit of any answer.
#ifndef STERNA_ENGINE_TUNING_H_
#define STERNA_ENGINE_TUNING_H_

#include <cstdint>
#include <vector>

#include "base/status.h"
#include "engine/model/model.h"

namespace sterna {

// `head` for this device: without a shortlist where that is left to us and of no use.
// InvalidArgument where one is asked for that would be of no use.
StatusOr<HeadOptions> HeadFor(HeadOptions head, const Ops<float>& ops);

// Ops::Tune with matrices of several layers: those of a large model come from memory, as in a step.
// Here and below `weights` are placed.
std::vector<Tuning> TuneOps(const ModelWeights& weights, Ops<float>* ops);

// Prompt tokens a second of the whole model in chunks of up to kProbeTokens at short context, by
// runs of its first two layers: some tens of milliseconds, or one run of a few tokens where that
// takes longer. Device errors are returned.
StatusOr<double> MeasurePromptRate(const ModelConfig& config, const ModelWeights& weights,
                                   Ops<float>* ops);

inline constexpr int64_t kProbeTokens = 64;
inline constexpr int64_t kMostPromptTokens = 512;
// A device with memory of its own needs as many to be busy, and is not measured.
inline constexpr int64_t kDevicePromptTokens = 2048;

// As many tokens of prompts in a step as `tokens_per_second` computes in `seconds`: a multiple of
// kProbeTokens, at least that, at most kMostPromptTokens.
int64_t ChoosePromptTokens(double tokens_per_second, double seconds);

}  // namespace sterna

#endif  // STERNA_ENGINE_TUNING_H_
