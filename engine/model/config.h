// What a checkpoint's config.json says of a model, checked and in the engine's terms.
// Plain data; immutable once loaded.
#ifndef STERNA_ENGINE_MODEL_CONFIG_H_
#define STERNA_ENGINE_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "kernels/ops.h"

namespace sterna {

// How a checkpoint stores its ternary weights (docs/formats.md).
enum class CheckpointFamily {
  kBitNetPacked,  // A: U8 packed, weight_scale multiplies (autobitlinear, offline)
  kBitNetLatent,  // A': BF16 latent weights, quantised at load (autobitlinear, online)
  kBitLinear,     // B: U8 packed, weight_scale divides (bitlinear)
  kInnerNorms,    // C: F16 or F32 latent weights, quantised at load (weight_bits 1, input_bits 8)
  kUnpacked,      // D: F16, BF16 or F32 values that are ternary already (no quantization_config)
  kGrouped,       // E: the same in groups of columns, embedding and head too (model_type qwen3)
};

// "A", "A'", "B", "C", "D", "E": how docs and messages call them. Of a GGUF file the one whose
// architecture it has; its weights are ternary whatever the family's are on disk.
std::string_view FamilyName(CheckpointFamily family);

enum class RopeScaling { kNone, kLinear, kLlama3, kYarn };

struct RopeConfig {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;                 // kLinear, kLlama3, kYarn
  double low_freq_factor = 1.0;        // kLlama3
  double high_freq_factor = 4.0;       // kLlama3
  int64_t original_max_positions = 0;  // kLlama3, kYarn
  // kYarn (Peng et al. 2023, arXiv:2309.00071): pairs that turn more than beta_fast times over the
  // original positions stay as they are, those below beta_slow are stretched.
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;           // the pairs where this begins and ends are whole numbers
  double attention_factor = 1.0;  // cos and sin are multiplied by it
  // What the frequencies are divided by besides, [head_dim / 2] or empty: GGUF files may list it.
  std::vector<float> frequency_divisors;

  // Radians per position of each rotated pair, [head_dim / 2].
  std::vector<double> InverseFrequencies(int64_t head_dim) const;
};

struct ModelConfig {
  CheckpointFamily family = CheckpointFamily::kBitLinear;
  std::string model_type;  // as config.json says: "bitnet", "llama", "qwen3"
  int64_t hidden_size = 0;
  int64_t ffn_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int64_t vocab_size = 0;
  int64_t max_positions = 0;  // tokens of prompt and output together
  double rms_norm_eps = 1e-5;
  Activation activation = Activation::kSilu;
  RopeConfig rope;
  bool tie_embeddings = false;
  bool attention_bias = false;   // q, k, v and o have biases
  bool mlp_bias = false;         // gate, up and down have biases
  bool linear_rms_norm = false;  // `use_rms_norm`: every ternary linear has its own input norm,
  double linear_rms_norm_eps = 1e-6;  // with this eps, not rms_norm_eps
  bool qk_norm = false;               // an RMSNorm over each head of q and of k before rotation
  // Columns that share a scale, of weights and with them of activations; 0: weights have one scale
  // for a tensor or a row, activations one for a token. Known when the weights are loaded
  // (scale_groups.h).
  int64_t scale_group_size = 0;
  // Generation ends on these: the union of config, generation config and tokenizer config.
  std::vector<int32_t> eos_token_ids;

  // Whether each layer has two more norms, in front of o_proj and of down_proj: the sub-norms of
  // model_type bitnet, which family C calls inner_attn_ln and ffn_layernorm.
  bool has_sub_norms() const {
    return model_type == "bitnet" || family == CheckpointFamily::kInnerNorms;
  }
};

// Reads config.json (and generation_config.json, tokenizer_config.json where present for the stop
// tokens). Errors name the file, the field, its value and what would be right.
StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_CONFIG_H_
