// LoadCheckpoint of family C: latent weights, and sub-norms by names of their own.

#include "absl/strings/str_cat.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using testing::ByteTensor;
using testing::ExpectRefused;
using testing::FloatTensor;
using testing::kFfn;
using testing::kHidden;
using testing::kVocab;
using testing::Loaded;
using testing::MakeTest;
using testing::OneFloat;
using testing::TempDir;
using testing::TestCheckpoint;
using testing::Values;

constexpr char kUp[] = "model.layers.0.mlp.up_proj.weight";
constexpr char kAttentionNorm[] = "model.layers.0.self_attn.inner_attn_ln.weight";
constexpr char kFfnNorm[] = "model.layers.1.mlp.ffn_layernorm.weight";

// The norms are told apart by their values, the linears by their scales.
TEST(LoadFamilyCTest, EveryTensorGoesToItsPlace) {
  TestCheckpoint test = MakeTest(CheckpointFamily::kInnerNorms);
  test.tensors[kAttentionNorm] = FloatTensor("F16", {20}, Values(20, 2));
  test.tensors[kFfnNorm] = FloatTensor("F32", {kFfn}, Values(kFfn, 3));
  std::vector<float> latent(kFfn * kHidden);
  for (size_t i = 0; i < latent.size(); ++i) latent[i] = static_cast<float>(i % 9) - 4;
  test.tensors[kUp] = FloatTensor("F32", {kFfn, kHidden}, latent);
  const TempDir dir;
  const auto loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(FamilyName(loaded->config.family), "C");
  const LayerWeights& first = loaded->weights.layers[0];
  const LayerWeights& second = loaded->weights.layers[1];
  EXPECT_EQ(Loaded(first.attn_sub_norm), Values(20, 2));
  EXPECT_EQ(Loaded(second.attn_sub_norm), Values(20, 1));
  EXPECT_EQ(Loaded(first.ffn_sub_norm), Values(kFfn, 1));
  EXPECT_EQ(Loaded(second.ffn_sub_norm), Values(kFfn, 3));
  EXPECT_TRUE(loaded->weights.tied);

  // The mean magnitude of 0 to 4 both ways is 20 / 9, and half of it lies between 1 and 2.
  EXPECT_NEAR(first.up.w.tensor_scale() / (20.0 / 9), 1.0, 1e-12);
  for (int64_t r = 0; r < kFfn; ++r) {
    for (int64_t c = 0; c < kHidden; ++c) {
      const float w = latent[static_cast<size_t>(r * kHidden + c)];
      ASSERT_EQ(first.up.w.At(r, c), w > 1 ? 1 : w < -1 ? -1 : 0) << r << " " << c;
    }
  }
  EXPECT_NE(second.up.w.tensor_scale(), first.up.w.tensor_scale());
}

