#include "engine/model/gguf_config.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using testing::GgufBytes;
using testing::GgufContents;
using testing::GgufNumber;
using testing::GgufText;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr int64_t kHeadDim = 64;
constexpr int64_t kPositions = 4096;

using Metadata = std::vector<std::pair<std::string, GgufBytes>>;

// The config of a llama of three layers, whose file also has `more` of its architecture's metadata,
// and `tensors`.
StatusOr<ModelConfig> Read(const Metadata& more,
                           const std::vector<testing::GgufTensorBytes>& tensors = {}) {
  const auto number = [](int64_t value) { return GgufNumber(static_cast<uint32_t>(value)); };
  GgufContents contents = {
      .metadata = {{"general.architecture", GgufText("llama")},
                   {"llama.embedding_length", number(2 * kHeadDim)},
                   {"llama.feed_forward_length", number(256)},
                   {"llama.block_count", number(3)},
                   {"llama.attention.head_count", number(2)},
                   {"llama.context_length", number(kPositions)},
                   {"llama.attention.layer_norm_rms_epsilon", GgufNumber(1e-5f)}},
      .tensors = {{"token_embd.weight", 0, {2 * kHeadDim, 1}, std::string(8 * kHeadDim, 'e'), {}}}};
  for (const auto& [key, value] : more) contents.metadata.emplace_back("llama." + key, value);
  contents.tensors.insert(contents.tensors.end(), tensors.begin(), tensors.end());
  const TempDir dir;
  const StatusOr<GgufCheckpoint> checkpoint =
      GgufCheckpoint::Open(dir.Write("m.gguf", testing::GgufFileBytes(contents)));
  if (!checkpoint.ok()) return checkpoint.status();
  return ReadGgufConfig(*checkpoint);
}

testing::GgufTensorBytes Vector(const std::string& name, const std::vector<float>& values) {
  return {name,
          0,
          {values.size()},
          {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)},
          {}};
}

std::vector<double> Frequencies(const RopeConfig& rope) {
  return rope.InverseFrequencies(kHeadDim);
}

TEST(GgufConfigTest, ScalingIsLinearWhereTheTypeIsMissing) {
  struct Case {
    Metadata metadata;
    double factor;  // 1: no scaling
  };
  const std::pair<std::string, GgufBytes> linear = {"rope.scaling.type", GgufText("linear")};
  const std::pair<std::string, GgufBytes> none = {"rope.scaling.type", GgufText("none")};
  const std::pair<std::string, GgufBytes> four = {"rope.scaling.factor", GgufNumber(4.0f)};
  const std::pair<std::string, GgufBytes> zero = {"rope.scaling.factor", GgufNumber(0.0f)};
  const std::pair<std::string, GgufBytes> old = {"rope.scale_linear", GgufNumber(8.0f)};
  const Case cases[] = {
      {{}, 1},          {{linear}, 1},      {{linear, four}, 4}, {{four}, 4},
      {{old}, 8},       {{linear, old}, 8}, {{old, four}, 4},    {{linear, zero}, 1},
      {{zero, old}, 1}, {{none, four}, 1},  {{none, old}, 1},
  };
  const std::vector<double> plain = Frequencies(RopeConfig());
  for (const Case& c : cases) {
    std::string trace;
    for (const auto& [key, value] : c.metadata) absl::StrAppend(&trace, key, " ");
    SCOPED_TRACE(trace);
    const StatusOr<ModelConfig> config = Read(c.metadata);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rope.scaling, c.factor == 1 ? RopeScaling::kNone : RopeScaling::kLinear);
    EXPECT_EQ(config->rope.factor, c.factor);
    EXPECT_EQ(Frequencies(config->rope)[5], plain[5] / c.factor);
  }
}

