// LoadCheckpoint of family E: scales in groups of columns, ternary embedding and head, q/k norms.
#include <functional>

#include "engine/model/safetensors.h"
#include "engine/model/tensor_reader.h"
#include "tests/testing/paths.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using testing::FloatTensor;
using ::testing::HasSubstr;
using testing::kHidden;
using testing::kVocab;
using testing::MakeTest;
using testing::TempDir;
using testing::TestCheckpoint;
using testing::Values;

std::string Golden(const std::string& name) {
  return testing::SourcePath("tests/golden/data/models/" + name);
}

// That `matrix` is the tensor `name` of the golden model, value for value.
void ExpectStored(const std::string& dir, const std::string& name, const TernaryMatrix& matrix) {
  SCOPED_TRACE(name);
  const auto file = SafetensorsFile::Open(dir + "/model.safetensors");
  ASSERT_TRUE(file.ok()) << file.status();
  const TensorView* view = file->Find(name);
  ASSERT_NE(view, nullptr);
  ASSERT_EQ(view->shape, (std::vector<int64_t>{matrix.rows(), matrix.cols()}));
  std::vector<float> stored(static_cast<size_t>(matrix.cols())), row(stored);
  for (int64_t r = 0; r < matrix.rows(); ++r) {
    ReadFloats(*view, r * matrix.cols(), stored);
    matrix.CopyRow(r, row.data());
    ASSERT_EQ(row, stored) << r;
  }
}

