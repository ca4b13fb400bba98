// LoadCheckpoint.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/model/safetensors.h"
#include "engine/model/weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/engine/model/checkpoint_testing.h"
#include "tests/unit/engine/model/weights_testing.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::ByteTensor;
using testing::ExpectRefused;
using testing::FloatTensor;
using testing::kFfn;
using testing::kHidden;
using testing::kVocab;
using testing::Loaded;
using testing::MakeTest;
using testing::OneFloat;
using testing::SafetensorsFileBytes;
using testing::TempDir;
using testing::TensorData;
using testing::TestCheckpoint;
using testing::Values;

constexpr char kQ[] = "model.layers.0.self_attn.q_proj";
constexpr char kDown[] = "model.layers.1.mlp.down_proj";

// The plain reading of the packed form, one weight at a time.
void ExpectUnpacked(const TernaryMatrix& w, const TensorData& packed) {
  ASSERT_EQ(w.rows(), packed.shape[0] * 4);
  ASSERT_EQ(w.cols(), packed.shape[1]);
  for (int64_t r = 0; r < packed.shape[0]; ++r) {
    for (int64_t c = 0; c < packed.shape[1]; ++c) {
      const auto byte = static_cast<uint8_t>(packed.bytes[static_cast<size_t>(r * w.cols() + c)]);
      for (int i = 0; i < 4; ++i) {
        ASSERT_EQ(w.At(i * packed.shape[0] + r, c), (byte >> (2 * i) & 3) - 1) << r << " " << c;
      }
    }
  }
}

TEST(LoadCheckpointTest, FamilyBDividesAndHasNoSubNorms) {
  const TempDir dir;
  const TestCheckpoint test = MakeTest(CheckpointFamily::kBitLinear);
  const auto loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const ModelWeights& weights = loaded->weights;
  ASSERT_EQ(weights.layers.size(), 2u);
  ExpectUnpacked(weights.layers[0].q.w, test.tensors.at(absl::StrCat(kQ, ".weight")));
  ExpectUnpacked(weights.layers[1].down.w, test.tensors.at(absl::StrCat(kDown, ".weight")));
  EXPECT_EQ(weights.layers[0].q.w.tensor_scale(), 1.0 / 0.375);
  EXPECT_TRUE(weights.layers[0].attn_sub_norm.empty());
  EXPECT_TRUE(weights.layers[1].ffn_sub_norm.empty());
  EXPECT_TRUE(weights.layers[0].q.bias.empty());
  EXPECT_TRUE(weights.layers[0].q.in_norm.empty());
  EXPECT_EQ(Loaded(weights.final_norm), Values(kHidden, 1));
  EXPECT_NE(weights.head.data, weights.embedding.data);
  EXPECT_EQ(weights.head.rows, kVocab);
  EXPECT_EQ(weights.embedding.layout, DenseLayout::kRows);
  EXPECT_EQ(weights.head.layout, DenseLayout::kTiles);
  const std::vector<float> head = Values(kVocab * kHidden, -0.5);
  std::vector<float> packed(head.size());
  for (int64_t r = 0; r < kVocab; ++r) weights.head.CopyRow(r, &packed[r * kHidden]);
  EXPECT_EQ(packed, head);
  // The head is one tile of 16 rows and 32 columns.
  EXPECT_EQ(weights.dense_bytes(), (kVocab * kHidden + 16 * 32) * 2);
  EXPECT_EQ(weights.mapped_files.size(), 1u);
}

