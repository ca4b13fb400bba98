#include "engine/model/config.h"

#include <filesystem>
#include <random>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::TempDir;

// A valid config of family B.
Json LlamaConfig() {
  return Json::parse(R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 172, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 256,
    "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 20000, "rope_scaling": null,
    "tie_word_embeddings": false, "eos_token_id": 7,
    "quantization_config": {"quant_method": "bitnet", "modules_to_not_convert": null}})");
}

Json BitNetConfig(const char* mode) {
  Json config = LlamaConfig();
  config["model_type"] = "bitnet";
  config["hidden_act"] = "relu2";
  config["tie_word_embeddings"] = true;
  config["quantization_config"]["linear_class"] = "autobitlinear";
  config["quantization_config"]["quantization_mode"] = mode;
  return config;
}

StatusOr<ModelConfig> Read(const Json& config) {
  const TempDir dir;
  dir.Write("config.json", config.dump());
  return ReadModelConfig(dir.path());
}

Json FamilyCConfig() {
  Json config = LlamaConfig();
  config["architectures"] = {"BitnetForCausalLM"};
  config.erase("quantization_config");
  config["weight_bits"] = 1;
  config["input_bits"] = 8;
  return config;
}

// The config with `patch` merged in (RFC 7386: null deletes).
StatusOr<ModelConfig> ReadPatched(const char* patch, Json config = LlamaConfig()) {
  config.merge_patch(Json::parse(patch));
  return Read(config);
}

TEST(ModelConfigTest, ReadsFamilyB) {
  const auto config = Read(LlamaConfig());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, CheckpointFamily::kBitLinear);
  EXPECT_EQ(FamilyName(config->family), "B");
  EXPECT_EQ(config->model_type, "llama");
  EXPECT_EQ(config->hidden_size, 64);
  EXPECT_EQ(config->ffn_size, 172);
  EXPECT_EQ(config->num_layers, 2);
  EXPECT_EQ(config->num_heads, 4);
  EXPECT_EQ(config->num_kv_heads, 2);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->vocab_size, 100);
  EXPECT_EQ(config->max_positions, 256);
  EXPECT_EQ(config->rms_norm_eps, 1e-5);
  EXPECT_EQ(config->activation, Activation::kSilu);
  EXPECT_EQ(config->rope.theta, 20000.0);
  EXPECT_EQ(config->rope.scaling, RopeScaling::kNone);
  EXPECT_FALSE(config->tie_embeddings);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_FALSE(config->mlp_bias);
  EXPECT_FALSE(config->linear_rms_norm);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(7));
}

TEST(ModelConfigTest, MultipliesOnlyForAutobitlinear) {
  const auto a = Read(BitNetConfig("offline"));
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(a->family, CheckpointFamily::kBitNetPacked);
  EXPECT_EQ(FamilyName(a->family), "A");
  EXPECT_EQ(a->activation, Activation::kReluSquared);
  EXPECT_TRUE(a->tie_embeddings);
  const auto latent = Read(BitNetConfig("online"));
  ASSERT_TRUE(latent.ok()) << latent.status();
  EXPECT_EQ(latent->family, CheckpointFamily::kBitNetLatent);
  EXPECT_EQ(FamilyName(latent->family), "A'");

  Json divides = BitNetConfig("offline");
  divides["quantization_config"].erase("linear_class");
  const auto b = Read(divides);
  ASSERT_TRUE(b.ok()) << b.status();
  EXPECT_EQ(b->family, CheckpointFamily::kBitLinear);
  EXPECT_EQ(b->model_type, "bitnet");
}

