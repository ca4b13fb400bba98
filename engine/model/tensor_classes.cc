#include "engine/model/tensor_classes.h"

#include <utility>

#include "engine/model/weight_names.h"

namespace sterna {

std::vector<TensorClass> TensorClasses(const ModelWeights& weights) {
  TensorClass ternary{.name = "ternary layers", .bytes = weights.ternary_bytes()};
  TensorClass vectors{.name = "norms and biases", .parameters = weights.final_norm.size()};
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    for (const TernaryLinearWeights* linear : layer.linears()) {
      ternary.parameters += linear->w.rows() * linear->w.cols();
    }
    for (const NamedVector& vector : NamedVectors(layer, static_cast<int64_t>(i))) {
      vectors.parameters += std::ssize(vector.values);
    }
  }
  vectors.bytes = vectors.parameters * static_cast<int64_t>(sizeof(float));
  const DenseMatrix& embedding = weights.embedding;
  const DenseMatrix& head = weights.head;
  const int64_t table = embedding.rows * embedding.cols;
  std::vector<TensorClass> classes = {std::move(ternary), std::move(vectors)};
  if (embedding.data == head.data) {
    classes.push_back({.name = "embedding, tied head", .parameters = table, .bytes = head.bytes()});
  } else {
    classes.push_back({.name = "embedding", .parameters = table, .bytes = embedding.bytes()});
    classes.push_back({.name = "head", .parameters = table, .bytes = head.bytes()});
  }
  return classes;
}

}  // namespace sterna
