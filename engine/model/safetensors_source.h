// The weights of a Hugging Face directory: families A, A', B, C, D and E (docs/formats.md).
#ifndef STERNA_ENGINE_MODEL_SAFETENSORS_SOURCE_H_
#define STERNA_ENGINE_MODEL_SAFETENSORS_SOURCE_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "engine/model/config.h"
#include "engine/model/weight_source.h"

namespace sterna {

// What the files of such a model call tensor `name`, in WeightSource's terms.
std::string SafetensorsName(const std::string& name, const ModelConfig& config);

// `config`, that of the directory, must outlive the source. Errors of SafetensorsCheckpoint::Open;
// InvalidArgument when the sub-norms that the config implies are not there, in all layers and by
// its family's names, or others are.
StatusOr<std::unique_ptr<WeightSource>> OpenSafetensorsSource(const std::string& model_dir,
                                                              const ModelConfig& config);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_SAFETENSORS_SOURCE_H_
