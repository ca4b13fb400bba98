// The config of a model in GGUF files, from their metadata and, for what metadata do not say, from
// the tensors that are there.
// Source: llama.cpp (gguf-py's constants.py for the keys); BitNet's fork for its architectures.
#ifndef STERNA_ENGINE_MODEL_GGUF_CONFIG_H_
#define STERNA_ENGINE_MODEL_GGUF_CONFIG_H_

#include "base/status.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"

namespace sterna {

// Architectures `bitnet`, `bitnet-25`, `bitnet-b1.58`, `llama` and `qwen3`. InvalidArgument, or
// Unimplemented for a variant of yarn that is not computed, with the file, the key, its value and
// what would be right.
StatusOr<ModelConfig> ReadGgufConfig(const GgufCheckpoint& checkpoint);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_CONFIG_H_
