#include "engine/model/weights.h"

namespace sterna {

int64_t ModelWeights::num_parameters() const {
  int64_t parameters = embedding.rows * embedding.cols +
                       (head.data == embedding.data ? 0 : head.rows * head.cols) +
                       static_cast<int64_t>(final_norm.size());
  for (const LayerWeights& layer : layers) {
    parameters +=
        static_cast<int64_t>(layer.input_norm.size() + layer.attn_sub_norm.size() +
                             layer.post_attention_norm.size() + layer.ffn_sub_norm.size());
    for (const TernaryLinearWeights* linear : layer.linears()) {
      parameters += linear->w.rows() * linear->w.cols() +
                    static_cast<int64_t>(linear->bias.size() + linear->in_norm.size());
    }
  }
  return parameters;
}

int64_t ModelWeights::ternary_bytes() const {
  int64_t bytes = 0;
  for (const LayerWeights& layer : layers) {
    for (const TernaryLinearWeights* linear : layer.linears()) {
      const bool one_scale = linear->w.granularity() == ScaleGranularity::kTensor;
      bytes += linear->w.packed_bytes();
      bytes += one_scale ? static_cast<int64_t>(sizeof(double))
                         : static_cast<int64_t>(linear->w.scales().size_bytes());
    }
  }
  return bytes;
}

int64_t ModelWeights::dense_bytes() const {
  return embedding.bytes() + (head.data == embedding.data ? 0 : head.bytes());
}

}  // namespace sterna
