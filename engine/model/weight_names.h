// What the weights of a loaded model are called: Hugging Face's names, family A's where families
// differ, for those that go over all of them. Views into the weights.
#ifndef STERNA_ENGINE_MODEL_WEIGHT_NAMES_H_
#define STERNA_ENGINE_MODEL_WEIGHT_NAMES_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/model/weights.h"

namespace sterna {

inline constexpr char kEmbeddingName[] = "model.embed_tokens.weight";
inline constexpr char kFinalNormName[] = "model.norm.weight";
inline constexpr char kHeadName[] = "lm_head.weight";

struct NamedLinear {
  std::string name;  // without ".weight"
  const TernaryLinearWeights* weights;
};

struct NamedTernary {
  std::string name;  // the same
  const TernaryMatrix* w;
};

struct NamedVector {
  std::string name;
  std::span<const float> values;  // not empty
  bool is_norm;                   // else a bias
};

std::vector<NamedLinear> NamedLinears(const LayerWeights& layer, int64_t number);
// Embedding and head where they are ternary, the head once where it is the embedding.
std::vector<NamedTernary> TernaryTables(const ModelWeights& weights);
std::vector<NamedVector> NamedVectors(const LayerWeights& layer, int64_t number);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_WEIGHT_NAMES_H_
