// What tests of LoadCheckpoint share: small checkpoints, and damage to them.
#ifndef STERNA_TESTS_UNIT_ENGINE_MODEL_CHECKPOINT_TESTING_H_
#define STERNA_TESTS_UNIT_ENGINE_MODEL_CHECKPOINT_TESTING_H_

#include <cstdint>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"

namespace sterna::testing {

// A small valid checkpoint, to be bent before it is loaded. Hidden 20, ffn 36, 2 layers, 2 heads
// and 1 kv head of size 10 (kv rows 10: not packable), or 12 for the packed families.
struct TestCheckpoint {
  nlohmann::json config;
  std::map<std::string, TensorData> tensors;

  StatusOr<Checkpoint> Load(const TempDir& dir, const HeadOptions& head = {}) const {
    dir.Write("config.json", config.dump());
    dir.Write("model.safetensors", SafetensorsFileBytes(tensors));
    return LoadCheckpoint(dir.path(), {.head = head});
  }
  Status LoadStatus() const { return Load(TempDir()).status(); }
};

inline constexpr int64_t kHidden = 20;
inline constexpr int64_t kFfn = 36;
inline constexpr int64_t kVocab = 11;

inline std::vector<float> Values(int64_t size, float first) {
  std::vector<float> values(static_cast<size_t>(size));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = first + static_cast<float>(static_cast<int>(i % 7) - 3) / 16;
  }
  return values;
}

inline std::vector<float> Loaded(const WeightVector& weights) {
  return {weights.span().begin(), weights.span().end()};
}

inline bool HasLatentWeights(CheckpointFamily family) {
  return family == CheckpointFamily::kBitNetLatent || family == CheckpointFamily::kInnerNorms;
}

inline const char* FloatTypeOf(CheckpointFamily family) {
  return family == CheckpointFamily::kInnerNorms || family == CheckpointFamily::kUnpacked ? "F16"
                                                                                          : "BF16";
}

inline void AddLinear(TestCheckpoint& model, CheckpointFamily family, const std::string& name,
                      int64_t rows, int64_t cols, std::mt19937& random) {
  if (HasLatentWeights(family)) {
    std::vector<float> latent(static_cast<size_t>(rows * cols));
    for (float& w : latent) w = static_cast<float>(static_cast<int>(random() % 33) - 16) / 64;
    model.tensors[name + ".weight"] = FloatTensor(FloatTypeOf(family), {rows, cols}, latent);
    return;
  }
  if (family == CheckpointFamily::kUnpacked) {
    // Two blocks of rows with a scale each.
    std::vector<float> unpacked(static_cast<size_t>(rows * cols));
    for (size_t i = 0; i < unpacked.size(); ++i) {
      const float scale = static_cast<int64_t>(i) < rows / 2 * cols ? 0.375f : 0.5f;
      unpacked[i] = (static_cast<float>(random() % 3) - 1) * scale;
    }
    model.tensors[name + ".weight"] = FloatTensor("F16", {rows, cols}, unpacked);
    return;
  }
  std::vector<uint8_t> packed(static_cast<size_t>(rows / 4 * cols));
  for (uint8_t& byte : packed) {
    byte = static_cast<uint8_t>(random() % 3 | random() % 3 << 2 | random() % 3 << 4 |
                                random() % 3 << 6);
  }
  const float scale = 0.375f;
  model.tensors[name + ".weight"] = ByteTensor({rows / 4, cols}, packed);
  model.tensors[name + ".weight_scale"] = FloatTensor("BF16", {1}, {&scale, 1});
}