TEST(ModelConfigTest, OnlyModelTypeBitNetAndFamilyCHaveSubNorms) {
  const auto c = Read(FamilyCConfig());
  ASSERT_TRUE(c.ok()) << c.status();
  EXPECT_EQ(c->family, CheckpointFamily::kInnerNorms);
  EXPECT_EQ(FamilyName(c->family), "C");
  EXPECT_EQ(c->model_type, "llama");
  EXPECT_EQ(c->activation, Activation::kSilu);
  EXPECT_FALSE(c->linear_rms_norm);
  EXPECT_TRUE(c->has_sub_norms());
  EXPECT_TRUE(Read(BitNetConfig("offline"))->has_sub_norms());
  EXPECT_TRUE(Read(BitNetConfig("online"))->has_sub_norms());
  EXPECT_FALSE(Read(LlamaConfig())->has_sub_norms());

  const auto bare = ReadPatched(R"({"architectures": null, "hidden_act": null, "rope_theta": null,
      "tie_word_embeddings": true, "attention_bias": true})",
                                FamilyCConfig());
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_EQ(bare->family, CheckpointFamily::kInnerNorms);
  EXPECT_EQ(bare->activation, Activation::kSilu);
  EXPECT_EQ(bare->rope.theta, 10000.0);
  EXPECT_TRUE(bare->tie_embeddings);
  EXPECT_TRUE(bare->attention_bias);
}

