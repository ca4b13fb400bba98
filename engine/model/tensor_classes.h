// How the memory of a model's weights divides among classes of tensors.
#ifndef STERNA_ENGINE_MODEL_TENSOR_CLASSES_H_
#define STERNA_ENGINE_MODEL_TENSOR_CLASSES_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/model/weights.h"

namespace sterna {

struct TensorClass {
  // "ternary layers", "norms and biases"; "embedding" and "head", or "embedding, tied head" where
  // they are the same memory.
  std::string name;
  int64_t parameters = 0;
  int64_t bytes = 0;  // in memory, padding and scales included
  double bits_per_weight() const {
    return 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
  }
};

// Those that the model has; a head's shortlist is in none of them.
std::vector<TensorClass> TensorClasses(const ModelWeights& weights);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_TENSOR_CLASSES_H_
