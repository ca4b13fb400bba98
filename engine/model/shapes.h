// The shapes of well-known ternary models, for benchmarks with random weights where the checkpoint
// itself is not at hand (MakeRandomWeights in engine/model/weights.h).
#ifndef STERNA_ENGINE_MODEL_SHAPES_H_
#define STERNA_ENGINE_MODEL_SHAPES_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/model/config.h"

namespace sterna {

// "2b-4t": microsoft/bitnet-b1.58-2B-4T. "llama3-8b": HF1BitLLM/Llama3-8B-1.58.
// "bitnet-large": 1bitLLM/bitnet_b1_58-large. "falcon3-...": tiiuae/Falcon3-...-1.58bit.
// "bonsai-...": prism-ml/Ternary-Bonsai-..., that is Qwen3 with a scale for each 128 columns of a
// row, and with embedding and head that are ternary too.
std::vector<std::string_view> ShapePresetNames();

// InvalidArgument for a name that is not one of ShapePresetNames. A preset is meant to be run with
// sub-norms if its config has_sub_norms().
StatusOr<ModelConfig> ShapePreset(std::string_view name);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_SHAPES_H_
