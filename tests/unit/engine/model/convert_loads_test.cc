// ConvertModel against the loader: what the one writes the other reads, and what the loader refuses
// is not converted either.
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/model/convert.h"
#include "engine/model/weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using testing::TestCheckpoint;

void Write(const TestCheckpoint& model, const testing::TempDir& dir) {
  dir.Write("config.json", model.config.dump());
  dir.Write("model.safetensors", testing::SafetensorsFileBytes(model.tensors));
}

StatusOr<ConvertReport> Convert(const std::string& model, const std::string& output,
                                ConvertFormat format, std::optional<TernarizeUnit> unit = {}) {
  return ConvertModel({.model = model,
                       .output = output,
                       .format = format,
                       .ternarize = unit,
                       .tokenizer_dir = std::filesystem::is_directory(model) ? model : ""});
}

void AddVector(TestCheckpoint& model, const std::string& name, int64_t size) {
  model.tensors[name] = testing::FloatTensor("F32", {size}, testing::Values(size, 1));
}

void AddBiases(TestCheckpoint& model, const std::string& part) {
  std::map<std::string, int64_t> rows;
  for (const auto& [name, tensor] : model.tensors) {
    if (!name.ends_with("_proj.weight") || name.find(part) == std::string::npos) continue;
    const int64_t packed = model.tensors.contains(name + "_scale") ? 4 : 1;
    rows[name.substr(0, name.size() - 6) + "bias"] = tensor.shape[0] * packed;
  }
  for (const auto& [name, size] : rows) AddVector(model, name, size);
}

// Weights that are not ternary.
void FillWithNumbers(TestCheckpoint& model) {
  std::mt19937 random(29);
  for (auto& [name, tensor] : model.tensors) {
    if (tensor.shape.size() != 2) continue;
    std::vector<float> values(static_cast<size_t>(tensor.shape[0] * tensor.shape[1]));
    for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 65) - 32);
    tensor = testing::FloatTensor("F32", tensor.shape, values);
  }
}

struct Model {
  const char* what;
  TestCheckpoint checkpoint;
  bool is_full_precision = false;
};

TestCheckpoint WithBiases(CheckpointFamily family) {
  TestCheckpoint model = testing::LargerTest(family);
  model.config["attention_bias"] = true;
  AddBiases(model, "self_attn");
  return model;
}

TestCheckpoint WithInputNorms() {
  TestCheckpoint model = testing::LargerTest(CheckpointFamily::kBitLinear);
  model.config["quantization_config"]["use_rms_norm"] = true;
  std::map<std::string, int64_t> cols;
  for (const auto& [name, tensor] : model.tensors) {
    if (name.ends_with("_proj.weight")) {
      cols[name.substr(0, name.size() - 6) + "rms_norm.weight"] = tensor.shape[1];
    }
  }
  for (const auto& [name, size] : cols) AddVector(model, name, size);
  return model;
}

TestCheckpoint With(TestCheckpoint model, const std::function<void(TestCheckpoint&)>& apply) {
  apply(model);
  return model;
}

