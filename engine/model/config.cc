#include "engine/model/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <set>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/model/config_fields.h"
#include "engine/model/json_text.h"
#include "nlohmann/json.hpp"

namespace sterna {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxConfigBytes = 1 << 20;
constexpr int64_t kMaxTokenizerBytes = 256 << 20;

// Reads `path` as one JSON object. Keys of the top object for which `wanted` is false are dropped
// while parsing: a tokenizer.json has megabytes of vocabulary that nobody here looks at.
StatusOr<Json> ReadJsonObject(const std::string& path, int64_t max_bytes,
                              const std::function<bool(const std::string&)>& wanted = nullptr) {
  STERNA_ASSIGN_OR_RETURN(const std::string text, ReadJsonText(path, max_bytes));
  const auto filter = [&wanted](int depth, Json::parse_event_t event, Json& parsed) {
    return event != Json::parse_event_t::key || depth != 1 || wanted == nullptr ||
           wanted(parsed.get_ref<const std::string&>());
  };
  Json value = Json::parse(text, filter, /*allow_exceptions=*/false);
  if (!value.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a JSON object"));
  }
  return value;
}

// What a config of family C has and no other: the bits of its linears, or its architecture, which
// differs from that of family A (BitNetForCausalLM) in one capital letter.
constexpr char kFamilyCArchitecture[] = "BitnetForCausalLM";

bool HasSignsOfFamilyC(const Fields& fields) {
  const Json* architectures = fields.Find("architectures");
  return fields.Has("weight_bits") || fields.Has("input_bits") ||
         (architectures != nullptr && architectures->is_array() &&
          std::ranges::find(*architectures, kFamilyCArchitecture) != architectures->end());
}

// All signs of family C have to agree.
Status ReadFamilyC(const Fields& fields, ModelConfig& config) {
  config.family = CheckpointFamily::kInnerNorms;
  const Json* architectures = fields.Find("architectures");
  if (architectures != nullptr && *architectures != Json::array({kFamilyCArchitecture})) {
    return fields.Error("architectures", absl::StrCat("weight_bits and input_bits are those of [\"",
                                                      kFamilyCArchitecture, "\"] (family C)"));
  }
  // Its published configs do not use a model type of their own.
  STERNA_ASSIGN_OR_RETURN(config.model_type, fields.Choice("model_type", {"llama"}));
  const Json* weight_bits = fields.Find("weight_bits");
  if (weight_bits == nullptr || *weight_bits != 1) {
    return fields.Error("weight_bits", "must be 1: family C has ternary weights");
  }
  const Json* input_bits = fields.Find("input_bits");
  if (input_bits == nullptr || *input_bits != 8) {
    return fields.Error("input_bits", "must be 8: family C quantises activations to int8");
  }
  if (fields.Has("quantization_config")) {
    return fields.Error("quantization_config",
                        "weight_bits says family C, which has latent weights and none of that");
  }
  return absl::OkStatus();
}

// Refuses what looks like a ternary model of a kind that is not loaded yet, by its own name, before
// the checks of single fields would complain of something beside the point.
Status CheckKind(const Fields& fields, const std::string& path) {
  constexpr char kLoaded[] =
      "; loaded are the packed and latent BitNet families A and A' (model_type bitnet), B "
      "(model_type llama with quant_method bitnet), C (BitnetForCausalLM with weight_bits 1), D "
      "(model_type llama without quantization_config) and E (model_type qwen3 without it)";
  const auto refuse = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, " describes ", what, kLoaded));
  };
  STERNA_ASSIGN_OR_RETURN(const std::string model_type,
                          fields.Choice("model_type", {"bitnet", "llama", "qwen3"}));
  const Json* quantization = fields.Find("quantization_config");
  if (quantization == nullptr && model_type == "bitnet") {
    return refuse("a model of model_type bitnet without quantization_config");
  }
  if (quantization != nullptr && model_type == "qwen3") {
    return refuse("a model of model_type qwen3 with quantization_config");
  }
  if (quantization != nullptr && !quantization->is_object()) {
    return fields.Error("quantization_config", "must be an object");
  }
  return absl::OkStatus();
}

