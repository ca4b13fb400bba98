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

// "2b-4t": microsoft/bitnet-b1.58-2B-4T. "llama3-8b-1.58": HF1BitLLM/Llama3-8B-1.58.
// "bonsai-1.7b": the sizes of Ternary-Bonsai-1.7B (Qwen3-1.7B), with one scale a tensor and a bf16
// embedding, where the model itself has group scales, q/k norms and a ternary embedding.
std::vector<std::string_view> ShapePresetNames();

// InvalidArgument for a name that is not one of ShapePresetNames. A preset of model_type "bitnet"
// is meant to be run with sub-norms, the others without.
StatusOr<ModelConfig> ShapePreset(std::string_view name);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_SHAPES_H_