TEST(ModelConfigTest, RefusesFamilyCThatContradictsItself) {
  struct Case {
    const char* patch;
    const char* message;
  };
  const Case cases[] = {
      {R"({"weight_bits": 2})", "weight_bits is 2, but must be 1: family C has ternary weights"},
      {R"({"weight_bits": 1.58})", "weight_bits is 1.58, but must be 1"},
      {R"({"weight_bits": null})", "weight_bits is missing, but must be 1"},
      {R"({"weight_bits": "1"})", "weight_bits is \\\"1\\\", but must be 1"},
      {R"({"input_bits": 16})", "input_bits is 16, but must be 8: family C quantises activations"},
      {R"({"input_bits": null})", "input_bits is missing, but must be 8"},
      {R"({"model_type": "bitnet"})", "model_type is \\\"bitnet\\\", but supported: llama"},
      {R"({"model_type": null})", "model_type is missing"},
      {R"({"architectures": ["LlamaForCausalLM"]})",
       "architectures is [\\\"LlamaForCausalLM\\\"], but weight_bits and input_bits are those of"},
      {R"({"architectures": ["BitnetForCausalLM", "LlamaForCausalLM"], "weight_bits": null})",
       "architectures is [\\\"BitnetForCausalLM\\\",\\\"LlamaForCausalLM\\\"]"},
      {R"({"quantization_config": {"quant_method": "bitnet"}})", "quantization_config is {"},
      {R"({"mlp_bias": true})", "mlp_bias is true"},
      {R"({"hidden_size": 66})", "must divide hidden_size, 66"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.patch);
    const Status status = ReadPatched(c.patch, FamilyCConfig()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr("config.json"));
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
  // Each sign alone makes a config one of family C, so that a half of one is not read as a llama.
  for (const char* sign : {R"({"weight_bits": 1})", R"({"input_bits": 8})",
                           R"({"architectures": ["BitnetForCausalLM"]})"}) {
    SCOPED_TRACE(sign);
    EXPECT_THAT(ReadPatched(sign).status().message(), HasSubstr("family C"));
  }
}

TEST(ModelConfigTest, ALlamaWithoutQuantizationConfigIsFamilyD) {
  const auto config = ReadPatched(R"({"quantization_config": null, "attention_bias": true})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, CheckpointFamily::kUnpacked);
  EXPECT_EQ(FamilyName(config->family), "D");
  EXPECT_FALSE(config->has_sub_norms());
  EXPECT_FALSE(config->linear_rms_norm);
  EXPECT_TRUE(config->attention_bias);
}

// Falcon3: a llama whose heads are as large as none of the others'.
TEST(ModelConfigTest, HeadsOf256) {
  const auto config = ReadPatched(R"({"head_dim": 256, "rope_theta": 1000042})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 256);
  EXPECT_EQ(config->rope.theta, 1000042.0);
}

// Lists as tools write them, which all say what is so in any case.
TEST(ModelConfigTest, ModulesThatAreDenseAnywayMayBeNamed) {
  for (const char* list :
       {R"(["lm_head"])", R"(["model.embed_tokens", "lm_head"])",
        R"(["lm_head", "model.embed_tokens"])", R"(["model.norm", "lm_head"])"}) {
    const auto config = ReadPatched(
        absl::StrCat(R"({"quantization_config": {"modules_to_not_convert": )", list, "}}").c_str());
    EXPECT_TRUE(config.ok()) << config.status();
  }
  EXPECT_TRUE(ReadPatched(R"({"eos_token_id": -1})")->eos_token_ids.empty());
}

TEST(ModelConfigTest, OptionalFieldsAndDefaults) {
  auto config = ReadPatched(R"({"head_dim": 20, "num_key_value_heads": null, "hidden_act": "swish",
      "attention_bias": true, "mlp_bias": true, "rope_theta": null, "eos_token_id": null,
      "quantization_config": {"use_rms_norm": true, "rms_norm_eps": 0.001,
                              "modules_to_not_convert": ["lm_head"]}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_dim, 20);
  EXPECT_EQ(config->num_kv_heads, 4);
  EXPECT_EQ(config->activation, Activation::kSilu);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->mlp_bias);
  EXPECT_TRUE(config->linear_rms_norm);
  EXPECT_EQ(config->linear_rms_norm_eps, 0.001);
  EXPECT_EQ(config->rope.theta, 10000.0);
  EXPECT_TRUE(config->eos_token_ids.empty());

  Json bitnet = BitNetConfig("offline");
  bitnet.erase("rope_theta");
  bitnet.erase("hidden_act");
  config = Read(bitnet);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->activation, Activation::kReluSquared);
}

TEST(ModelConfigTest, RopeForms) {
  auto config = ReadPatched(
      R"({"rope_theta": null, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.theta, 1e6);
  EXPECT_EQ(config->rope.scaling, RopeScaling::kNone);

  config = ReadPatched(R"({"rope_scaling": {"type": "linear", "factor": 2.5}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.theta, 20000.0);
  EXPECT_EQ(config->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(config->rope.factor, 2.5);

  config = ReadPatched(R"({"rope_theta": null, "rope_parameters": {"rope_type": "llama3",
      "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 8192}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.scaling, RopeScaling::kLlama3);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->rope.factor, 32.0);
  EXPECT_EQ(config->rope.original_max_positions, 8192);
}

TEST(ModelConfigTest, RefusesBadFieldsNamingFieldAndValue) {
  struct Case {
    const char* patch;
    const char* message;
  };
  const Case cases[] = {
      {R"({"hidden_size": null})", "hidden_size is missing, but must be an integer"},
      {R"({"hidden_size": "64"})", "hidden_size is \\\"64\\\""},
      {R"({"hidden_size": 64.0})", "hidden_size is 64.0"},
      {R"({"hidden_size": 0})", "hidden_size is 0"},
      {R"({"hidden_size": -64})", "hidden_size is -64"},
      {R"({"hidden_size": 18446744073709551615})", "hidden_size is 18446744073709551615"},
      {R"({"hidden_size": 1e300})", "hidden_size is 1e+300"},
      {R"({"hidden_size": 66})", "must divide hidden_size, 66"},
      {R"({"hidden_size": 60})", "the head size, 15, must be even"},
      {R"({"intermediate_size": 0})", "intermediate_size is 0"},
      {R"({"num_hidden_layers": true})", "num_hidden_layers is true"},
      {R"({"num_attention_heads": []})", "num_attention_heads is []"},
      {R"({"num_key_value_heads": 3})", "num_key_value_heads is 3, but must divide"},
      {R"({"num_key_value_heads": 8})", "num_key_value_heads is 8"},
      {R"({"head_dim": 15})", "head_dim is 15"},
      {R"({"vocab_size": 0})", "vocab_size is 0"},
      {R"({"max_position_embeddings": 3000000000})", "max_position_embeddings is 3000000000"},
      {R"({"rms_norm_eps": 0})", "rms_norm_eps is 0"},
      {R"({"rms_norm_eps": "1e-5"})", "rms_norm_eps is"},
      {R"({"hidden_act": "gelu"})", "supported: silu, swish, relu2"},
      {R"({"tie_word_embeddings": 1})", "tie_word_embeddings is 1"},
      {R"({"rope_theta": -1})", "rope_theta is -1"},
      {R"({"rope_scaling": {"rope_type": "longrope", "factor": 2}})",
       "rope_scaling.rope_type is \\\"longrope\\\", but supported: default, linear, llama3, yarn"},
      {R"({"rope_scaling": {"factor": 2}})", "rope_scaling.type is missing"},
      {R"({"rope_scaling": {"type": "linear"}})", "rope_scaling.factor is missing"},
      {R"({"rope_scaling": 4})", "rope_scaling is 4"},
      {R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
           "high_freq_factor": 4, "original_max_position_embeddings": 64}})",
       "must be above low_freq_factor"},
      {R"({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1,
           "high_freq_factor": 4}})",
       "original_max_position_embeddings is missing"},
      {R"({"rope_scaling": {"type": "linear", "factor": 2},
           "rope_parameters": {"rope_type": "default"}})",
       "rope_parameters is there too"},
      {R"({"partial_rotary_factor": 0.5})", "partial_rotary_factor is 0.5"},
      {R"({"rope_interleaved": true})", "rope_interleaved is true"},
      {R"({"eos_token_id": 100})", "eos_token_id is 100, but must be a token id from 0 to 99"},
      {R"({"eos_token_id": [3, -1]})", "eos_token_id is [3,-1]"},
      {R"({"eos_token_id": "</s>"})", "eos_token_id is"},
      {R"({"quantization_config": {"quant_method": "gptq"}})",
       "quantization_config.quant_method is \\\"gptq\\\", but supported: bitnet"},
      {R"({"quantization_config": {"quant_method": null}})",
       "quantization_config.quant_method is missing"},
      {R"({"quantization_config": {"linear_class": "linear"}})",
       "quantization_config.linear_class"},
      {R"({"quantization_config": {"quantization_mode": "online"}})",
       "need linear_class autobitlinear"},
      {R"({"quantization_config": {"modules_to_not_convert": []}})",
       "modules_to_not_convert is []"},
      {R"({"quantization_config": {"modules_to_not_convert": ["model.embed_tokens"]}})",
       "modules_to_not_convert is [\\\"model.embed_tokens\\\"], but supported: null, or a list "
       "with"},
      {R"({"quantization_config": {"modules_to_not_convert": ["lm_head", "model.layers.0"]}})",
       "modules_to_not_convert is"},
      {R"({"quantization_config": {"modules_to_not_convert": "lm_head"}})",
       "modules_to_not_convert is"},
      {R"({"quantization_config": {"modules_to_not_convert": ["lm_head", 3]}})",
       "modules_to_not_convert is"},
      {R"({"quantization_config": {"use_rms_norm": "yes"}})", "quantization_config.use_rms_norm"},
      {R"({"quantization_config": 3})", "quantization_config is 3"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.patch);
    const Status status = ReadPatched(c.patch).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr("config.json"));
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
}