// What model_type qwen3 has and others do not.
Status ReadQwen3(const Fields& fields, ModelConfig& config) {
  config.qk_norm = true;
  for (const char* required : {"head_dim", "num_key_value_heads"}) {
    if (!fields.Has(required)) return fields.Error(required, "model_type qwen3 requires it");
  }
  STERNA_ASSIGN_OR_RETURN(const bool sliding, fields.BoolOr("use_sliding_window", false));
  if (sliding) return fields.Error("use_sliding_window", "sliding windows are not supported");
  const Json* types = fields.Find("layer_types");
  if (types != nullptr && *types != Json(Json::array_t(config.num_layers, "full_attention"))) {
    return fields.Error("layer_types", "supported: full_attention for every layer");
  }
  if (config.mlp_bias) return fields.Error("mlp_bias", "model_type qwen3 has no such biases");
  return absl::OkStatus();
}

// modules_to_not_convert: only the projections of the layers are ternary, so that lists which name
// other modules (tools write the head, with tied embeddings those and the last norm, too) all mean
// this. One that keeps a projection dense, or makes the head ternary by leaving it out, would be a
// different model; of an empty one nothing is known to leave it out.
Status CheckKeptModules(const Fields& quant) {
  constexpr std::string_view kDense[] = {"lm_head", "model.embed_tokens", "embed_tokens",
                                         "model.norm", "norm"};
  const Json* kept = quant.Find("modules_to_not_convert");
  if (kept == nullptr) return absl::OkStatus();
  bool head = false;
  bool known = kept->is_array();
  for (size_t i = 0; known && i < kept->size(); ++i) {
    const Json& module = (*kept)[i];
    known = module.is_string() &&
            std::ranges::find(kDense, module.get_ref<const std::string&>()) != std::end(kDense);
    head = head || module == "lm_head";
  }
  if (known && head) return absl::OkStatus();
  return quant.Error("modules_to_not_convert",
                     "supported: null, or a list with \"lm_head\" and of the others at most "
                     "\"model.embed_tokens\" and \"model.norm\", which are dense in any case");
}

// Families A, A' and B.
Status ReadQuantization(const Fields& quant, ModelConfig& config) {
  STERNA_RETURN_IF_ERROR(quant.Choice("quant_method", {"bitnet"}).status());
  STERNA_ASSIGN_OR_RETURN(
      const std::string linear_class,
      quant.Choice("linear_class", {"bitlinear", "autobitlinear"}, "bitlinear"));
  STERNA_ASSIGN_OR_RETURN(const std::string mode,
                          quant.Choice("quantization_mode", {"offline", "online"}, "offline"));
  if (linear_class == "autobitlinear") {
    config.family =
        mode == "online" ? CheckpointFamily::kBitNetLatent : CheckpointFamily::kBitNetPacked;
  } else {
    if (mode == "online") {
      return quant.Error("quantization_mode",
                         "latent weights need linear_class autobitlinear; bitlinear is packed");
    }
    config.family = CheckpointFamily::kBitLinear;
  }
  STERNA_ASSIGN_OR_RETURN(config.linear_rms_norm, quant.BoolOr("use_rms_norm", false));
  if (config.has_sub_norms() && config.linear_rms_norm) {
    return quant.Error("use_rms_norm",
                       "model_type bitnet has sub-norms before o_proj and down_proj; a second norm "
                       "in the same place is not supported");
  }
  STERNA_ASSIGN_OR_RETURN(config.linear_rms_norm_eps, quant.PositiveOr("rms_norm_eps", 1e-6, 1));
  return CheckKeptModules(quant);
}

Status ReadSizes(const Fields& fields, ModelConfig& config) {
  constexpr int64_t kMaxWidth = 1 << 20;
  STERNA_ASSIGN_OR_RETURN(config.hidden_size, fields.Int("hidden_size", 1, kMaxWidth));
  STERNA_ASSIGN_OR_RETURN(config.ffn_size, fields.Int("intermediate_size", 1, kMaxWidth));
  STERNA_ASSIGN_OR_RETURN(config.num_layers, fields.Int("num_hidden_layers", 1, 1024));
  STERNA_ASSIGN_OR_RETURN(config.num_heads, fields.Int("num_attention_heads", 1, 4096));
  STERNA_ASSIGN_OR_RETURN(config.num_kv_heads, fields.IntOr("num_key_value_heads", config.num_heads,
                                                            1, config.num_heads));
  STERNA_ASSIGN_OR_RETURN(config.vocab_size, fields.Int("vocab_size", 1, 1 << 24));
  STERNA_ASSIGN_OR_RETURN(config.max_positions,
                          fields.Int("max_position_embeddings", 1, INT32_MAX));
  STERNA_ASSIGN_OR_RETURN(config.rms_norm_eps, fields.Positive("rms_norm_eps", 1));
  if (config.num_heads % config.num_kv_heads != 0) {
    return fields.Error("num_key_value_heads",
                        absl::StrCat("must divide num_attention_heads, ", config.num_heads));
  }
  if (fields.Has("head_dim")) {
    STERNA_ASSIGN_OR_RETURN(config.head_dim, fields.Int("head_dim", 2, 4096));
  } else if (config.hidden_size % config.num_heads != 0) {
    return fields.Error("num_attention_heads",
                        absl::StrCat("must divide hidden_size, ", config.hidden_size,
                                     ", where there is no head_dim"));
  } else {
    config.head_dim = config.hidden_size / config.num_heads;
  }
  if (config.head_dim % 2 != 0) {
    return fields.Error("head_dim", absl::StrCat("the head size, ", config.head_dim,
                                                 ", must be even: rotary embedding turns pairs"));
  }
  return absl::OkStatus();
}

