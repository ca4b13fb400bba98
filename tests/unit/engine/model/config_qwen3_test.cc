// config.json of family E, and yarn rotary scaling, which its models have.
#include <utility>

#include "engine/model/config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

Json Qwen3Config() {
  return Json::parse(R"({
    "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 64,
    "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 128, "vocab_size": 100, "max_position_embeddings": 256,
    "hidden_act": "silu", "rms_norm_eps": 1e-06, "rope_theta": 20000, "rope_scaling": null,
    "use_sliding_window": false, "sliding_window": null, "max_window_layers": 2,
    "layer_types": ["full_attention", "full_attention"], "tie_word_embeddings": true,
    "attention_bias": false, "eos_token_id": 7})");
}

StatusOr<ModelConfig> Read(const Json& config) {
  const testing::TempDir dir;
  dir.Write("config.json", config.dump());
  return ReadModelConfig(dir.path());
}

// With `patch` merged in (RFC 7386: null deletes).
StatusOr<ModelConfig> ReadPatched(const char* patch) {
  Json config = Qwen3Config();
  config.merge_patch(Json::parse(patch));
  return Read(config);
}

TEST(Qwen3ConfigTest, ReadsFamilyE) {
  const auto config = Read(Qwen3Config());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, CheckpointFamily::kGrouped);
  EXPECT_EQ(FamilyName(config->family), "E");
  EXPECT_EQ(config->model_type, "qwen3");
  EXPECT_TRUE(config->qk_norm);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_FALSE(config->has_sub_norms());
  EXPECT_FALSE(config->attention_bias);
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_TRUE(ReadPatched(R"({"attention_bias": true})")->attention_bias);
}

TEST(Qwen3ConfigTest, RefusesAQwen3OfAnotherKind) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"head_dim": null})", "head_dim is missing, but model_type qwen3 requires it"},
      {R"({"num_key_value_heads": null})", "num_key_value_heads is missing, but model_type qwen3"},
      {R"({"use_sliding_window": true})", "use_sliding_window is true, but sliding windows are"},
      {R"({"layer_types": ["full_attention", "sliding_attention"]})", "layer_types is ["},
      {R"({"layer_types": "full_attention"})",
       "layer_types is \\\"full_attention\\\", but supported"},
      {R"({"mlp_bias": true})", "mlp_bias is true, but model_type qwen3 has no such"},
  };
  for (const auto& [patch, message] : cases) {
    SCOPED_TRACE(patch);
    EXPECT_THAT(ReadPatched(patch).status().message(), HasSubstr(message));
  }
}

TEST(Qwen3ConfigTest, YarnRope) {
  auto config = ReadPatched(R"({"rope_theta": null, "rope_parameters": {"rope_type": "yarn",
      "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 16384}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(config->rope.theta, 1e6);
  EXPECT_EQ(config->rope.factor, 4.0);
  EXPECT_EQ(config->rope.original_max_positions, 16384);
  EXPECT_EQ(config->rope.beta_fast, 32);
  EXPECT_EQ(config->rope.beta_slow, 1);
  EXPECT_TRUE(config->rope.truncate);
  // This and the next are Transformers' own.
  EXPECT_NEAR(config->rope.attention_factor, 1.138629436111989, 1e-15);

  config = ReadPatched(R"({"original_max_position_embeddings": 1024, "rope_scaling": {
      "type": "yarn", "factor": 4.0, "truncate": false, "beta_fast": 16.0, "beta_slow": 2.0,
      "mscale": 0.7, "mscale_all_dim": 1.3}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.original_max_positions, 1024);
  EXPECT_EQ(config->rope.beta_fast, 16);
  EXPECT_EQ(config->rope.beta_slow, 2);
  EXPECT_FALSE(config->rope.truncate);
  EXPECT_NEAR(config->rope.attention_factor, 0.9295234923939468, 1e-15);

  config = ReadPatched(R"({"rope_scaling": {"type": "yarn", "factor": 1.0, "mscale": 0.7,
      "original_max_position_embeddings": 256}})");
  EXPECT_EQ(config->rope.attention_factor, 1.0);
  config = ReadPatched(R"({"rope_scaling": {"type": "yarn", "factor": 4.0,
      "attention_factor": 0.75, "original_max_position_embeddings": 256}})");
  EXPECT_EQ(config->rope.attention_factor, 0.75);
}

TEST(Qwen3ConfigTest, RefusesBadYarnRope) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"factor": null})", "rope_scaling.factor is missing"},
      {R"({"original_max_position_embeddings": null})",
       "original_max_position_embeddings is missing"},
      {R"({"beta_fast": 0.5})",
       "rope_scaling.beta_fast is 0.5, but must be no less than beta_slow"},
      {R"({"beta_slow": -1})", "rope_scaling.beta_slow is -1"},
      {R"({"truncate": 1})", "rope_scaling.truncate is 1, but must be true or false"},
      {R"({"attention_factor": "high"})", "rope_scaling.attention_factor is \\\"high\\\""},
      {R"({"mscale": 0})", "rope_scaling.mscale is 0"},
      {R"({"rope_theta": 1})", "rope_scaling.rope_theta is 1, but must be above 1 for yarn"},
  };
  for (const auto& [patch, message] : cases) {
    SCOPED_TRACE(patch);
    Json config = Qwen3Config();
    config["rope_scaling"] =
        Json::parse(R"({"type": "yarn", "factor": 4, "original_max_position_embeddings": 64})");
    config["rope_scaling"].merge_patch(Json::parse(patch));
    EXPECT_THAT(Read(config).status().message(), HasSubstr(message));
  }
  Json config = Qwen3Config();
  config["original_max_position_embeddings"] = 65;
  config["rope_scaling"] =
      Json::parse(R"({"type": "yarn", "factor": 4, "original_max_position_embeddings": 64})");
  EXPECT_THAT(Read(config).status().message(), HasSubstr("outside says something else"));
}

}  // namespace
}  // namespace sterna