std::vector<Model> Models() {
  using Family = CheckpointFamily;
  const auto relu2 = [](TestCheckpoint& m) { m.config["hidden_act"] = "relu2"; };
  const auto llama3 = [](TestCheckpoint& m) {
    m.config["rope_scaling"] = {{"rope_type", "llama3"},
                                {"factor", 8.0},
                                {"low_freq_factor", 1.0},
                                {"high_freq_factor", 4.0},
                                {"original_max_position_embeddings", 32}};
  };
  const auto whole_pairs = [](TestCheckpoint& m) { m.config["rope_scaling"]["truncate"] = false; };
  const auto large_scale = [](TestCheckpoint& m) {
    for (auto& [name, tensor] : m.tensors) {
      if (name.ends_with("weight_scale")) tensor = testing::OneFloat(1e6f);
    }
  };
  return {
      {"A", testing::LargerTest(Family::kBitNetPacked)},
      {"A with scales beyond half precision",
       With(testing::LargerTest(Family::kBitNetPacked), large_scale)},
      {"A'", testing::LargerTest(Family::kBitNetLatent)},
      {"A' with biases", WithBiases(Family::kBitNetLatent)},
      {"small A'", testing::MakeTest(Family::kBitNetLatent)},
      {"B", testing::LargerTest(Family::kBitLinear)},
      {"small B", testing::MakeTest(Family::kBitLinear)},
      {"B with biases", WithBiases(Family::kBitLinear)},
      {"B with input norms", WithInputNorms()},
      {"C", testing::LargerTest(Family::kInnerNorms)},
      {"C with biases", WithBiases(Family::kInnerNorms)},
      {"D", testing::LargerTest(Family::kUnpacked)},
      {"D with biases", WithBiases(Family::kUnpacked)},
      {"D with relu squared", With(testing::LargerTest(Family::kUnpacked), relu2)},
      {"D with llama3", With(testing::LargerTest(Family::kUnpacked), llama3)},
      {"E of 64", testing::GroupedTest(64)},
      {"E of 128", testing::GroupedTest(128)},
      {"E with llama3", With(testing::GroupedTest(128), llama3)},
      {"E with yarn of whole pairs", With(testing::GroupedTest(128), whole_pairs)},
      {"D in full precision", With(testing::LargerTest(Family::kUnpacked), FillWithNumbers), true},
      {"small D in full precision", With(testing::MakeTest(Family::kUnpacked), FillWithNumbers),
       true},
      {"E in full precision", With(testing::GroupedTest(64), FillWithNumbers), true}};
}

// Converts `model` to every format. What is written must load; what is refused must name just the
// formats that are not. Returns how many are written.
size_t ExpectLoadsOrIsRefused(const std::string& model, std::optional<TernarizeUnit> unit) {
  const testing::TempDir to;
  std::set<std::string> written;
  std::map<std::string, Status> refused;
  for (const FormatName& format : kConvertFormats) {
    const std::string output = absl::StrCat(to.path(), "/", format.name);
    const Status status = Convert(model, output, format.format, unit).status();
    if (!status.ok()) {
      refused[format.name] = status;
      EXPECT_FALSE(std::filesystem::is_regular_file(output)) << output;
      EXPECT_FALSE(std::filesystem::exists(output + "/config.json")) << output;
      continue;
    }
    written.insert(format.name);
    const Status loaded = LoadCheckpoint(output).status();
    EXPECT_TRUE(loaded.ok()) << format.name << ": " << loaded;
  }
  for (const auto& [format, status] : refused) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(std::string(status.message()), absl::MaxSplits("; what can: ", 1));
    std::set<std::string> named;
    if (parts.second != "none of the formats") named = absl::StrSplit(parts.second, ", ");
    EXPECT_EQ(named, written) << format << ": " << status;
  }
  return written.size();
}

TEST(ConvertLoadsTest, WhatIsWrittenLoadsAndRefusalsNameWhatIsWritten) {
  const TernarizeUnit kUnits[] = {{ScaleGranularity::kTensor, 0},
                                  {ScaleGranularity::kRow, 0},
                                  {ScaleGranularity::kGroup, 64},
                                  {ScaleGranularity::kGroup, 128}};
  std::map<std::string, size_t> written;
  for (const Model& model : Models()) {
    const testing::TempDir dir;
    Write(model.checkpoint, dir);
    if (!model.is_full_precision) {
      SCOPED_TRACE(model.what);
      written[model.what] = ExpectLoadsOrIsRefused(dir.path(), {});
      continue;
    }
    for (const TernarizeUnit& unit : kUnits) {
      SCOPED_TRACE(absl::StrCat(model.what, ", rounded: ", TernarizeWarning(unit)));
      written[model.what] += ExpectLoadsOrIsRefused(dir.path(), unit);
    }
  }
  const std::map<std::string, size_t> expected = {{"A", 5},
                                                  {"A with scales beyond half precision", 1},
                                                  {"A'", 5},
                                                  {"A' with biases", 0},
                                                  {"small A'", 0},
                                                  {"B", 6},
                                                  {"small B", 2},
                                                  {"B with biases", 6},
                                                  {"B with input norms", 1},
                                                  {"C", 5},
                                                  {"C with biases", 0},
                                                  {"D", 5},
                                                  {"D with biases", 5},
                                                  {"D with relu squared", 1},
                                                  {"D with llama3", 5},
                                                  {"E of 64", 2},
                                                  {"E of 128", 3},
                                                  {"E with llama3", 1},
                                                  {"E with yarn of whole pairs", 1},
                                                  // Of a scale per tensor, row, 64 and 128.
                                                  {"D in full precision", 6 + 5 + 2 + 3},
                                                  {"small D in full precision", 2 + 1 + 1 + 1},
                                                  {"E in full precision", 5 + 5 + 2 + 3}};
  EXPECT_EQ(written, expected);
}

