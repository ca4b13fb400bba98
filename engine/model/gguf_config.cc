#include "engine/model/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/gguf_blocks.h"
#include "engine/model/json_text.h"
#include "engine/text/gguf_vocabulary.h"

namespace sterna {
namespace {

struct Architecture {
  std::string_view name;
  CheckpointFamily family;
  std::string_view model_type;
  Activation activation;
};
constexpr Architecture kArchitectures[] = {
    // What 1bitLLM's models became in the main line.
    {"bitnet", CheckpointFamily::kInnerNorms, "llama", Activation::kSilu},
    {"bitnet-25", CheckpointFamily::kBitNetPacked, "bitnet", Activation::kReluSquared},
    {"bitnet-b1.58", CheckpointFamily::kBitNetPacked, "bitnet", Activation::kReluSquared},
    {"llama", CheckpointFamily::kBitLinear, "llama", Activation::kSilu},
    {"qwen3", CheckpointFamily::kGrouped, "qwen3", Activation::kSilu},
};

// Keys of one architecture, with bounds. Errors name file and key.
class Keys {
 public:
  Keys(const GgufCheckpoint& checkpoint, std::string prefix)
      : metadata_(checkpoint.metadata()),
        file_(checkpoint.files()[0].path()),
        prefix_(std::move(prefix)) {}

  std::string Name(std::string_view key) const {
    return absl::StrCat(prefix_, ".", std::string(key));
  }
  bool Has(std::string_view key) const { return metadata_.Find(Name(key)) != nullptr; }

  Status Error(std::string_view key, const std::string& value, const std::string& wanted) const {
    return absl::InvalidArgumentError(
        absl::StrCat(file_, ": metadata '", Name(key), "' is ", value, ", but ", wanted));
  }
  Status Unsupported(std::string_view key, double value, const std::string& supported) const {
    return absl::UnimplementedError(absl::StrCat(file_, ": metadata '", Name(key), "' is ", value,
                                                 ", but only ", supported, " is supported"));
  }
  StatusOr<int64_t> Int(std::string_view key, int64_t min, int64_t max) const {
    STERNA_ASSIGN_OR_RETURN(const int64_t value, IntOfAllLayers(key));
    if (value >= min && value <= max) return value;
    return Error(key, absl::StrCat(value), absl::StrCat("must be from ", min, " to ", max));
  }
  StatusOr<int64_t> IntOr(std::string_view key, int64_t absent, int64_t min, int64_t max) const {
    if (!Has(key)) return absent;
    return Int(key, min, max);
  }
  StatusOr<double> FloatOr(std::string_view key, double absent) const {
    if (!Has(key)) return absent;
    return metadata_.Float(Name(key));
  }
  // A number above zero and at most `max`.
  StatusOr<double> PositiveOr(std::string_view key, double absent, double max) const {
    if (!Has(key)) return absent;
    STERNA_ASSIGN_OR_RETURN(const double value, metadata_.Float(Name(key)));
    if (value > 0 && value <= max) return value;
    return Error(key, absl::StrCat(value), absl::StrCat("must be above 0 and at most ", max));
  }
  StatusOr<std::string> StringOr(std::string_view key, std::string_view absent) const {
    if (!Has(key)) return std::string(absent);
    STERNA_ASSIGN_OR_RETURN(const std::string_view value, metadata_.String(Name(key)));
    return std::string(value);
  }

 private:
  // Some writers give a number for each layer, which must then be the same for all.
  StatusOr<int64_t> IntOfAllLayers(std::string_view key) const {
    const GgufValue* value = metadata_.Find(Name(key));
    if (value == nullptr || value->type != GgufValueType::kArray)
      return metadata_.Integer(Name(key));
    STERNA_ASSIGN_OR_RETURN(const std::vector<int64_t> all, metadata_.Integers(Name(key)));
    if (all.empty() || std::ranges::adjacent_find(all, std::not_equal_to<>()) != all.end()) {
      return Error(key, value->Description(), "layers that differ are not supported");
    }
    return all[0];
  }