TEST(LoadCheckpointTest, FamilyAMultipliesAndHasSubNorms) {
  const TempDir dir;
  const TestCheckpoint test = MakeTest(CheckpointFamily::kBitNetPacked);
  const auto loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const ModelWeights& weights = loaded->weights;
  ExpectUnpacked(weights.layers[0].q.w, test.tensors.at(absl::StrCat(kQ, ".weight")));
  EXPECT_EQ(weights.layers[0].q.w.tensor_scale(), 0.375);
  EXPECT_EQ(Loaded(weights.layers[0].attn_sub_norm), Values(24, 1));
  EXPECT_EQ(Loaded(weights.layers[1].ffn_sub_norm), Values(kFfn, 1));
  EXPECT_EQ(weights.head.data, weights.embedding.data);
  EXPECT_EQ(weights.dense_bytes(), 16 * 32 * 2);
  EXPECT_TRUE(weights.mapped_files.empty());
  EXPECT_EQ(weights.embedding.type, DenseType::kBf16);
  EXPECT_EQ(weights.embedding.layout, DenseLayout::kTiles);
  std::vector<float> first(kHidden);
  weights.embedding.CopyRow(0, first.data());
  EXPECT_EQ(first[0], 0.3125f);
}

TEST(LoadCheckpointTest, LatentWeightsAreQuantisedToTheirMeanMagnitude) {
  const TempDir dir;
  TestCheckpoint test = MakeTest(CheckpointFamily::kBitNetLatent);
  // Mean magnitude 1 exactly; 0.5 and 1.5 are ties that round to even, 0 and 2 (clamped to 1).
  std::vector<float> latent(20 * kHidden);
  const float pattern[] = {0.5, -0.5, 1.5, -1.5, 0.50390625, -0.50390625, 0, 2, -2, 0.9921875};
  for (size_t i = 0; i < latent.size(); ++i) latent[i] = pattern[i % 10];
  double sum = 0;
  for (const float w : latent) sum += std::abs(w);
  for (const char* type : {"F32", "BF16", "F16"}) {
    SCOPED_TRACE(type);
    std::vector<float> exact = latent;
    exact[0] += static_cast<float>(latent.size() - sum);  // mean of exactly one
    if (type[0] != 'F' || type[1] != '3') exact = latent;
    test.tensors[absl::StrCat(kQ, ".weight")] = FloatTensor(type, {20, kHidden}, exact);
    const auto loaded = test.Load(dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const TernaryMatrix& w = loaded->weights.layers[0].q.w;
    double magnitudes = 0;
    for (const float x : exact) magnitudes += std::abs(x);
    const double mean = magnitudes / static_cast<double>(exact.size());
    EXPECT_NEAR(w.tensor_scale() / mean, 1.0, 1e-15);
    for (int64_t r = 0; r < w.rows(); ++r) {
      for (int64_t c = 0; c < w.cols(); ++c) {
        const double x = exact[static_cast<size_t>(r * kHidden + c)] * (1.0 / mean);
        const double rounded = std::clamp(std::nearbyint(x), -1.0, 1.0);
        ASSERT_EQ(w.At(r, c), static_cast<int>(rounded)) << r << " " << c << " " << x;
      }
    }
  }
}

TEST(LoadCheckpointTest, BiasesInputNormsAndScaleForms) {
  const TempDir dir;
  TestCheckpoint test = MakeTest(CheckpointFamily::kBitLinear);
  test.config["attention_bias"] = true;
  test.config["mlp_bias"] = true;
  test.config["quantization_config"]["use_rms_norm"] = true;
  std::map<std::string, TensorData> extra;
  for (const auto& [name, tensor] : test.tensors) {
    if (tensor.dtype != "U8") continue;
    const std::string linear = name.substr(0, name.size() - std::string(".weight").size());
    const int64_t rows = tensor.shape[0] * 4;
    extra[linear + ".bias"] = FloatTensor("F32", {rows}, Values(rows, 0.25));
    extra[linear + ".rms_norm.weight"] =
        FloatTensor("F16", {tensor.shape[1]}, Values(tensor.shape[1], 2));
  }
  test.tensors.merge(extra);
  const float scale = 3.0f;
  test.tensors[absl::StrCat(kQ, ".weight_scale")] = FloatTensor("F32", {}, {&scale, 1});
  const auto loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const LayerWeights& layer = loaded->weights.layers[0];
  EXPECT_EQ(layer.q.w.tensor_scale(), 1.0 / 3.0);
  EXPECT_EQ(Loaded(layer.q.bias), Values(24, 0.25));
  EXPECT_EQ(Loaded(layer.down.bias), Values(kHidden, 0.25));
  EXPECT_EQ(Loaded(layer.down.in_norm), Values(kFfn, 2));
}

TEST(LoadCheckpointTest, F16EmbeddingBecomesF32) {
  const TempDir dir;
  TestCheckpoint test = MakeTest(CheckpointFamily::kBitNetPacked);
  std::vector<float> values = Values(kVocab * kHidden, 0.5);
  values[5] = -6.103515625e-05f;  // the smallest normal half
  test.tensors["model.embed_tokens.weight"] = FloatTensor("F16", {kVocab, kHidden}, values);
  test.tensors["model.embed_tokens.weight"].bytes.replace(12, 4, {'\x01', '\x00', '\xff', '\x83'});
  values[6] = 0x1p-24f;          // the smallest subnormal half
  values[7] = -1023 * 0x1p-24f;  // the largest, negative
  const auto loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const DenseMatrix& embedding = loaded->weights.embedding;
  ASSERT_EQ(embedding.type, DenseType::kF32);
  const auto* floats = static_cast<const float*>(embedding.data);
  EXPECT_EQ(std::vector<float>(floats, floats + values.size()), values);
  EXPECT_TRUE(loaded->weights.mapped_files.empty());
}

TEST(LoadCheckpointTest, EmbeddingsAtOddAddressesAreCopied) {
  // The header's length decides whether the embedding lies at an odd address: one of the two does.
  size_t copies = 0;
  for (const char* name : {"z.one", "z.more"}) {
    const TempDir dir;
    TestCheckpoint test = MakeTest(CheckpointFamily::kBitLinear);
    test.tensors[name] = ByteTensor({0}, {});
    const auto loaded = test.Load(dir);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const DenseMatrix& embedding = loaded->weights.embedding;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(embedding.data) % 2, 0u);
    const std::string& stored = test.tensors["model.embed_tokens.weight"].bytes;
    EXPECT_EQ(std::memcmp(embedding.data, stored.data(), stored.size()), 0);
    // The head is always packed into a buffer of its own.
    EXPECT_EQ(loaded->weights.mapped_files.size() + loaded->weights.buffers.size(), 2u);
    copies += loaded->weights.buffers.size() - 1;
  }
  EXPECT_EQ(copies, 1u);
}

