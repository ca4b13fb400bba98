#include "engine/model/tensor_classes.h"

#include <utility>

#include "engine/model/weight_names.h"

namespace sterna {

std::vector<TensorClass> TensorClasses(const ModelWeights& weights) {
  TensorClass ternary{.name = "ternary layers"};
  TensorClass vectors{.name = "norms and biases", .parameters = weights.final_norm.size()};
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    for (const TernaryLinearWeights* linear : layer.linears()) {
      ternary.parameters += linear->w.rows() * linear->w.cols();
      ternary.bytes += linear->w.bytes();
    }
    for (const NamedVector& vector : NamedVectors(layer, static_cast<int64_t>(i))) {
      vectors.parameters += std::ssize(vector.values);
    }
  }
  vectors.bytes = vectors.parameters * static_cast<int64_t>(sizeof(float));
  std::vector<TensorClass> classes = {std::move(ternary), std::move(vectors)};
  const TernaryMatrix& ternary_table = weights.ternary_embedding;
  const int64_t table = ternary_table.empty() ? weights.embedding.rows * weights.embedding.cols
                                              : ternary_table.rows() * ternary_table.cols();
  const int64_t bytes = ternary_table.empty() ? weights.embedding.bytes() : ternary_table.bytes();
  const bool one = ternary_table.empty() ? weights.embedding.data == weights.head.data
                                         : weights.ternary_head() == &ternary_table;
  if (one) {
    classes.push_back(
        {.name = "embedding, tied head", .parameters = table, .bytes = weights.head_bytes()});
  } else {
    classes.push_back({.name = "embedding", .parameters = table, .bytes = bytes});
    classes.push_back({.name = "head", .parameters = table, .bytes = weights.head_bytes()});
  }
  return classes;
}

}  // namespace sterna