TEST(LoadFamilyETest, CodesAndScalesAreRecoveredExactly) {
  struct Case {
    const char* name;
    int64_t group;
    bool ternary_embedding;
    bool tied;
  };
  for (const Case& c : {Case{"e-groups-64", 64, true, true},
                        {"e-groups-128", 128, true, false},
                        {"e-dense-embedding", 64, false, false}}) {
    SCOPED_TRACE(c.name);
    const std::string dir = Golden(c.name);
    const auto loaded = LoadCheckpoint(dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(FamilyName(loaded->config.family), "E");
    EXPECT_EQ(loaded->config.scale_group_size, c.group);
    const ModelWeights& weights = loaded->weights;
    const LayerWeights& layer = weights.layers[0];
    EXPECT_EQ(layer.q_norm.size(), loaded->config.head_dim);
    EXPECT_EQ(layer.k_norm.size(), loaded->config.head_dim);
    for (const TernaryLinearWeights* linear : layer.linears()) {
      EXPECT_EQ(linear->w.group_size(), c.group);
    }
    ExpectStored(dir, "model.layers.0.self_attn.o_proj.weight", layer.o.w);
    ExpectStored(dir, "model.layers.0.mlp.up_proj.weight", layer.up.w);
    ExpectStored(dir, "model.layers.0.mlp.down_proj.weight", layer.down.w);
    EXPECT_EQ(weights.ternary_head() != nullptr, c.ternary_embedding);
    EXPECT_EQ(weights.ternary_embedding.empty(), !c.ternary_embedding);
    if (!c.ternary_embedding) {
      EXPECT_EQ(weights.head.rows, loaded->config.vocab_size);
      continue;
    }
    EXPECT_EQ(weights.dense_bytes(), 0);
    EXPECT_EQ(weights.ternary_head() == &weights.ternary_embedding, c.tied);
    ExpectStored(dir, "model.embed_tokens.weight", weights.ternary_embedding);
    if (!c.tied) ExpectStored(dir, "lm_head.weight", *weights.ternary_head());
  }
}

TEST(LoadFamilyETest, ATernaryHeadIsKeptAsItIs) {
  const Status int8 =
      LoadCheckpoint(Golden("e-groups-64"), {.head = {.type = HeadType::kInt8}}).status();
  EXPECT_EQ(int8.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(int8.message(), HasSubstr("int8 is of no use"));
  EXPECT_TRUE(
      LoadCheckpoint(Golden("e-groups-64"), {.head = {.shortlist = ShortlistUse::kAuto}}).ok());
  EXPECT_TRUE(
      LoadCheckpoint(Golden("e-dense-embedding"), {.head = {.type = HeadType::kInt8}}).ok());
}

// Of family E, with a scale for each row.
TestCheckpoint MakeQwen3() {
  TestCheckpoint test = MakeTest(CheckpointFamily::kUnpacked);
  test.config["model_type"] = "qwen3";
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    for (const char* norm : {"self_attn.q_norm.weight", "self_attn.k_norm.weight"}) {
      test.tensors[std::string(layer) + norm] = FloatTensor("F16", {12}, Values(12, 1));
    }
  }
  return test;
}

std::vector<float> TernaryTable(float odd_row_scale) {
  std::vector<float> values;
  for (int64_t i = 0; i < kVocab * kHidden; ++i) {
    const float scale = i / kHidden % 2 == 1 ? odd_row_scale : 0.5f;
    values.push_back(static_cast<float>(i * 7 % 3 - 1) * scale);
  }
  return values;
}

TEST(LoadFamilyETest, ValuesDecideWhetherEmbeddingAndHeadAreTernary) {
  const auto load = [](const std::vector<float>* embedding, const std::vector<float>* head) {
    TestCheckpoint test = MakeQwen3();
    for (const auto& [name, values] :
         {std::pair("model.embed_tokens.weight", embedding), std::pair("lm_head.weight", head)}) {
      if (values != nullptr) test.tensors[name] = FloatTensor("F32", {kVocab, kHidden}, *values);
    }
    StatusOr<Checkpoint> loaded = test.Load(TempDir());
    STERNA_CHECK(loaded.ok());
    EXPECT_EQ(loaded->config.scale_group_size, 0);
    return std::pair(!loaded->weights.ternary_embedding.empty(),
                     loaded->weights.ternary_head() != nullptr);
  };
  const std::vector<float> ternary = TernaryTable(0.25f);
  std::vector<float> nearly = ternary;
  nearly.back() = 0.125f;
  EXPECT_EQ(load(nullptr, nullptr), std::pair(false, false));
  EXPECT_EQ(load(&ternary, nullptr), std::pair(true, false));
  EXPECT_EQ(load(nullptr, &ternary), std::pair(false, true));
  EXPECT_EQ(load(&nearly, &ternary), std::pair(false, true));
}

TEST(LoadFamilyETest, ATiedHeadThatIsStoredTwiceMustBeTheSame) {
  TestCheckpoint test = MakeQwen3();
  test.config["tie_word_embeddings"] = true;
  test.tensors["model.embed_tokens.weight"] =
      FloatTensor("F16", {kVocab, kHidden}, TernaryTable(0.5f));
  test.tensors["lm_head.weight"] = test.tensors["model.embed_tokens.weight"];
  const auto loaded = test.Load(TempDir());
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->weights.ternary_head(), &loaded->weights.ternary_embedding);
  test.tensors["lm_head.weight"] = FloatTensor("F16", {kVocab, kHidden}, TernaryTable(0.25f));
  EXPECT_THAT(test.LoadStatus().message(), HasSubstr("differs from 'model.embed_tokens.weight'"));
}

TEST(LoadFamilyETest, RefusesWhatIsMissingOrNotTernary) {
  TestCheckpoint test = MakeQwen3();
  ASSERT_TRUE(test.LoadStatus().ok()) << test.LoadStatus();
  test.tensors.erase("model.layers.1.self_attn.k_norm.weight");
  EXPECT_THAT(test.LoadStatus().message(), HasSubstr("k_norm.weight"));
  test = MakeQwen3();
  test.tensors["model.layers.0.self_attn.q_norm.weight"] = FloatTensor("F16", {24}, Values(24, 1));
  EXPECT_THAT(test.LoadStatus().message(), HasSubstr("F16 [24]"));
  test = MakeQwen3();
  test.tensors["model.layers.0.mlp.up_proj.weight_scale"] = testing::OneFloat(1);
  EXPECT_THAT(test.LoadStatus().message(), HasSubstr("no quantization_config (family E)"));
  test = MakeQwen3();
  const std::string gate = "model.layers.0.mlp.gate_proj.weight";
  test.tensors[gate] = FloatTensor("F16", {36, kHidden}, Values(36 * kHidden, 1));
  EXPECT_THAT(test.LoadStatus().message(), HasSubstr("weights in full precision"));
}

}  // namespace
}  // namespace sterna