// Of 100 columns, the last 36 would not be found to have a scale of their own.
TEST(ConvertLoadsTest, GroupsThatAreNotWholeAreRefused) {
  const testing::TempDir dir, to;
  TestCheckpoint model = testing::MakeTest(CheckpointFamily::kUnpacked);
  model.config["intermediate_size"] = 100;
  for (auto& [name, tensor] : model.tensors) {
    for (int64_t& size : tensor.shape) size = size == testing::kFfn ? 100 : size;
  }
  FillWithNumbers(model);
  Write(model, dir);
  const std::string output = to.path() + "/out";
  const TernarizeUnit unit = {ScaleGranularity::kGroup, 64};
  const Status status = Convert(dir.path(), output, ConvertFormat::kHfUnpacked, unit).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("tensor 'model.layers.0.mlp.down_proj' has a scale for each 64 of 100 "
                        "columns, no multiple of 64, so that hf-unpacked cannot hold it"));
  EXPECT_FALSE(std::filesystem::exists(output + "/config.json"));
}

TEST(ConvertLoadsTest, AGgufModelsOwnRotaryFrequenciesStayInGguf) {
  const testing::TempDir dir;
  TestCheckpoint model = testing::LargerTest(CheckpointFamily::kUnpacked);
  model.config["rope_scaling"] = {{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 32}};
  Write(model, dir);
  const std::string gguf = dir.path() + "/m.gguf";
  ASSERT_TRUE(Convert(dir.path(), gguf, ConvertFormat::kTq2_0).ok());
  EXPECT_EQ(ExpectLoadsOrIsRefused(gguf, {}), 4);
}

struct Contradiction {
  const char* what;
  std::function<void(TestCheckpoint&)> apply;
  const char* message;
};

// The error is the loader's, and comes before there is any output.
void ExpectRefusedAsByTheLoader(TestCheckpoint model, const Contradiction& contradiction,
                                ConvertFormat format, std::optional<TernarizeUnit> unit = {}) {
  SCOPED_TRACE(absl::StrCat(contradiction.what, " as ", NameOf(format)));
  const testing::TempDir dir, to;
  contradiction.apply(model);
  Write(model, dir);
  const Status loaded = LoadCheckpoint(dir.path()).status();
  EXPECT_THAT(std::string(loaded.message()), HasSubstr(contradiction.message));
  EXPECT_EQ(Convert(dir.path(), to.path() + "/out", format, unit).status(), loaded);
  EXPECT_TRUE(std::filesystem::is_empty(to.path()));
}