  const GgufMetadata& metadata_;
  std::string file_;
  std::string prefix_;
};

StatusOr<Architecture> ReadArchitecture(const GgufCheckpoint& checkpoint) {
  STERNA_ASSIGN_OR_RETURN(const std::string_view name,
                          checkpoint.metadata().String("general.architecture"));
  std::vector<std::string> known;
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return architecture;
    known.emplace_back(architecture.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(checkpoint.files()[0].path(), ": metadata 'general.architecture' is '",
                   Shown(name), "'; supported: ", absl::StrJoin(known, ", ")));
}

Status ReadSizes(const Keys& keys, const GgufCheckpoint& checkpoint, ModelConfig& config) {
  constexpr int64_t kMaxWidth = 1 << 20;
  STERNA_ASSIGN_OR_RETURN(config.hidden_size, keys.Int("embedding_length", 1, kMaxWidth));
  STERNA_ASSIGN_OR_RETURN(config.ffn_size, keys.Int("feed_forward_length", 1, kMaxWidth));
  STERNA_ASSIGN_OR_RETURN(config.num_layers, keys.Int("block_count", 1, 1024));
  STERNA_ASSIGN_OR_RETURN(config.num_heads, keys.Int("attention.head_count", 1, 4096));
  STERNA_ASSIGN_OR_RETURN(config.num_kv_heads, keys.IntOr("attention.head_count_kv",
                                                          config.num_heads, 1, config.num_heads));
  STERNA_ASSIGN_OR_RETURN(config.max_positions, keys.Int("context_length", 1, INT32_MAX));
  STERNA_ASSIGN_OR_RETURN(config.rms_norm_eps,
                          keys.PositiveOr("attention.layer_norm_rms_epsilon", 0, 1));
  if (config.rms_norm_eps == 0) {
    return keys.Error("attention.layer_norm_rms_epsilon", "missing", "norms need it");
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return keys.Error("attention.head_count_kv", absl::StrCat(config.num_kv_heads),
                      absl::StrCat("must divide attention.head_count, ", config.num_heads));
  }
  if (!keys.Has("attention.key_length") && config.hidden_size % config.num_heads != 0) {
    return keys.Error("attention.head_count", absl::StrCat(config.num_heads),
                      absl::StrCat("must divide embedding_length, ", config.hidden_size,
                                   ", where there is no attention.key_length"));
  }
  STERNA_ASSIGN_OR_RETURN(
      config.head_dim,
      keys.IntOr("attention.key_length", config.hidden_size / config.num_heads, 2, 4096));
  STERNA_ASSIGN_OR_RETURN(const int64_t value_length,
                          keys.IntOr("attention.value_length", config.head_dim, 1, 4096));
  if (config.head_dim % 2 != 0 || value_length != config.head_dim) {
    return keys.Error(
        "attention.key_length", absl::StrCat(config.head_dim),
        absl::StrCat("must be even, and attention.value_length, ", value_length, ", the same"));
  }
  const GgufTensor* embedding = checkpoint.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::NotFoundError(
        absl::StrCat(checkpoint.files()[0].path(), " lacks the matrix 'token_embd.weight'"));
  }
  STERNA_ASSIGN_OR_RETURN(config.vocab_size,
                          keys.IntOr("vocab_size", embedding->shape[0], 1, 1 << 24));
  return absl::OkStatus();
}

// What would be another model than the one computed.
Status RefuseOthers(const Keys& keys, const ModelConfig& config) {
  STERNA_ASSIGN_OR_RETURN(const int64_t experts, keys.IntOr("expert_count", 0, 0, INT32_MAX));
  if (experts != 0) {
    return keys.Error("expert_count", absl::StrCat(experts),
                      "mixtures of experts are not supported");
  }
  STERNA_ASSIGN_OR_RETURN(const int64_t window,
                          keys.IntOr("attention.sliding_window", 0, 0, INT32_MAX));
  if (window != 0 && window < config.max_positions) {
    return keys.Error("attention.sliding_window", absl::StrCat(window),
                      "sliding windows are not supported");
  }
  STERNA_ASSIGN_OR_RETURN(const int64_t rotated,
                          keys.IntOr("rope.dimension_count", config.head_dim, 1, 4096));
  if (rotated != config.head_dim) {
    return keys.Error("rope.dimension_count", absl::StrCat(rotated),
                      absl::StrCat("only whole heads, of ", config.head_dim, ", are rotated"));
  }
  for (const char* key : {"logit_scale", "residual_scale", "embedding_scale", "attention.scale"}) {
    STERNA_ASSIGN_OR_RETURN(const double scale, keys.PositiveOr(key, 1, 1e6));
    if (scale != 1) return keys.Error(key, absl::StrCat(scale), "only 1 is supported");
  }
  return absl::OkStatus();
}

// The divisors that llama.cpp's converter writes for RopeScaling::kLlama3 of `rope`, in its
// arithmetic (double, rounded to float at the end).
std::vector<float> Llama3Divisors(const RopeConfig& rope, int64_t head_dim) {
  RopeConfig plain;
  plain.theta = rope.theta;
  const std::vector<double> from = plain.InverseFrequencies(head_dim);
  const std::vector<double> to = rope.InverseFrequencies(head_dim);
  std::vector<float> divisors(from.size());
  for (size_t i = 0; i < from.size(); ++i) divisors[i] = static_cast<float>(from[i] / to[i]);
  return divisors;
}

// `rope_freqs.weight`. Those of Llama 3 are recognised, so that the frequencies are those of
// config.json to the last bit: in the file they are rounded to float. With another scaling besides
// they are divisors like any: what config.json says has one scaling.
Status ReadDivisors(const GgufCheckpoint& checkpoint, ModelConfig& config) {
  const GgufTensor* tensor = checkpoint.Find("rope_freqs.weight");
  if (tensor == nullptr) return absl::OkStatus();
  if (tensor->rows != 1 || tensor->cols != config.head_dim / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor->Where(), "is ", tensor->type_name, " ", tensor->ShapeString(),
                     ", but the metadata imply [", config.head_dim / 2, "]"));
  }
  std::vector<float> divisors(static_cast<size_t>(tensor->cols));
  STERNA_RETURN_IF_ERROR(DequantizeGgufRow(*tensor, 0, divisors));
  for (const float divisor : divisors) {
    if (std::isfinite(divisor) && divisor > 0) continue;
    return absl::DataLossError(
        absl::StrCat(tensor->Where(), "holds ", divisor, ", but must be finite and above zero"));
  }
  if (std::ranges::all_of(divisors, [](float divisor) { return divisor == 1; })) {
    return absl::OkStatus();
  }
  RopeConfig llama3 = config.rope;
  llama3.scaling = RopeScaling::kLlama3;
  llama3.factor = *std::ranges::max_element(divisors);
  llama3.low_freq_factor = 1;
  llama3.high_freq_factor = 4;
  llama3.original_max_positions = 8192;
  const std::vector<float> known = Llama3Divisors(llama3, config.head_dim);
  const bool is_llama3 = std::ranges::equal(divisors, known, [](float a, float b) {
    return std::abs(a - b) <= 4e-7f * b;  // converters differ in the last bit
  });
  if (is_llama3 && config.rope.scaling == RopeScaling::kNone) {
    config.rope = std::move(llama3);
  } else {
    config.rope.frequency_divisors = std::move(divisors);
  }
  return absl::OkStatus();
}