TEST(LoadCheckpointTest, Int8HeadIsRoundedAndTheEmbeddingIsNot) {
  for (const auto family : {CheckpointFamily::kBitNetPacked, CheckpointFamily::kBitLinear}) {
    const TestCheckpoint test = MakeTest(family);
    const TempDir exact_dir, int8_dir;
    const auto exact = test.Load(exact_dir);
    ASSERT_TRUE(exact.ok()) << exact.status();
    const auto int8 = test.Load(int8_dir, {.type = HeadType::kInt8});
    ASSERT_TRUE(int8.ok()) << int8.status();
    const ModelWeights& a = exact->weights;
    const ModelWeights& b = int8->weights;
    EXPECT_EQ(a.num_parameters(), b.num_parameters());
    EXPECT_EQ(b.head.type, DenseType::kI8);
    EXPECT_EQ(b.dense_bytes(), b.embedding.bytes() + b.head.bytes());
    testing::ExpectHeadRounded(a, b);
  }
}

TEST(LoadCheckpointTest, Int8HeadMustBeFinite) {
  TestCheckpoint test = MakeTest(CheckpointFamily::kBitNetPacked);
  auto& bytes = test.tensors["model.embed_tokens.weight"].bytes;
  bytes[2 * kHidden] = '\x80';  // the first value of row 1: infinity
  bytes[2 * kHidden + 1] = '\x7f';
  const TempDir dir;
  EXPECT_TRUE(test.Load(dir).ok());
  const TempDir int8_dir;
  const Status status = test.Load(int8_dir, {.type = HeadType::kInt8}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("'model.embed_tokens.weight': row 1"));
}