TEST(LoadFamilyCTest, AnyFloatTypeAndAHeadOfItsOwn) {
  for (const char* type : {"F32", "F16", "BF16"}) {
    SCOPED_TRACE(type);
    TestCheckpoint test = MakeTest(CheckpointFamily::kInnerNorms);
    test.config["tie_word_embeddings"] = false;
    test.config["attention_bias"] = true;
    test.tensors["lm_head.weight"] =
        FloatTensor(type, {kVocab, kHidden}, Values(kVocab * kHidden, -0.5));
    test.tensors[kUp] = FloatTensor(type, {kFfn, kHidden}, Values(kFfn * kHidden, 0.25));
    for (int layer = 0; layer < 2; ++layer) {
      for (const auto& [name, rows] : {std::pair{"q", 20}, {"k", 10}, {"v", 10}, {"o", 20}}) {
        test.tensors[absl::StrCat("model.layers.", layer, ".self_attn.", name, "_proj.bias")] =
            FloatTensor(type, {rows}, Values(rows, 0.5));
      }
    }
    const TempDir dir;
    const auto loaded = test.Load(dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_FALSE(loaded->weights.tied);
    EXPECT_EQ(Loaded(loaded->weights.layers[1].k.bias), Values(10, 0.5));
    EXPECT_TRUE(loaded->weights.layers[1].down.bias.empty());
  }
}

TEST(LoadFamilyCTest, RefusesConfigsAndTensorsThatDisagree) {
  using T = TestCheckpoint;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const auto rename = [](T& t, const std::string& from, const std::string& to) {
    std::map<std::string, testing::TensorData> renamed;
    for (const auto& [name, tensor] : t.tensors) {
      const size_t at = name.find(from);
      renamed[at == std::string::npos ? name : std::string(name).replace(at, from.size(), to)] =
          tensor;
    }
    t.tensors = std::move(renamed);
  };
  ExpectRefused(
      CheckpointFamily::kInnerNorms,
      {{"an attention norm missing",
        [](T& t) { t.tensors.erase(kAttentionNorm); },
        kInvalid,
        {"weight_bits 1 (family C)", "self_attn.inner_attn_ln", "lacks '", kAttentionNorm}},
       {"an ffn norm missing",
        [](T& t) { t.tensors.erase(kFfnNorm); },
        kInvalid,
        {"weight_bits 1 (family C)", "mlp.ffn_layernorm", "lacks '", kFfnNorm}},
       {"the names of family A",
        [&](T& t) {
          rename(t, "inner_attn_ln", "attn_sub_norm");
          rename(t, "ffn_layernorm", "ffn_sub_norm");
        },
        kInvalid,
        {"weight_bits 1 (family C)", "has 'model.layers.0.self_attn.attn_sub_norm.weight'",
         "lacks '", kAttentionNorm}},
       {"one name of family A",
        [&](T& t) { rename(t, "ffn_layernorm", "ffn_sub_norm"); },
        kInvalid,
        {"lacks 'model.layers.0.mlp.ffn_layernorm.weight'",
         "has 'model.layers.0.mlp.ffn_sub_norm.weight'"}},
       {"norms of both families",
        [](T& t) { t.tensors["model.layers.1.mlp.ffn_sub_norm.weight"] = t.tensors[kFfnNorm]; },
        kInvalid,
        {"weight_bits 1 (family C)", "has 'model.layers.1.mlp.ffn_sub_norm.weight'"}},
       {"an attention norm of one head",
        [](T& t) { t.tensors[kAttentionNorm] = FloatTensor("F16", {10}, Values(10, 1)); },
        kInvalid,
        {kAttentionNorm, "F16 [10]", "[20]"}},
       {"a stored scale",
        [](T& t) { t.tensors["model.layers.0.mlp.up_proj.weight_scale"] = OneFloat(1); },
        kInvalid,
        {"weight_bits 1 (family C)", "mlp.up_proj.weight_scale"}},
       {"packed weights",
        [](T& t) {
          t.tensors[kUp] =
              ByteTensor({kFfn / 4, kHidden}, std::vector<uint8_t>(kFfn / 4 * kHidden));
        },
        kInvalid,
        {kUp, "U8 [9, 20]", "BF16, F16 or F32 [36, 20]"}},
       {"weights all zero",
        [](T& t) {
          t.tensors[kUp] = FloatTensor("F16", {kFfn, kHidden}, std::vector<float>(kFfn * kHidden));
        },
        absl::StatusCode::kDataLoss,
        {"all its weights are zero", kUp}},
       {"a config of family B",
        [](T& t) {
          for (const char* field : {"architectures", "weight_bits", "input_bits"}) {
            t.config.erase(field);
          }
          t.config["quantization_config"] = {{"quant_method", "bitnet"}};
        },
        kInvalid,
        {"model_type llama", "no sub-norms", "has '", kAttentionNorm}}});
  // And the other way round: the norms of family C where the config says another family.
  for (const auto family : {CheckpointFamily::kBitNetPacked, CheckpointFamily::kBitNetLatent}) {
    ExpectRefused(family, {{"the names of family C",
                            [&](T& t) { rename(t, "attn_sub_norm", "inner_attn_ln"); },
                            kInvalid,
                            {"model_type bitnet", "attn_sub_norm", "has '", kAttentionNorm}}});
  }
}

}  // namespace
}  // namespace sterna