// How much further than in training positions reach. Old files have it as `rope.scale_linear`,
// whatever the type, and some have 0 for none.
StatusOr<double> ReadRopeFactor(const Keys& keys) {
  const char* key = keys.Has("rope.scaling.factor") ? "rope.scaling.factor" : "rope.scale_linear";
  STERNA_ASSIGN_OR_RETURN(const double factor, keys.FloatOr(key, 0));
  if (factor == 0) return 1;
  return keys.PositiveOr(key, 1, 1e6);
}

// Variants of yarn, and what some architectures have cos and sin multiplied by, that RopeConfig
// does not have or that readers disagree on.
Status RefuseRopeVariants(const Keys& keys, bool yarn) {
  // 1 is yarn, 0 none of it, and below zero the one that the type says.
  constexpr char kExtension[] = "rope.scaling.yarn_ext_factor";
  const double usual = yarn ? 1 : 0;
  STERNA_ASSIGN_OR_RETURN(const double extension, keys.FloatOr(kExtension, usual));
  if (extension != usual && !(extension < 0)) {
    return keys.Unsupported(kExtension, extension, absl::StrCat(usual, " or less than 0"));
  }
  struct Variant {
    const char* key;
    double usual;
  };
  constexpr Variant kVariants[] = {{"rope.scaling.yarn_attn_factor", 1},
                                   {"rope.scaling.yarn_log_multiplier", 0},
                                   {"rope.scaling.attn_factor", 1}};
  // Of yarn the last is read.
  for (const Variant& variant : std::span(kVariants).first(yarn ? 2 : 3)) {
    STERNA_ASSIGN_OR_RETURN(const double value, keys.FloatOr(variant.key, variant.usual));
    if (value == variant.usual) continue;
    return keys.Unsupported(variant.key, value, absl::StrCat(variant.usual));
  }
  return absl::OkStatus();
}

