// The tensors of a model, by the names of both kinds of files: what `convert` goes through.
#ifndef STERNA_ENGINE_MODEL_MODEL_TENSORS_H_
#define STERNA_ENGINE_MODEL_MODEL_TENSORS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/config.h"

namespace sterna {

struct ModelTensor {
  enum class Kind { kTernary, kVector, kMatrix };

  Kind kind = Kind::kVector;
  // Of kTernary: the embedding or the head, which WeightSource::TernaryTable reads.
  bool is_table = false;
  // As WeightSource has it: of a ternary linear without ".weight", of the others the whole name.
  std::string name;
  // The whole name in GGUF files; empty where no architecture of theirs has such a tensor.
  std::string gguf_name;
  int64_t rows = 1;  // 1 of a vector
  int64_t cols = 0;
  // Of q and k: how many heads the rows (of a bias the columns) are of, which rotary embedding
  // turns in pairs; 0 of all others.
  int64_t rotated_heads = 0;
};

// All that a model of this config has, from the embedding to the head.
std::vector<ModelTensor> TensorsOf(const ModelConfig& config);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_MODEL_TENSORS_H_