inline TestCheckpoint MakeTest(CheckpointFamily family) {
  const bool family_c = family == CheckpointFamily::kInnerNorms;
  const bool llama =
      family == CheckpointFamily::kBitLinear || family == CheckpointFamily::kUnpacked;
  const int64_t head_dim = HasLatentWeights(family) ? 10 : 12;
  const char* float_type = FloatTypeOf(family);
  TestCheckpoint model;
  model.config = {{"model_type", llama || family_c ? "llama" : "bitnet"},
                  {"hidden_size", kHidden},
                  {"intermediate_size", kFfn},
                  {"num_hidden_layers", 2},
                  {"num_attention_heads", 2},
                  {"num_key_value_heads", 1},
                  {"head_dim", head_dim},
                  {"vocab_size", kVocab},
                  {"max_position_embeddings", 64},
                  {"rms_norm_eps", 1e-5},
                  {"tie_word_embeddings", !llama}};
  if (family_c) {
    model.config["architectures"] = {"BitnetForCausalLM"};
    model.config["weight_bits"] = 1;
    model.config["input_bits"] = 8;
  } else if (family != CheckpointFamily::kUnpacked) {
    model.config["quantization_config"]["quant_method"] = "bitnet";
  }
  if (!llama && !family_c) {
    model.config["quantization_config"]["linear_class"] = "autobitlinear";
    model.config["quantization_config"]["quantization_mode"] =
        family == CheckpointFamily::kBitNetLatent ? "online" : "offline";
  }
  std::mt19937 random(5);
  const auto norm = [&](const std::string& name, int64_t size) {
    model.tensors[name + ".weight"] = FloatTensor(float_type, {size}, Values(size, 1));
  };
  model.tensors["model.embed_tokens.weight"] =
      FloatTensor(float_type, {kVocab, kHidden}, Values(kVocab * kHidden, 0.5));
  if (llama) {
    model.tensors["lm_head.weight"] =
        FloatTensor(float_type, {kVocab, kHidden}, Values(kVocab * kHidden, -0.5));
  }
  norm("model.norm", kHidden);
  for (int i = 0; i < 2; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    norm(layer + "input_layernorm", kHidden);
    norm(layer + "post_attention_layernorm", kHidden);
    if (!llama) {
      norm(layer + (family_c ? "self_attn.inner_attn_ln" : "self_attn.attn_sub_norm"),
           2 * head_dim);
      norm(layer + (family_c ? "mlp.ffn_layernorm" : "mlp.ffn_sub_norm"), kFfn);
    }
    AddLinear(model, family, layer + "self_attn.q_proj", 2 * head_dim, kHidden, random);
    AddLinear(model, family, layer + "self_attn.k_proj", head_dim, kHidden, random);
    AddLinear(model, family, layer + "self_attn.v_proj", head_dim, kHidden, random);
    AddLinear(model, family, layer + "self_attn.o_proj", kHidden, 2 * head_dim, random);
    AddLinear(model, family, layer + "mlp.gate_proj", kFfn, kHidden, random);
    AddLinear(model, family, layer + "mlp.up_proj", kFfn, kHidden, random);
    AddLinear(model, family, layer + "mlp.down_proj", kHidden, kFfn, random);
  }
  return model;
}

// As large as 256-blocks need: hidden 256, ffn 512, 2 layers, 4 heads of 64, 2 of them for k and v.
inline constexpr int64_t kLargerHidden = 256;
inline constexpr int64_t kLargerFfn = 512;
inline constexpr int64_t kLargerHeadDim = 64;
inline constexpr int64_t kLargerVocab = 32;

