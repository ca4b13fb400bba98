// A model as users name it: a Hugging Face directory or GGUF files, found and opened once, for all
// who read its config, its weights, its tokenizer or its template.
//
// Lifetime: what is read from it does not refer to it, but for weight sources.
// Thread contract: immutable; const access from many threads is fine.
#ifndef STERNA_ENGINE_MODEL_MODEL_FILES_H_
#define STERNA_ENGINE_MODEL_MODEL_FILES_H_

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/status.h"
#include "engine/model/config.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_ternary.h"
#include "engine/model/weight_source.h"

namespace sterna {

class ModelFiles {
 public:
  // `path`: a directory with config.json, tokenizer and safetensors files; a GGUF file, of several
  // the first; or a directory that holds the GGUF files of one model and no config.json.
  // NotFound when there is no such path; InvalidArgument when it is neither, or a directory of
  // several GGUF models; errors of GgufCheckpoint::Open.
  static StatusOr<ModelFiles> Open(const std::string& path);

  // For messages: the directory, or the GGUF file.
  const std::string& path() const { return path_; }
  // Null for a Hugging Face directory, which is path().
  const GgufCheckpoint* gguf() const { return gguf_ ? &*gguf_ : nullptr; }

 private:
  ModelFiles(std::string path, std::optional<GgufCheckpoint> gguf)
      : path_(std::move(path)), gguf_(std::move(gguf)) {}

  std::string path_;
  std::optional<GgufCheckpoint> gguf_;
};

// config.json and its companions, or the metadata of GGUF files. Errors name the file, the field or
// key, its value and what would be right.
StatusOr<ModelConfig> ReadModelConfig(const ModelFiles& files);

// `files` and `config`, which is theirs, must outlive the source. Errors of the container, and
// InvalidArgument where config and tensors disagree about sub-norms.
StatusOr<std::unique_ptr<WeightSource>> OpenWeights(const ModelFiles& files,
                                                    const ModelConfig& config,
                                                    I2sLayout i2s_layout);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_MODEL_FILES_H_
