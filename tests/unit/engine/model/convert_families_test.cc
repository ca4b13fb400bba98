// ConvertModel of models with groups, ternary tables, q/k norms and rotary scaling: that what is
// written is read back as the same model.
#include <filesystem>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/thread_pool.h"
#include "engine/model/convert.h"
#include "engine/model/fingerprint.h"
#include "engine/model/gguf.h"
#include "engine/model/weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/paths.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;

std::string Golden(const std::string& name) {
  return testing::SourcePath("tests/golden/data/models/" + name);
}

StatusOr<ConvertReport> Convert(const std::string& model, const std::string& output,
                                ConvertFormat format) {
  return ConvertModel({.model = model, .output = output, .format = format, .tokenizer_dir = model});
}

// That both are the same to the engine: weights, how activations are quantised, and positions.
void ExpectSameModel(const std::string& path_a, const std::string& path_b) {
  const auto a = LoadCheckpoint(path_a);
  const auto b = LoadCheckpoint(path_b);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  ThreadPool pool(1);
  EXPECT_EQ(Fingerprint(a->weights, pool), Fingerprint(b->weights, pool));
  EXPECT_EQ(a->config.family, b->config.family);
  EXPECT_EQ(a->config.scale_group_size, b->config.scale_group_size);
  EXPECT_EQ(a->config.qk_norm, b->config.qk_norm);
  EXPECT_EQ(a->config.tie_embeddings, b->config.tie_embeddings);
  EXPECT_EQ(a->config.rope.InverseFrequencies(a->config.head_dim),
            b->config.rope.InverseFrequencies(b->config.head_dim));
  EXPECT_EQ(static_cast<float>(a->config.rope.attention_factor),
            static_cast<float>(b->config.rope.attention_factor));
}

// The head and, without one, the embedding are ternary; rotary scaling is yarn.
std::string WriteGrouped(const testing::TempDir& dir, int64_t group, bool tied) {
  testing::TestCheckpoint model = testing::GroupedTest(group);
  model.config["tie_word_embeddings"] = tied;
  if (tied) model.tensors.erase("lm_head.weight");
  dir.Write("config.json", model.config.dump());
  dir.Write("model.safetensors", testing::SafetensorsFileBytes(model.tensors));
  return dir.path();
}

TEST(ConvertFamiliesTest, GroupsAndTernaryTablesAreReadBackEqual) {
  struct Case {
    int64_t group;
    bool tied;
    ConvertFormat format;
  };
  for (const Case& c : {Case{64, false, ConvertFormat::kQ2_0Of64},
                        {64, true, ConvertFormat::kHfUnpacked},
                        {128, true, ConvertFormat::kQ2_0Of64},
                        {128, false, ConvertFormat::kQ2_0Of128},
                        {128, true, ConvertFormat::kQ2_0Of128},
                        {128, false, ConvertFormat::kHfUnpacked}}) {
    SCOPED_TRACE(
        absl::StrCat("groups of ", c.group, c.tied ? ", tied" : "", ", as ", NameOf(c.format)));
    const testing::TempDir from, to;
    const std::string model = WriteGrouped(from, c.group, c.tied);
    const std::string output = to.path() + "/converted";
    const auto report = Convert(model, output, c.format);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->largest_scale_change, 0) << "its scales are in half precision already";
    ExpectSameModel(model, output);
    if (!IsGguf(c.format)) continue;
    const auto file = GgufFile::Open(output);
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(*file->metadata().String("general.architecture"), "qwen3");
    EXPECT_EQ(file->Find("token_embd.weight")->type, GgufTensorType::kQ2_0);
    // And back, without what a config.json says.
    const std::string back = to.path() + "/back";
    const auto again = Convert(output, back, ConvertFormat::kHfUnpacked);
    ASSERT_TRUE(again.ok()) << again.status();
    ExpectSameModel(model, back);
  }
}

TEST(ConvertFamiliesTest, ADenseEmbeddingStaysDense) {
  const testing::TempDir dir;
  for (const ConvertFormat format : {ConvertFormat::kHfUnpacked, ConvertFormat::kHfPacked}) {
    const std::string output = absl::StrCat(dir.path(), "/", NameOf(format));
    const auto report = Convert(Golden("e-dense-embedding"), output, format);
    if (format == ConvertFormat::kHfPacked) {
      EXPECT_THAT(report.status().message(), HasSubstr("what can: hf-unpacked"));
      continue;
    }
    ASSERT_TRUE(report.ok()) << report.status();
    ExpectSameModel(Golden("e-dense-embedding"), output);
  }
}

TEST(ConvertFamiliesTest, GroupsAreRefusedWhereThereIsNoRoomForTheirScales) {
  struct Case {
    int64_t group;
    ConvertFormat format;
    const char* instead;
  };
  for (const Case& c :
       {Case{64, ConvertFormat::kQ2_0Of128, "hf-unpacked, gguf-q2_0-64"},
        {64, ConvertFormat::kTq2_0, "hf-unpacked, gguf-q2_0-64"},
        {128, ConvertFormat::kTq1_0, "hf-unpacked, gguf-q2_0-64, gguf-q2_0-128"},
        {128, ConvertFormat::kHfPacked, "hf-unpacked, gguf-q2_0-64, gguf-q2_0-128"}}) {
    SCOPED_TRACE(absl::StrCat("groups of ", c.group, " as ", NameOf(c.format)));
    const testing::TempDir from, to;
    const std::string output = to.path() + "/converted";
    const Status refused = Convert(WriteGrouped(from, c.group, true), output, c.format).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument) << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(absl::StrCat("what can: ", c.instead)));
    EXPECT_FALSE(std::filesystem::exists(output + "/config.json"));
    EXPECT_FALSE(std::filesystem::is_regular_file(output));
  }
  const testing::TempDir to;
  const Status refused =
      Convert(Golden("e-groups-64"), to.path() + "/m.gguf", ConvertFormat::kQ2_0Of64).status();
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("of 32 columns, no multiple of 64, so that gguf-q2_0-64 cannot hold it; "
                        "what can: hf-unpacked"));
}

TEST(ConvertFamiliesTest, RotaryScalingGoesAlong) {
  for (const char* model : {"b-yarn-rope", "b-f16-linear-rope", "b-llama3-rope"}) {
    SCOPED_TRACE(model);
    const testing::TempDir dir;
    const std::string output = dir.path() + "/converted";
    ASSERT_TRUE(Convert(Golden(model), output, ConvertFormat::kHfPacked).ok());
    ExpectSameModel(Golden(model), output);
  }
}

}  // namespace
}  // namespace sterna