// But for the factor. What the file leaves out is as llama.cpp computes it, and Transformers.
Status ReadYarn(const Keys& keys, int64_t max_positions, RopeConfig& rope) {
  rope.scaling = RopeScaling::kYarn;
  STERNA_ASSIGN_OR_RETURN(
      rope.original_max_positions,
      keys.IntOr("rope.scaling.original_context_length", max_positions, 0, INT32_MAX));
  if (rope.original_max_positions == 0) rope.original_max_positions = max_positions;
  if (!(rope.theta > 1)) {
    return keys.Error("rope.freq_base", absl::StrCat(rope.theta), "must be above 1 for yarn");
  }
  STERNA_ASSIGN_OR_RETURN(rope.beta_fast, keys.PositiveOr("rope.scaling.yarn_beta_fast", 32, 1e6));
  STERNA_ASSIGN_OR_RETURN(rope.beta_slow, keys.PositiveOr("rope.scaling.yarn_beta_slow", 1, 1e6));
  STERNA_ASSIGN_OR_RETURN(const double given, keys.PositiveOr("rope.scaling.attn_factor", 1, 1e6));
  rope.attention_factor = given * (rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1);
  return absl::OkStatus();
}

Status ReadRope(const Keys& keys, const GgufCheckpoint& checkpoint, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  STERNA_ASSIGN_OR_RETURN(rope.theta, keys.PositiveOr("rope.freq_base", 10000, 1e15));
  STERNA_ASSIGN_OR_RETURN(const std::string type, keys.StringOr("rope.scaling.type", "linear"));
  if (type != "none" && type != "linear" && type != "yarn") {
    return keys.Error("rope.scaling.type", absl::StrCat("'", Shown(type), "'"),
                      "supported: none, linear, yarn");
  }
  STERNA_RETURN_IF_ERROR(RefuseRopeVariants(keys, type == "yarn"));
  if (type != "none") {
    STERNA_ASSIGN_OR_RETURN(rope.factor, ReadRopeFactor(keys));
  }
  if (type == "linear" && rope.factor != 1) rope.scaling = RopeScaling::kLinear;
  if (type == "yarn") STERNA_RETURN_IF_ERROR(ReadYarn(keys, config.max_positions, rope));
  return ReadDivisors(checkpoint, config);
}

// Whether any layer has a bias of one of `linears`. Llama has them or not one by one; those that
// are missing where others are there are zeros (GgufSource::Vector).
bool HasBias(const GgufCheckpoint& checkpoint, int64_t num_layers,
             std::initializer_list<const char*> linears) {
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    for (const char* linear : linears) {
      if (checkpoint.Find(absl::StrCat("blk.", layer, ".", linear, ".bias"))) return true;
    }
  }
  return false;
}

// None for a file without a tokenizer, which can be computed with all the same.
Status ReadEndTokens(const GgufCheckpoint& checkpoint, ModelConfig& config) {
  const GgufMetadata& metadata = checkpoint.metadata();
  if (metadata.Find(gguf_keys::kTokens) == nullptr) return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(config.eos_token_ids, ReadGgufEndTokenIds(metadata));
  for (const int32_t id : config.eos_token_ids) {
    if (id < config.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(checkpoint.files()[0].path(), ": the tokenizer's metadata name the end token ",
                     id, ", but the model's vocabulary has ", config.vocab_size, " tokens"));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<ModelConfig> ReadGgufConfig(const GgufCheckpoint& checkpoint) {
  STERNA_ASSIGN_OR_RETURN(const Architecture architecture, ReadArchitecture(checkpoint));
  const Keys keys(checkpoint, std::string(architecture.name));
  ModelConfig config;
  config.family = architecture.family;
  config.model_type = architecture.model_type;
  config.activation = architecture.activation;
  config.qk_norm = architecture.name == "qwen3";
  STERNA_RETURN_IF_ERROR(ReadSizes(keys, checkpoint, config));
  STERNA_RETURN_IF_ERROR(RefuseOthers(keys, config));
  STERNA_RETURN_IF_ERROR(ReadRope(keys, checkpoint, config));
  config.tie_embeddings = checkpoint.Find("output.weight") == nullptr;
  config.attention_bias =
      HasBias(checkpoint, config.num_layers, {"attn_q", "attn_k", "attn_v", "attn_output"});
  config.mlp_bias = HasBias(checkpoint, config.num_layers, {"ffn_gate", "ffn_up", "ffn_down"});
  STERNA_RETURN_IF_ERROR(ReadEndTokens(checkpoint, config));
  return config;
}

}  // namespace sterna