TEST(LoadCheckpointTest, TiedHeadStoredTwiceMustBeTheSame) {
  TestCheckpoint test = MakeTest(CheckpointFamily::kBitNetPacked);
  test.tensors["lm_head.weight"] = test.tensors["model.embed_tokens.weight"];
  const TempDir dir;
  const auto loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->weights.head.data, loaded->weights.embedding.data);
  test.tensors["lm_head.weight"].bytes[0] ^= 1;
  const Status status = test.LoadStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("tie_word_embeddings"));
  EXPECT_THAT(status.message(), HasSubstr("'lm_head.weight'"));
}

TEST(LoadCheckpointTest, CodeThreeIsRefusedWithItsPlace) {
  TestCheckpoint test = MakeTest(CheckpointFamily::kBitNetPacked);
  // Packed row 2, column 5, third code: weight row 2 * 5 + 2 of the 20 rows.
  test.tensors[absl::StrCat(kDown, ".weight")].bytes[2 * kFfn + 5] = '\x75';
  const Status status = test.LoadStatus();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(status.message(), HasSubstr("model.layers.1.mlp.down_proj.weight"));
  EXPECT_THAT(status.message(), HasSubstr("code 3 at row 12, column 5"));
}

TEST(LoadCheckpointTest, RefusesDamagedPackedCheckpoints) {
  using T = TestCheckpoint;
  const std::string weight = absl::StrCat(kQ, ".weight");
  const std::string scale = absl::StrCat(kQ, ".weight_scale");
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  constexpr auto kNotFound = absl::StatusCode::kNotFound;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  ExpectRefused(
      CheckpointFamily::kBitNetPacked,
      {{"weight missing", [&](T& t) { t.tensors.erase(weight); }, kNotFound, {weight}},
       {"scale missing", [&](T& t) { t.tensors.erase(scale); }, kNotFound, {scale}},
       {"norm missing",
        [](T& t) { t.tensors.erase("model.norm.weight"); },
        kNotFound,
        {"'model.norm.weight'"}},
       {"shape transposed",
        [&](T& t) {
          t.tensors[weight].shape = {20, 6};
        },
        kInvalid,
        {weight, "U8 [20, 6]", "U8 [6, 20]"}},
       {"rank", [&](T& t) { t.tensors[weight].shape = {120}; }, kInvalid, {"U8 [120]"}},
       {"dense weight",
        [&](T& t) {
          t.tensors[weight] = FloatTensor("BF16", {24, 20}, Values(480, 0));
        },
        kInvalid,
        {weight, "BF16 [24, 20]", "packed weights"}},
       {"zero scale", [&](T& t) { t.tensors[scale] = OneFloat(0); }, kDataLoss, {scale}},
       {"negative scale", [&](T& t) { t.tensors[scale] = OneFloat(-1); }, kDataLoss, {"-1"}},
       {"NaN scale", [&](T& t) { t.tensors[scale] = OneFloat(nan); }, kDataLoss, {"nan"}},
       {"two scales",
        [&](T& t) { t.tensors[scale] = FloatTensor("F32", {2}, Values(2, 1)); },
        kInvalid,
        {scale, "one scale"}},
       {"NaN norm",
        [&](T& t) {
          std::vector<float> values = Values(kHidden, 1);
          values[3] = nan;
          t.tensors["model.norm.weight"] = FloatTensor("BF16", {kHidden}, values);
        },
        kDataLoss,
        {"'model.norm.weight' holds nan at 3"}},
       {"bytes for a norm",
        [](T& t) {
          t.tensors["model.norm.weight"] = ByteTensor({kHidden}, std::vector<uint8_t>(kHidden));
        },
        kInvalid,
        {"'model.norm.weight' is U8 [20]"}},
       {"embedding shape",
        [](T& t) { t.config["vocab_size"] = kVocab + 1; },
        kInvalid,
        {"model.embed_tokens.weight", "[11, 20]", "[12, 20]"}},
       {"one sub-norm missing",
        [](T& t) { t.tensors.erase("model.layers.1.mlp.ffn_sub_norm.weight"); },
        kInvalid,
        {"model_type bitnet", "'model.layers.1.mlp.ffn_sub_norm.weight'"}},
       {"zero weights",
        [&](T& t) { t.tensors[weight].bytes.assign(120, '\x55'); },
        kDataLoss,
        {"all its weights are zero", weight}},
       {"too few layers in the config",
        [](T& t) { t.config["num_hidden_layers"] = 1; },
        kInvalid,
        {"num_hidden_layers 1", "model.layers.1."}},
       {"too many layers in the config",
        [](T& t) { t.config["num_hidden_layers"] = 3; },
        kInvalid,
        {"model.layers.2."}},
       {"bias that the config lacks",
        [](T& t) {
          t.tensors[absl::StrCat(kQ, ".bias")] = FloatTensor("F32", {24}, Values(24, 0));
        },
        kInvalid,
        {"attention_bias", "q_proj.bias"}},
       {"input norm that the config lacks",
        [](T& t) {
          t.tensors[absl::StrCat(kQ, ".rms_norm.weight")] =
              FloatTensor("F32", {kHidden}, Values(kHidden, 1));
        },
        kInvalid,
        {"use_rms_norm", "q_proj.rms_norm.weight"}},
       {"rows that cannot be packed",
        [](T& t) { t.config["intermediate_size"] = kFfn + 2; },
        kInvalid,
        {"38 rows", "multiples of 4"}},
       {"untied without a head",
        [](T& t) { t.config["tie_word_embeddings"] = false; },
        kNotFound,
        {"tie_word_embeddings", "'lm_head.weight'"}},
       {"latent in the config",
        [](T& t) { t.config["quantization_config"]["quantization_mode"] = "online"; },
        kInvalid,
        {"online", "weight_scale"}}});
}

