#include "engine/model/model_tensors.h"

#include "absl/strings/str_cat.h"
#include "engine/model/gguf_source.h"
#include "engine/model/weight_names.h"

namespace sterna {
namespace {

// What is added to a list, a layer at a time.
class Lister {
 public:
  Lister(const ModelConfig& config, std::vector<ModelTensor>& tensors)
      : config_(config), tensors_(tensors) {}

  void Layer(int64_t number) {
    ours_ = absl::StrCat("model.layers.", number, ".");
    const int64_t hidden = config_.hidden_size;
    const int64_t ffn = config_.ffn_size;
    const int64_t heads = config_.num_heads * config_.head_dim;
    const int64_t kv_heads = config_.num_kv_heads * config_.head_dim;
    const bool bias = config_.attention_bias;
    Norm("input_layernorm", hidden);
    Linear("self_attn.q_proj", heads, hidden, bias, config_.num_heads);
    Linear("self_attn.k_proj", kv_heads, hidden, bias, config_.num_kv_heads);
    Linear("self_attn.v_proj", kv_heads, hidden, bias);
    if (config_.qk_norm) {
      Norm("self_attn.q_norm", config_.head_dim);
      Norm("self_attn.k_norm", config_.head_dim);
    }
    if (config_.has_sub_norms()) Norm("self_attn.attn_sub_norm", heads);
    Linear("self_attn.o_proj", hidden, heads, bias);
    Norm("post_attention_layernorm", hidden);
    Linear("mlp.gate_proj", ffn, hidden, config_.mlp_bias);
    Linear("mlp.up_proj", ffn, hidden, config_.mlp_bias);
    if (config_.has_sub_norms()) Norm("mlp.ffn_sub_norm", ffn);
    Linear("mlp.down_proj", hidden, ffn, config_.mlp_bias);
  }

 private:
  void Norm(const char* ours, int64_t size) {
    const std::string name = absl::StrCat(ours_, ours, ".weight");
    tensors_.push_back({.kind = ModelTensor::Kind::kVector,
                        .name = name,
                        .gguf_name = GgufTensorName(name),
                        .cols = size});
  }
  void Linear(const char* ours, int64_t rows, int64_t cols, bool bias, int64_t rotated_heads = 0) {
    const std::string name = absl::StrCat(ours_, ours);
    const std::string gguf_name = GgufTensorName(name);
    tensors_.push_back({.kind = ModelTensor::Kind::kTernary,
                        .name = name,
                        .gguf_name = gguf_name + ".weight",
                        .rows = rows,
                        .cols = cols,
                        .rotated_heads = rotated_heads});
    if (bias) {
      tensors_.push_back({.kind = ModelTensor::Kind::kVector,
                          .name = name + ".bias",
                          .gguf_name = gguf_name + ".bias",
                          .cols = rows,
                          .rotated_heads = rotated_heads});
    }
    if (config_.linear_rms_norm) {
      tensors_.push_back({.kind = ModelTensor::Kind::kVector,
                          .name = name + ".rms_norm.weight",
                          .gguf_name = "",
                          .cols = cols});
    }
  }

  const ModelConfig& config_;
  std::vector<ModelTensor>& tensors_;
  std::string ours_;
};

ModelTensor Matrix(const char* name, const ModelConfig& config) {
  return {.kind = ModelTensor::Kind::kMatrix,
          .name = name,
          .gguf_name = GgufTensorName(name),
          .rows = config.vocab_size,
          .cols = config.hidden_size};
}

}  // namespace

std::vector<ModelTensor> TensorsOf(const ModelConfig& config) {
  std::vector<ModelTensor> tensors;
  tensors.push_back(Matrix(kEmbeddingName, config));
  Lister lister(config, tensors);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) lister.Layer(layer);
  tensors.push_back({.kind = ModelTensor::Kind::kVector,
                     .name = kFinalNormName,
                     .gguf_name = GgufTensorName(kFinalNormName),
                     .cols = config.hidden_size});
  if (!config.tie_embeddings) {
    tensors.push_back(Matrix(kHeadName, config));
  }
  return tensors;
}

}  // namespace sterna
