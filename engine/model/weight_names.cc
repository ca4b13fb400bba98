#include "engine/model/weight_names.h"

#include "absl/strings/str_cat.h"

namespace sterna {

std::vector<NamedLinear> NamedLinears(const LayerWeights& layer, int64_t number) {
  const std::string prefix = absl::StrCat("model.layers.", number, ".");
  return {{prefix + "self_attn.q_proj", &layer.q}, {prefix + "self_attn.k_proj", &layer.k},
          {prefix + "self_attn.v_proj", &layer.v}, {prefix + "self_attn.o_proj", &layer.o},
          {prefix + "mlp.gate_proj", &layer.gate}, {prefix + "mlp.up_proj", &layer.up},
          {prefix + "mlp.down_proj", &layer.down}};
}

std::vector<NamedVector> NamedVectors(const LayerWeights& layer, int64_t number) {
  const std::string prefix = absl::StrCat("model.layers.", number, ".");
  std::vector<NamedVector> vectors;
  const auto add = [&](const std::string& name, const WeightVector& values, bool is_norm) {
    if (!values.empty()) vectors.push_back({name, values.span(), is_norm});
  };
  add(prefix + "input_layernorm.weight", layer.input_norm, true);
  add(prefix + "self_attn.q_norm.weight", layer.q_norm, true);
  add(prefix + "self_attn.k_norm.weight", layer.k_norm, true);
  add(prefix + "self_attn.attn_sub_norm.weight", layer.attn_sub_norm, true);
  add(prefix + "post_attention_layernorm.weight", layer.post_attention_norm, true);
  add(prefix + "mlp.ffn_sub_norm.weight", layer.ffn_sub_norm, true);
  for (const NamedLinear& linear : NamedLinears(layer, number)) {
    add(linear.name + ".bias", linear.weights->bias, false);
    add(linear.name + ".rms_norm.weight", linear.weights->in_norm, true);
  }
  return vectors;
}

std::vector<NamedTernary> TernaryTables(const ModelWeights& weights) {
  std::vector<NamedTernary> tables;
  if (!weights.ternary_embedding.empty()) {
    tables.push_back({"model.embed_tokens", &weights.ternary_embedding});
  }
  if (!weights.untied_ternary_head.empty()) {
    tables.push_back({"lm_head", &weights.untied_ternary_head});
  }
  return tables;
}

}  // namespace sterna