TEST(LoadCheckpointTest, RefusesDamagedLatentAndLlamaCheckpoints) {
  using T = TestCheckpoint;
  const std::string weight = absl::StrCat(kQ, ".weight");
  const auto latent = [&](T& t, float value) {
    t.tensors[weight] = FloatTensor("F32", {20, kHidden}, std::vector<float>(20 * kHidden, value));
  };
  ExpectRefused(CheckpointFamily::kBitNetLatent,
                {{"zeros",
                  [&](T& t) { latent(t, 0); },
                  absl::StatusCode::kDataLoss,
                  {"all its weights", weight}},
                 {"infinite",
                  [&](T& t) { latent(t, std::numeric_limits<float>::infinity()); },
                  absl::StatusCode::kDataLoss,
                  {weight, "not finite"}},
                 {"packed",
                  [&](T& t) {
                    t.tensors[weight] = ByteTensor({5, 20}, std::vector<uint8_t>(100));
                  },
                  absl::StatusCode::kInvalidArgument,
                  {"U8 [5, 20]", "BF16, F16 or F32 [20, 20]"}}});
  ExpectRefused(CheckpointFamily::kBitLinear,
                {{"sub-norm in a llama",
                  [](T& t) {
                    t.tensors["model.layers.0.self_attn.attn_sub_norm.weight"] =
                        FloatTensor("BF16", {24}, Values(24, 1));
                  },
                  absl::StatusCode::kInvalidArgument,
                  {"model_type llama", "attn_sub_norm"}},
                 {"integer embedding",
                  [](T& t) { t.tensors["model.embed_tokens.weight"].dtype = "I16"; },
                  absl::StatusCode::kInvalidArgument,
                  {"I16 [11, 20]"}}});
}

TEST(LoadCheckpointTest, UnusedTensorsAreNoError) {
  TestCheckpoint test = MakeTest(CheckpointFamily::kBitLinear);
  const float one = 1;
  test.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = FloatTensor("F32", {1}, {&one, 1});
  test.tensors["model.extra.weight"] = FloatTensor("F32", {1}, {&one, 1});
  const TempDir dir;
  const StatusOr<Checkpoint> loaded = test.Load(dir);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->unused_tensors, std::vector<std::string>{"model.extra.weight"});
}