// `original_max_position_embeddings`, of the object or beside it.
StatusOr<int64_t> ReadOriginalPositions(const Fields& fields, const Fields& rope) {
  constexpr char kName[] = "original_max_position_embeddings";
  if (rope.Has(kName) && fields.Has(kName) && *rope.Find(kName) != *fields.Find(kName)) {
    return rope.Error(kName, "the field of this name outside says something else");
  }
  return (rope.Has(kName) ? rope : fields).Int(kName, 1, INT32_MAX);
}

Status ReadLlama3Rope(const Fields& fields, const Fields& rope, RopeConfig& config) {
  config.scaling = RopeScaling::kLlama3;
  STERNA_ASSIGN_OR_RETURN(config.low_freq_factor, rope.Positive("low_freq_factor", 1e6));
  STERNA_ASSIGN_OR_RETURN(config.high_freq_factor, rope.Positive("high_freq_factor", 1e6));
  if (!(config.low_freq_factor < config.high_freq_factor)) {
    return rope.Error("high_freq_factor",
                      absl::StrCat("must be above low_freq_factor, ", config.low_freq_factor));
  }
  STERNA_ASSIGN_OR_RETURN(config.original_max_positions, ReadOriginalPositions(fields, rope));
  return absl::OkStatus();
}

Status ReadYarnRope(const Fields& fields, const Fields& rope, RopeConfig& config) {
  config.scaling = RopeScaling::kYarn;
  STERNA_ASSIGN_OR_RETURN(config.original_max_positions, ReadOriginalPositions(fields, rope));
  STERNA_ASSIGN_OR_RETURN(config.beta_fast, rope.PositiveOr("beta_fast", 32, 1e6));
  STERNA_ASSIGN_OR_RETURN(config.beta_slow, rope.PositiveOr("beta_slow", 1, 1e6));
  if (config.beta_fast < config.beta_slow) {
    return rope.Error("beta_fast",
                      absl::StrCat("must be no less than beta_slow, ", config.beta_slow));
  }
  STERNA_ASSIGN_OR_RETURN(config.truncate, rope.BoolOr("truncate", true));
  if (!(config.theta > 1)) {
    return (rope.Has("rope_theta") ? rope : fields).Error("rope_theta", "must be above 1 for yarn");
  }
  STERNA_ASSIGN_OR_RETURN(const double mscale, rope.PositiveOr("mscale", 0, 1e6));
  STERNA_ASSIGN_OR_RETURN(const double all_dim, rope.PositiveOr("mscale_all_dim", 0, 1e6));
  const auto attention_factor = [&](double scale) {
    return config.factor <= 1 ? 1.0 : 0.1 * scale * std::log(config.factor) + 1.0;
  };
  const double absent = mscale > 0 && all_dim > 0
                            ? attention_factor(mscale) / attention_factor(all_dim)
                            : attention_factor(1);
  STERNA_ASSIGN_OR_RETURN(config.attention_factor,
                          rope.PositiveOr("attention_factor", absent, 1e6));
  return absl::OkStatus();
}