TEST(ConvertLoadsTest, WhatContradictsItsConfigIsRefusedBeforeThereIsOutput) {
  const std::string layer = "model.layers.1.";
  const std::vector<Contradiction> contradictions = {
      {"a bias", [&](auto& m) { AddVector(m, layer + "self_attn.q_proj.bias", 256); },
       "does not set attention_bias"},
      {"a bias of the feed-forward part",
       [&](auto& m) { AddVector(m, layer + "mlp.down_proj.bias", 256); }, "does not set mlp_bias"},
      {"an input norm",
       [&](auto& m) { AddVector(m, layer + "mlp.down_proj.rms_norm.weight", 512); },
       "does not set use_rms_norm"},
      {"a norm of k", [&](auto& m) { AddVector(m, layer + "self_attn.k_norm.weight", 64); },
       "is not of model_type qwen3"},
      {"a sub-norm", [&](auto& m) { AddVector(m, layer + "mlp.ffn_sub_norm.weight", 512); },
       "no sub-norms"},
      {"a head of its own", [](auto& m) { m.config["tie_word_embeddings"] = true; },
       "sets tie_word_embeddings"},
      {"no head", [](auto& m) { m.tensors.erase("lm_head.weight"); },
       "does not set tie_word_embeddings"},
      {"another layer", [](auto& m) { m.config["num_hidden_layers"] = 1; }, "num_hidden_layers 1"}};
  for (const Contradiction& contradiction : contradictions) {
    for (const ConvertFormat format : {ConvertFormat::kHfPacked, ConvertFormat::kTq2_0}) {
      ExpectRefusedAsByTheLoader(testing::LargerTest(CheckpointFamily::kBitLinear), contradiction,
                                 format);
    }
    // What rounds weights reads them by another way.
    ExpectRefusedAsByTheLoader(
        With(testing::LargerTest(CheckpointFamily::kUnpacked), FillWithNumbers), contradiction,
        ConvertFormat::kHfUnpacked, TernarizeUnit{});
  }
  ExpectRefusedAsByTheLoader(
      With(testing::LargerTest(CheckpointFamily::kUnpacked), FillWithNumbers),
      {"a scale",
       [&](auto& m) { m.tensors[layer + "mlp.up_proj.weight_scale"] = testing::OneFloat(1); },
       "where scales are computed"},
      ConvertFormat::kHfUnpacked, TernarizeUnit{});
}

// A copy of a tied embedding is not written.
TEST(ConvertLoadsTest, AHeadThatIsTheEmbeddingIsNoContradiction) {
  const testing::TempDir dir, to;
  TestCheckpoint model = testing::LargerTest(CheckpointFamily::kBitLinear);
  model.config["tie_word_embeddings"] = true;
  model.tensors["lm_head.weight"] = model.tensors["model.embed_tokens.weight"];
  Write(model, dir);
  const std::string output = to.path() + "/out";
  ASSERT_TRUE(Convert(dir.path(), output, ConvertFormat::kHfPacked).ok());
  const auto loaded = LoadCheckpoint(output);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->config.tie_embeddings);
}

// Family C becomes model_type bitnet, whose default theta is another than llama's.
TEST(ConvertLoadsTest, RotaryDefaultsOfTheSourceAreWritten) {
  const nlohmann::json kRopes[] = {
      {},
      {{"rope_theta", nullptr}},
      {{"rope_parameters", {{"rope_type", "default"}}}},
      {{"rope_parameters", nullptr}, {"rope_scaling", nullptr}},
      {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}}}},
      {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 777.0}}}},
      {{"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}, {"rope_theta", 888.0}}};
  for (const nlohmann::json& rope : kRopes) {
    SCOPED_TRACE(rope.dump());
    const testing::TempDir dir, to;
    TestCheckpoint model = testing::LargerTest(CheckpointFamily::kInnerNorms);
    if (rope.is_object()) model.config.update(rope);
    Write(model, dir);
    const std::string output = to.path() + "/out";
    ASSERT_TRUE(Convert(dir.path(), output, ConvertFormat::kHfPacked).ok());
    const auto was = LoadCheckpoint(dir.path());
    const auto is = LoadCheckpoint(output);
    ASSERT_TRUE(was.ok() && is.ok()) << was.status() << is.status();
    EXPECT_EQ(is->config.model_type, "bitnet");
    EXPECT_EQ(is->config.rope.theta, was->config.rope.theta);
    EXPECT_EQ(is->config.rope.InverseFrequencies(64), was->config.rope.InverseFrequencies(64));
  }
}

}  // namespace
}  // namespace sterna