TEST(LoadCheckpointTest, RandomDamageNeverCrashes) {
  const TempDir dir;
  const TestCheckpoint test = MakeTest(CheckpointFamily::kBitNetPacked);
  ASSERT_TRUE(test.Load(dir).ok());
  const std::string whole = SafetensorsFileBytes(test.tensors);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, whole.data(), sizeof(header_bytes));
  std::mt19937 random(11);
  int refused = 0;
  for (int round = 0; round < 400; ++round) {
    std::string bytes = whole;
    const size_t range = round % 2 == 0 ? 8 + header_bytes : bytes.size();
    for (int i = 0; i < 2; ++i) bytes[random() % range] = static_cast<char>(random());
    if (round % 10 == 0) bytes.resize(random() % bytes.size());
    dir.Write("model.safetensors", bytes);
    refused += LoadCheckpoint(dir.path()).ok() ? 0 : 1;
  }
  EXPECT_GT(refused, 200);
}

TEST(PackingGoldenTest, TransformersPackingUnpacksToItsWeights) {
  const auto text = ReadTextFile(testing::SourcePath("tests/golden/data/hf_pack_golden.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const Json golden = Json::parse(*text);
  const auto check = [](const Json& packed, const Json& weights) {
    const int64_t packed_rows = static_cast<int64_t>(packed.size());
    const int64_t cols = static_cast<int64_t>(packed[0].size());
    TernaryMatrix w(packed_rows * 4, cols);
    for (int64_t r = 0; r < packed_rows; ++r) {
      const auto bytes = packed[static_cast<size_t>(r)].get<std::vector<uint8_t>>();
      for (int i = 0; i < 4; ++i) w.SetRowCodes(i * packed_rows + r, bytes, 2 * i);
    }
    for (int64_t r = 0; r < w.rows(); ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        EXPECT_EQ(w.At(r, c), weights[static_cast<size_t>(r)][static_cast<size_t>(c)].get<int>());
      }
    }
  };
  check(golden["packed_u8"], golden["W"]);
  check(golden["transformers_docstring_example"]["packed"],
        golden["transformers_docstring_example"]["unpacked"]);
}

TEST(SetRowCodesTest, EqualsSetForAllShapesAndShiftsAndKeepsThePadding) {
  std::mt19937 random(2);
  for (const int64_t cols : {1, 3, 4, 15, 16, 17, 63, 64, 65, 100, 192}) {
    for (const int64_t rows : {1, 5, 16, 18, 33}) {
      TernaryMatrix fast(rows, cols);
      TernaryMatrix plain(rows, cols);
      for (int64_t r = 0; r < rows; ++r) {
        std::vector<uint8_t> bytes(static_cast<size_t>(cols));
        for (uint8_t& byte : bytes) {
          byte = static_cast<uint8_t>(random() % 3 | random() % 3 << 2 | random() % 3 << 4 |
                                      random() % 3 << 6);
        }
        const int shift = static_cast<int>(r % 4) * 2;
        fast.SetRowCodes(r, bytes, shift);
        for (int64_t c = 0; c < cols; ++c) {
          plain.Set(r, c, static_cast<int8_t>((bytes[static_cast<size_t>(c)] >> shift & 3) - 1));
        }
      }
      ASSERT_EQ(
          std::memcmp(fast.packed(), plain.packed(), static_cast<size_t>(fast.packed_bytes())), 0)
          << rows << " x " << cols;
    }
  }
}

TEST(GoldenCheckpointsTest, AllLoad) {
  namespace fs = std::filesystem;
  int count = 0;
  for (const auto& entry :
       fs::directory_iterator(testing::SourcePath("tests/golden/data/models"))) {
    const auto loaded = LoadCheckpoint(entry.path().string());
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    const auto golden = ReadTextFile(entry.path().string() + "/golden.json");
    ASSERT_TRUE(golden.ok()) << golden.status();
    const Json meta = Json::parse(*golden);
    EXPECT_EQ(FamilyName(loaded->config.family), meta["family"].get<std::string>());
    EXPECT_GE(meta["distinct_greedy"].get<int>(), 20);
    ++count;
  }
  EXPECT_GE(count, 17);
}

}  // namespace
}  // namespace sterna