// Replaces the sizes and all the tensors of a small checkpoint of `family`.
inline TestCheckpoint LargerTest(CheckpointFamily family) {
  TestCheckpoint model = MakeTest(family);
  const bool sub_norms = model.tensors.contains("model.layers.0.self_attn.attn_sub_norm.weight");
  const bool inner = model.tensors.contains("model.layers.0.mlp.ffn_layernorm.weight");
  model.config["hidden_size"] = kLargerHidden;
  model.config["intermediate_size"] = kLargerFfn;
  model.config["num_attention_heads"] = 4;
  model.config["num_key_value_heads"] = 2;
  model.config["head_dim"] = kLargerHeadDim;
  model.config["vocab_size"] = kLargerVocab;
  model.config["eos_token_id"] = 2;
  model.tensors.clear();
  std::mt19937 random(17);
  const auto floats = [&](const std::string& name, std::vector<int64_t> shape, float first) {
    const int64_t size = shape.size() == 1 ? shape[0] : shape[0] * shape[1];
    model.tensors[name] = FloatTensor("F32", std::move(shape), Values(size, first));
  };
  floats("model.embed_tokens.weight", {kLargerVocab, kLargerHidden}, 0.5);
  floats("model.norm.weight", {kLargerHidden}, 1);
  if (!model.config["tie_word_embeddings"])
    floats("lm_head.weight", {kLargerVocab, kLargerHidden}, -0.5);
  for (int i = 0; i < 2; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    floats(layer + "input_layernorm.weight", {kLargerHidden}, 1);
    floats(layer + "post_attention_layernorm.weight", {kLargerHidden}, 1.25);
    if (sub_norms) floats(layer + "self_attn.attn_sub_norm.weight", {4 * kLargerHeadDim}, 0.75);
    if (sub_norms) floats(layer + "mlp.ffn_sub_norm.weight", {kLargerFfn}, 1.5);
    if (inner) floats(layer + "self_attn.inner_attn_ln.weight", {4 * kLargerHeadDim}, 0.75);
    if (inner) floats(layer + "mlp.ffn_layernorm.weight", {kLargerFfn}, 1.5);
    const auto linear = [&](const std::string& name, int64_t rows, int64_t cols) {
      AddLinear(model, family, layer + name, rows, cols, random);
    };
    linear("self_attn.q_proj", 4 * kLargerHeadDim, kLargerHidden);
    linear("self_attn.k_proj", 2 * kLargerHeadDim, kLargerHidden);
    linear("self_attn.v_proj", 2 * kLargerHeadDim, kLargerHidden);
    linear("self_attn.o_proj", kLargerHidden, 4 * kLargerHeadDim);
    linear("mlp.gate_proj", kLargerFfn, kLargerHidden);
    linear("mlp.up_proj", kLargerFfn, kLargerHidden);
    linear("mlp.down_proj", kLargerHidden, kLargerFfn);
  }
  // Family B stores the inverse, which is to be exact in half precision once it is inverted.
  const float scale = family == CheckpointFamily::kBitLinear ? 4.0f : 0.375f;
  for (auto& [name, tensor] : model.tensors) {
    if (name.ends_with("weight_scale")) tensor = FloatTensor("F32", {1}, {&scale, 1});
  }
  return model;
}

struct Damage {
  const char* what;
  std::function<void(TestCheckpoint&)> apply;
  absl::StatusCode code;
  std::vector<std::string> messages;
};

// Each damage done to a good checkpoint has to be refused with its code and all its messages.
inline void ExpectRefused(CheckpointFamily family, const std::vector<Damage>& damages) {
  ASSERT_TRUE(MakeTest(family).LoadStatus().ok()) << MakeTest(family).LoadStatus();
  for (const Damage& damage : damages) {
    SCOPED_TRACE(damage.what);
    TestCheckpoint test = MakeTest(family);
    damage.apply(test);
    const Status status = test.LoadStatus();
    EXPECT_EQ(status.code(), damage.code) << status;
    for (const std::string& message : damage.messages) {
      EXPECT_THAT(status.message(), ::testing::HasSubstr(message));
    }
  }
}

inline TensorData OneFloat(float value) { return FloatTensor("F32", {1}, {&value, 1}); }

// Family E, as large, with a scale for each `group` columns, exact in half precision, embedding and
// head too, and with yarn.
inline TestCheckpoint GroupedTest(int64_t group) {
  TestCheckpoint model = LargerTest(CheckpointFamily::kUnpacked);
  model.config["model_type"] = "qwen3";
  model.config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 16}};
  std::mt19937 random(3);
  for (auto& [name, tensor] : model.tensors) {
    if (tensor.shape.size() != 2) continue;
    std::vector<float> values;
    for (int64_t i = 0; i < tensor.shape[0] * tensor.shape[1]; ++i) {
      const int64_t number = i / group;
      const float scale = static_cast<float>(1 + number % 5) / 64;
      values.push_back((static_cast<float>(random() % 3) - 1) * scale);
    }
    tensor = FloatTensor("F32", tensor.shape, values);
  }
  for (int i = 0; i < 2; ++i) {
    for (const char* norm : {"q_norm", "k_norm"}) {
      model.tensors[absl::StrCat("model.layers.", i, ".self_attn.", norm, ".weight")] =
          FloatTensor("F32", {kLargerHeadDim}, Values(kLargerHeadDim, 1));
    }
  }
  return model;
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_UNIT_ENGINE_MODEL_CHECKPOINT_TESTING_H_