TEST(ModelConfigTest, RefusesOtherFamiliesByName) {
  struct Case {
    const char* patch;
    const char* message;
  };
  const Case cases[] = {
      {R"({"quantization_config": null, "model_type": "bitnet"})",
       "model_type bitnet without quantization_config; loaded are"},
      {R"({"model_type": "qwen3"})",
       "a model of model_type qwen3 with quantization_config; loaded are"},
      {R"({"model_type": "qwen3"})", "and E (model_type qwen3 without it)"},
      {R"({"model_type": "qwen3_moe"})",
       "is \\\"qwen3_moe\\\", but supported: bitnet, llama, qwen3"},
      {R"({"model_type": null})", "model_type is missing"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.patch);
    const Status status = ReadPatched(c.patch).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
}

TEST(ModelConfigTest, RefusesCombinationsThatNobodyDefined) {
  Json config = BitNetConfig("offline");
  config["attention_bias"] = true;
  EXPECT_THAT(Read(config).status().message(), HasSubstr("attention_bias is true, but packed"));
  config = BitNetConfig("online");
  config["attention_bias"] = true;
  EXPECT_TRUE(Read(config).ok());
  config["mlp_bias"] = true;
  EXPECT_THAT(Read(config).status().message(), HasSubstr("mlp_bias is true"));
  config = BitNetConfig("online");
  config["quantization_config"]["use_rms_norm"] = true;
  EXPECT_THAT(Read(config).status().message(), HasSubstr("use_rms_norm is true, but model_type"));
  config = LlamaConfig();
  config["quantization_config"]["linear_class"] = "autobitlinear";
  config["mlp_bias"] = true;
  EXPECT_THAT(Read(config).status().message(), HasSubstr("mlp_bias is true, but packed"));
}

TEST(ModelConfigTest, RefusesFilesThatAreNoConfig) {
  const TempDir dir;
  EXPECT_EQ(ReadModelConfig(dir.path()).status().code(), absl::StatusCode::kNotFound);
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{\"a\":"), std::string("{\"a\": 1e999}"),
        std::string("{\"a\": \"\xff\"}"), std::string("\0\0", 2)}) {
    dir.Write("config.json", text);
    const Status status = ReadModelConfig(dir.path()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr("config.json is not a JSON object"));
  }
  dir.Write("config.json", "{\"a\":" + std::string(100'000, '['));
  EXPECT_THAT(ReadModelConfig(dir.path()).status().message(), HasSubstr("levels of brackets"));
  dir.Write("config.json", std::string(2 << 20, ' '));
  EXPECT_THAT(ReadModelConfig(dir.path()).status().message(), HasSubstr("bytes; at most"));
}

TEST(ModelConfigTest, RandomByteFlipsNeverCrash) {
  const TempDir dir;
  const std::string text = LlamaConfig().dump();
  std::mt19937 random(3);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    std::string bytes = text;
    for (int i = 0; i < 2; ++i) bytes[random() % bytes.size()] = static_cast<char>(random() % 128);
    dir.Write("config.json", bytes);
    refused += ReadModelConfig(dir.path()).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 100);
}

class StopTokensTest : public ::testing::Test {
 protected:
  StopTokensTest() { dir_.Write("config.json", LlamaConfig().dump()); }
  std::vector<int32_t> Ids() {
    const auto config = ReadModelConfig(dir_.path());
    EXPECT_TRUE(config.ok()) << config.status();
    return config.ok() ? config->eos_token_ids : std::vector<int32_t>();
  }
  TempDir dir_;
};

TEST_F(StopTokensTest, AreTheUnionOfThreeFiles) {
  EXPECT_THAT(Ids(), ElementsAre(7));
  dir_.Write("generation_config.json", R"({"eos_token_id": [9, 7]})");
  EXPECT_THAT(Ids(), ElementsAre(7, 9));
  dir_.Write("tokenizer_config.json",
             R"({"eos_token": "<end>", "added_tokens_decoder": {"5": {"content": "<end>"}}})");
  EXPECT_THAT(Ids(), ElementsAre(5, 7, 9));
}

TEST_F(StopTokensTest, SpellingResolvesThroughTokenizerJson) {
  dir_.Write("tokenizer_config.json", R"({"eos_token": {"content": "</s>", "lstrip": false}})");
  EXPECT_THAT(Ids(), ElementsAre(7));  // nothing says what id that is
  dir_.Write("tokenizer.json",
             R"({"model": {"vocab": {"</s>": 1}}, "added_tokens": [{"id": 0, "content": "<s>"},
                 {"id": 2, "content": "</s>"}]})");
  EXPECT_THAT(Ids(), ElementsAre(2, 7));
}

