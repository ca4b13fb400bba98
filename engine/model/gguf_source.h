// The weights of GGUF files: their names, their order of rows and their types.
// Source: llama.cpp (gguf-py's tensor_mapping.py; convert_hf_to_gguf.py for the order of q and k).
#ifndef STERNA_ENGINE_MODEL_GGUF_SOURCE_H_
#define STERNA_ENGINE_MODEL_GGUF_SOURCE_H_

#include <memory>
#include <string>

#include "base/status.h"
#include "engine/model/config.h"
#include "engine/model/gguf_ternary.h"
#include "engine/model/weight_source.h"

namespace sterna {

// What the files call `name`, a linear or a tensor in WeightSource's terms.
std::string GgufTensorName(const std::string& name);

// `path` as GgufCheckpoint::Open takes it. `config`, that of the files, must outlive the source.
// Errors of GgufCheckpoint::Open; InvalidArgument when sub-norms are not as the config says.
StatusOr<std::unique_ptr<WeightSource>> OpenGgufSource(const std::string& path,
                                                       const ModelConfig& config,
                                                       I2sLayout i2s_layout);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_SOURCE_H_