// rope_theta with rope_scaling (or null), or both in one `rope_parameters` object, as configs have
// it since Transformers 5.
Status ReadRope(const Fields& fields, const std::string& path, ModelConfig& config) {
  const Json* parameters = fields.Find("rope_parameters");
  const Json* scaling = fields.Find("rope_scaling");
  if (parameters != nullptr && scaling != nullptr && *parameters != *scaling) {
    return fields.Error("rope_scaling", "rope_parameters is there too and says something else");
  }
  const std::string name = parameters != nullptr ? "rope_parameters" : "rope_scaling";
  const Json none = Json::object();
  const Json& object = parameters != nullptr ? *parameters : scaling != nullptr ? *scaling : none;
  if (!object.is_object()) return fields.Error(name, "must be an object or null");
  const Fields rope(object, path, name + ".");

  const double default_theta = config.model_type == "bitnet" ? 500000.0 : 10000.0;
  const Fields& theta_owner = rope.Has("rope_theta") ? rope : fields;
  STERNA_ASSIGN_OR_RETURN(config.rope.theta,
                          theta_owner.PositiveOr("rope_theta", default_theta, 1e15));
  for (const Fields* owner : {&fields, &rope}) {
    const Json* partial = owner->Find("partial_rotary_factor");
    if (partial != nullptr && *partial != 1.0) {
      return owner->Error("partial_rotary_factor", "only 1 (whole heads rotated) is supported");
    }
  }
  STERNA_ASSIGN_OR_RETURN(const bool interleaved, fields.BoolOr("rope_interleaved", false));
  if (interleaved) return fields.Error("rope_interleaved", "only rotate-half order is supported");

  const std::string type_key = rope.Has("rope_type") ? "rope_type" : "type";
  if (object.empty() || (parameters != nullptr && !rope.Has(type_key))) return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(const std::string type,
                          rope.Choice(type_key, {"default", "linear", "llama3", "yarn"}));
  if (type == "default") return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(config.rope.factor, rope.Positive("factor", 1e6));
  if (type == "llama3") return ReadLlama3Rope(fields, rope, config.rope);
  if (type == "yarn") return ReadYarnRope(fields, rope, config.rope);
  config.rope.scaling = RopeScaling::kLinear;
  return absl::OkStatus();
}

// Refuses what no published checkpoint combines and what would therefore be guessed.
Status CheckCombinations(const Fields& fields, const ModelConfig& config) {
  if (config.has_sub_norms() && config.mlp_bias) {
    return fields.Error("mlp_bias",
                        "the feed-forward part of a model with sub-norms (model_type bitnet, or "
                        "family C) has no biases");
  }
  // Trained, the bias is added to the scaled product; Transformers' inference scales it too.
  if (config.family == CheckpointFamily::kBitNetPacked &&
      (config.attention_bias || config.mlp_bias)) {
    return fields.Error(config.attention_bias ? "attention_bias" : "mlp_bias",
                        "packed autobitlinear weights (family A) with biases are not supported: "
                        "whether weight_scale covers the bias is not defined");
  }
  return absl::OkStatus();
}

// Adds the ids of `eos_token_id`: an integer or a list of them.
Status AddEosIds(const Fields& fields, int64_t vocab_size, std::set<int32_t>& ids) {
  const Json* value = fields.Find("eos_token_id");
  if (value == nullptr || *value == -1) return absl::OkStatus();  // some tools write none so
  const Json list = value->is_array() ? *value : Json::array({*value});
  for (const Json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) {
      return fields.Error("eos_token_id", absl::StrCat("must be a token id from 0 to ",
                                                       vocab_size - 1, ", or a list of them"));
    }
    ids.insert(id.get<int32_t>());
  }
  return absl::OkStatus();
}

// The spelling of an added token: "</s>" or {"content": "</s>", ...}; empty when it is neither.
std::string TokenSpelling(const Json& token) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return token["content"].get<std::string>();
  }
  return "";
}

// The id of `spelling` among the added tokens that tokenizer_config.json or tokenizer.json lists;
// -1 when neither does.
StatusOr<int64_t> AddedTokenId(const std::string& spelling, const Json& tokenizer_config,
                               const std::string& model_dir) {
  const auto decoder = tokenizer_config.find("added_tokens_decoder");
  if (decoder != tokenizer_config.end() && decoder->is_object()) {
    for (const auto& [id, token] : decoder->items()) {
      int32_t number = 0;
      if (TokenSpelling(token) == spelling && absl::SimpleAtoi(id, &number)) return number;
    }
  }
  const std::string path = absl::StrCat(model_dir, "/tokenizer.json");
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return -1;
  STERNA_ASSIGN_OR_RETURN(const Json tokenizer,
                          ReadJsonObject(path, kMaxTokenizerBytes, [](const std::string& key) {
                            return key == "added_tokens";
                          }));
  const auto added = tokenizer.find("added_tokens");
  if (added == tokenizer.end() || !added->is_array()) return -1;
  for (const Json& token : *added) {
    if (TokenSpelling(token) == spelling && token.is_object() && token.contains("id") &&
        token["id"].is_number_integer()) {
      return token["id"].get<int64_t>();
    }
  }
  return -1;
}