TEST_F(StopTokensTest, BadOnesAreRefusedNamingTheFile) {
  dir_.Write("generation_config.json", R"({"eos_token_id": 1000})");
  Status status = ReadModelConfig(dir_.path()).status();
  EXPECT_THAT(status.message(), HasSubstr("generation_config.json: eos_token_id is 1000"));
  dir_.Write("generation_config.json", "{");
  status = ReadModelConfig(dir_.path()).status();
  EXPECT_THAT(status.message(), HasSubstr("generation_config.json is not a JSON object"));
  dir_.Write("generation_config.json", "{}");
  dir_.Write("tokenizer_config.json",
             R"({"eos_token": "<e>", "added_tokens_decoder": {"100": {"content": "<e>"}}})");
  status = ReadModelConfig(dir_.path()).status();
  EXPECT_THAT(status.message(), HasSubstr("tokenizer_config.json: eos_token is"));
  EXPECT_THAT(status.message(), HasSubstr("outside the model's vocabulary of 100"));
}

// Copies one published config into `dir` under the name config.json; false when it is not there.
bool CopyPublished(const std::string& name, const TempDir& dir) {
  for (const char* file : {"config.json", "generation_config.json"}) {
    const std::string path = testing::SharedDataPath("checkpoints/" + name + "/" + file);
    if (!path.empty()) std::filesystem::copy_file(path, dir.path() + "/" + file);
  }
  return std::filesystem::exists(dir.path() + "/config.json");
}

