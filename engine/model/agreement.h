// Whether the tensors of a checkpoint and its config describe one model: what both loading and
// `convert` ask before they read any weights.
//
// Thread contract: a free function without state.
#ifndef STERNA_ENGINE_MODEL_AGREEMENT_H_
#define STERNA_ENGINE_MODEL_AGREEMENT_H_

#include "base/status.h"
#include "engine/model/config.h"
#include "engine/model/weight_source.h"

namespace sterna {

// InvalidArgument, with both named, when a tensor is there that the config denies: a bias, an input
// norm, norms of q and k, or besides a tied embedding a head of other values (some tools store the
// matrix twice). NotFound when the head of a model that is not tied is missing. What a container
// knows by itself, such as layers beyond the config's, OpenWeights has refused.
Status CheckAgreement(WeightSource& source, const ModelConfig& config);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_AGREEMENT_H_