TEST(GgufConfigTest, YarnLeavesOutAsLlamaCppDoes) {
  const std::pair<std::string, GgufBytes> type = {"rope.scaling.type", GgufText("yarn")};
  const std::pair<std::string, GgufBytes> four = {"rope.scaling.factor", GgufNumber(4.0f)};
  const std::string original = "rope.scaling.original_context_length";
  StatusOr<ModelConfig> config = Read({type, four, {original, GgufNumber(uint32_t{2048})}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(config->rope.factor, 4);
  EXPECT_EQ(config->rope.original_max_positions, 2048);
  EXPECT_EQ(config->rope.attention_factor, 0.1 * std::log(4.0) + 1);
  for (const Metadata& metadata :
       {Metadata{type, four}, Metadata{type, four, {original, GgufNumber(uint32_t{0})}}}) {
    config = Read(metadata);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rope.original_max_positions, kPositions);
  }
  // 0 is no factor, and one of the old name counts.
  config = Read({type, {"rope.scaling.factor", GgufNumber(0.0f)}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.factor, 1);
  EXPECT_EQ(config->rope.attention_factor, 1);
  config = Read({type, {"rope.scale_linear", GgufNumber(2.0f)}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.factor, 2);
  config = Read({type, four, {"rope.scaling.attn_factor", GgufNumber(0.5f)}});
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.attention_factor, 0.5 * (0.1 * std::log(4.0) + 1));
}

TEST(GgufConfigTest, VariantsOfYarnAreRefusedByName) {
  struct Case {
    const char* type;
    std::string key;
    float value;
    const char* supported;  // null where the value is
  };
  const std::string extension = "rope.scaling.yarn_ext_factor";
  const Case cases[] = {
      {"yarn", extension, 1, nullptr},
      {"yarn", extension, -1, nullptr},
      {"yarn", extension, 0.5f, "only 1 or less than 0"},
      {"yarn", extension, 0, "only 1 or less than 0"},
      {"yarn", extension, std::numeric_limits<float>::quiet_NaN(), "only 1 or less than 0"},
      {"linear", extension, 0, nullptr},
      {"linear", extension, 1, "only 0 or less than 0"},
      {"yarn", "rope.scaling.yarn_attn_factor", 1, nullptr},
      {"yarn", "rope.scaling.yarn_attn_factor", 1.25f, "only 1"},
      {"yarn", "rope.scaling.yarn_log_multiplier", 0, nullptr},
      {"yarn", "rope.scaling.yarn_log_multiplier", 0.125f, "only 0"},
      {"linear", "rope.scaling.yarn_attn_factor", 1.25f, "only 1"},
      {"linear", "rope.scaling.attn_factor", 1, nullptr},
      {"linear", "rope.scaling.attn_factor", 1.25f, "only 1"},
      {"none", "rope.scaling.attn_factor", 1.25f, "only 1"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(absl::StrCat(c.type, " ", c.key, " ", c.value));
    const Status status =
        Read({{"rope.scaling.type", GgufText(c.type)}, {c.key, GgufNumber(c.value)}}).status();
    if (c.supported == nullptr) {
      EXPECT_TRUE(status.ok()) << status;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_THAT(status.message(), HasSubstr("m.gguf: metadata 'llama." + c.key + "' is "));
    EXPECT_THAT(status.message(), HasSubstr(c.supported));
  }
}

TEST(GgufConfigTest, BadRopeMetadataAreRefused) {
  const std::pair<std::string, GgufBytes> yarn = {"rope.scaling.type", GgufText("yarn")};
  struct Case {
    Metadata metadata;
    const char* message;
  };
  const Case cases[] = {
      {{{"rope.scaling.factor", GgufNumber(-2.0f)}}, "'llama.rope.scaling.factor' is -2"},
      {{{"rope.scale_linear", GgufNumber(-2.0f)}}, "'llama.rope.scale_linear' is -2"},
      {{{"rope.scaling.factor", GgufNumber(std::numeric_limits<float>::quiet_NaN())}}, "is nan"},
      {{{"rope.scaling.type", GgufText("longrope")}}, "'longrope', but supported: none, linear"},
      {{yarn, {"rope.scaling.original_context_length", GgufNumber(int32_t{-1})}}, "from 0 to"},
      {{yarn, {"rope.freq_base", GgufNumber(1.0f)}}, "must be above 1 for yarn"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.message);
    const Status status = Read(c.metadata).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(c.message));
  }
}

TEST(GgufConfigTest, DivisorsAreBesidesAnyScaling) {
  const std::vector<float> ones(kHeadDim / 2, 1.0f);
  RopeConfig llama3 = {.scaling = RopeScaling::kLlama3,
                       .factor = 8,
                       .low_freq_factor = 1,
                       .high_freq_factor = 4,
                       .original_max_positions = 8192};
  const std::vector<double> plain = Frequencies(RopeConfig());
  std::vector<float> divisors;
  for (size_t i = 0; i < plain.size(); ++i) {
    divisors.push_back(static_cast<float>(plain[i] / Frequencies(llama3)[i]));
  }
  ASSERT_EQ(divisors.back(), 8);
  const Metadata linear = {{"rope.scaling.factor", GgufNumber(4.0f)}};
  const Metadata yarn = {{"rope.scaling.type", GgufText("yarn")},
                         {"rope.scaling.factor", GgufNumber(4.0f)}};

  for (const Metadata& metadata : {Metadata{}, linear, yarn}) {
    const StatusOr<ModelConfig> without = Read(metadata);
    ASSERT_TRUE(without.ok()) << without.status();
    StatusOr<ModelConfig> config = Read(metadata, {Vector("rope_freqs.weight", ones)});
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->rope.scaling, without->rope.scaling);
    EXPECT_TRUE(config->rope.frequency_divisors.empty());
    EXPECT_EQ(Frequencies(config->rope), Frequencies(without->rope));

    config = Read(metadata, {Vector("rope_freqs.weight", divisors)});
    ASSERT_TRUE(config.ok()) << config.status();
    if (metadata.empty()) {
      EXPECT_EQ(config->rope.scaling, RopeScaling::kLlama3);
      EXPECT_EQ(Frequencies(config->rope), Frequencies(llama3));
      continue;
    }
    EXPECT_EQ(config->rope.scaling, without->rope.scaling);
    EXPECT_EQ(config->rope.attention_factor, without->rope.attention_factor);
    EXPECT_EQ(config->rope.frequency_divisors, divisors);
    EXPECT_EQ(Frequencies(config->rope).back(), Frequencies(without->rope).back() / 8);
  }
}

TEST(GgufConfigTest, OneBiasIsEnough) {
  const std::vector<float> bias(256, 0.5f);
  EXPECT_FALSE(Read({})->attention_bias);
  EXPECT_FALSE(Read({})->mlp_bias);
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    for (const int layer : {0, 2}) {
      const auto config = Read({}, {Vector(absl::StrCat("blk.", layer, ".", name, ".bias"), bias)});
      ASSERT_TRUE(config.ok()) << config.status();
      EXPECT_TRUE(config->attention_bias) << name;
      EXPECT_FALSE(config->mlp_bias) << name;
    }
  }
  for (const char* name : {"ffn_gate", "ffn_up", "ffn_down"}) {
    const auto config = Read({}, {Vector(absl::StrCat("blk.1.", name, ".bias"), bias)});
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_FALSE(config->attention_bias) << name;
    EXPECT_TRUE(config->mlp_bias) << name;
  }
}

}  // namespace
}  // namespace sterna