TEST(PublishedConfigTest, BitNet2B4T) {
  const TempDir dir;
  if (!CopyPublished("bitnet-b1.58-2B-4T", dir)) GTEST_SKIP() << "no config of bitnet-b1.58-2B-4T";
  const auto config = ReadModelConfig(dir.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, CheckpointFamily::kBitNetPacked);
  EXPECT_EQ(config->hidden_size, 2560);
  EXPECT_EQ(config->ffn_size, 6912);
  EXPECT_EQ(config->num_layers, 30);
  EXPECT_EQ(config->num_heads, 20);
  EXPECT_EQ(config->num_kv_heads, 5);
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_EQ(config->vocab_size, 128256);
  EXPECT_EQ(config->max_positions, 4096);
  EXPECT_EQ(config->rope.theta, 500000.0);
  EXPECT_EQ(config->activation, Activation::kReluSquared);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(128001));
}

TEST(PublishedConfigTest, Llama3) {
  const TempDir dir;
  if (!CopyPublished("Llama3-8B-1.58-100B-tokens", dir)) {
    GTEST_SKIP() << "no config of Llama3-8B-1.58-100B-tokens";
  }
  const auto config = ReadModelConfig(dir.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, CheckpointFamily::kBitLinear);
  EXPECT_EQ(config->hidden_size, 4096);
  EXPECT_EQ(config->ffn_size, 14336);
  EXPECT_EQ(config->num_kv_heads, 8);
  EXPECT_FALSE(config->tie_embeddings);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(128009));
}

TEST(PublishedConfigTest, BitNetLarge) {
  const TempDir dir;
  if (!CopyPublished("bitnet_b1_58-large", dir)) GTEST_SKIP() << "no config of bitnet_b1_58-large";
  const auto config = ReadModelConfig(dir.path());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, CheckpointFamily::kInnerNorms);
  EXPECT_EQ(config->hidden_size, 1536);
  EXPECT_EQ(config->ffn_size, 4096);
  EXPECT_EQ(config->num_layers, 24);
  EXPECT_EQ(config->num_heads, 16);
  EXPECT_EQ(config->num_kv_heads, 16);
  EXPECT_EQ(config->head_dim, 96);
  EXPECT_EQ(config->vocab_size, 32002);
  EXPECT_EQ(config->max_positions, 2048);
  EXPECT_EQ(config->activation, Activation::kSilu);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(2));
}

}  // namespace
}  // namespace sterna