// The union of what the three files call the end of a text.
Status ReadStopTokens(const Fields& fields, const std::string& model_dir, ModelConfig& config) {
  std::set<int32_t> ids;
  STERNA_RETURN_IF_ERROR(AddEosIds(fields, config.vocab_size, ids));
  std::error_code ignored;
  const std::string generation_path = absl::StrCat(model_dir, "/generation_config.json");
  if (std::filesystem::exists(generation_path, ignored)) {
    STERNA_ASSIGN_OR_RETURN(const Json generation,
                            ReadJsonObject(generation_path, kMaxConfigBytes));
    STERNA_RETURN_IF_ERROR(
        AddEosIds(Fields(generation, generation_path, ""), config.vocab_size, ids));
  }
  const std::string tokenizer_path = absl::StrCat(model_dir, "/tokenizer_config.json");
  if (std::filesystem::exists(tokenizer_path, ignored)) {
    STERNA_ASSIGN_OR_RETURN(const Json tokenizer,
                            ReadJsonObject(tokenizer_path, kMaxTokenizerBytes));
    const Fields tokenizer_fields(tokenizer, tokenizer_path, "");
    const Json* eos = tokenizer_fields.Find("eos_token");
    const std::string spelling = eos == nullptr ? "" : TokenSpelling(*eos);
    if (!spelling.empty()) {
      STERNA_ASSIGN_OR_RETURN(const int64_t id, AddedTokenId(spelling, tokenizer, model_dir));
      if (id >= config.vocab_size) {
        return tokenizer_fields.Error(
            "eos_token", absl::StrCat("its id, ", id, ", is outside the model's vocabulary of ",
                                      config.vocab_size));
      }
      if (id >= 0) ids.insert(static_cast<int32_t>(id));
    }
  }
  config.eos_token_ids.assign(ids.begin(), ids.end());
  return absl::OkStatus();
}

}  // namespace

std::string_view FamilyName(CheckpointFamily family) {
  switch (family) {
    case CheckpointFamily::kBitNetPacked:
      return "A";
    case CheckpointFamily::kBitNetLatent:
      return "A'";
    case CheckpointFamily::kBitLinear:
      return "B";
    case CheckpointFamily::kInnerNorms:
      return "C";
    case CheckpointFamily::kUnpacked:
      return "D";
    case CheckpointFamily::kGrouped:
      return "E";
  }
  return "unknown";
}

StatusOr<ModelConfig> ReadModelConfig(const std::string& model_dir) {
  const std::string path = absl::StrCat(model_dir, "/config.json");
  STERNA_ASSIGN_OR_RETURN(const Json object, ReadJsonObject(path, kMaxConfigBytes));
  const Fields fields(object, path, "");

  ModelConfig config;
  if (HasSignsOfFamilyC(fields)) {
    STERNA_RETURN_IF_ERROR(ReadFamilyC(fields, config));
  } else {
    STERNA_RETURN_IF_ERROR(CheckKind(fields, path));
    config.model_type = object["model_type"].get<std::string>();
    if (fields.Has("quantization_config")) {
      STERNA_RETURN_IF_ERROR(ReadQuantization(
          Fields(object["quantization_config"], path, "quantization_config."), config));
    } else {
      // Ternary values or full precision: only the weights can tell.
      config.family =
          config.model_type == "qwen3" ? CheckpointFamily::kGrouped : CheckpointFamily::kUnpacked;
    }
  }
  STERNA_RETURN_IF_ERROR(ReadSizes(fields, config));
  STERNA_RETURN_IF_ERROR(ReadRope(fields, path, config));
  const bool bitnet = config.model_type == "bitnet";
  STERNA_ASSIGN_OR_RETURN(
      const std::string activation,
      fields.Choice("hidden_act", {"silu", "swish", "relu2"}, bitnet ? "relu2" : "silu"));
  config.activation = activation == "relu2" ? Activation::kReluSquared : Activation::kSilu;
  STERNA_ASSIGN_OR_RETURN(config.tie_embeddings, fields.BoolOr("tie_word_embeddings", false));
  STERNA_ASSIGN_OR_RETURN(config.attention_bias, fields.BoolOr("attention_bias", false));
  STERNA_ASSIGN_OR_RETURN(config.mlp_bias, fields.BoolOr("mlp_bias", false));
  if (config.model_type == "qwen3") STERNA_RETURN_IF_ERROR(ReadQwen3(fields, config));
  STERNA_RETURN_IF_ERROR(CheckCombinations(fields, config));
  STERNA_RETURN_IF_ERROR(ReadStopTokens(fields, model_dir, config));
  return config;
}

}  // namespace sterna
