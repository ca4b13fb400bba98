// LoadCheckpoint of GGUF files: the same weights as from safetensors, whatever they are packed in.

#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/model_files.h"
#include "engine/model/weights.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_model.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna {
namespace {

using testing::GgufModelOf;
using testing::GgufPacking;
using testing::GroupedTest;
using ::testing::HasSubstr;
using testing::LargerTest;
using testing::TempDir;
using testing::TestCheckpoint;

constexpr int64_t kHidden = testing::kLargerHidden;
constexpr int64_t kHeadDim = testing::kLargerHeadDim;
constexpr int64_t kVocab = testing::kLargerVocab;

void ExpectSameMatrix(const TernaryMatrix& a, const TernaryMatrix& b) {
  ASSERT_EQ(a.rows(), b.rows());
  if (a.empty()) return;
  ASSERT_EQ(a.cols(), b.cols());
  ASSERT_EQ(a.packed_bytes(), b.packed_bytes());
  EXPECT_EQ(std::memcmp(a.packed(), b.packed(), static_cast<size_t>(a.packed_bytes())), 0);
  ASSERT_EQ(a.granularity(), b.granularity());
  EXPECT_EQ(a.group_size(), b.group_size());
  EXPECT_EQ(a.tensor_scale(), b.tensor_scale());
  EXPECT_TRUE(std::ranges::equal(a.scales(), b.scales()));
}

std::vector<float> DenseValues(const DenseMatrix& matrix) {
  std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
  for (int64_t row = 0; row < matrix.rows; ++row) {
    matrix.CopyRow(row, values.data() + row * matrix.cols);
  }
  return values;
}

void ExpectSameModel(const Checkpoint& a, const Checkpoint& b) {
  ASSERT_EQ(a.weights.layers.size(), b.weights.layers.size());
  EXPECT_EQ(DenseValues(a.weights.embedding), DenseValues(b.weights.embedding));
  EXPECT_EQ(DenseValues(a.weights.head), DenseValues(b.weights.head));
  ExpectSameMatrix(a.weights.ternary_embedding, b.weights.ternary_embedding);
  ExpectSameMatrix(a.weights.untied_ternary_head, b.weights.untied_ternary_head);
  EXPECT_EQ(a.weights.tied, b.weights.tied);
  EXPECT_EQ(testing::Loaded(a.weights.final_norm), testing::Loaded(b.weights.final_norm));
  for (size_t i = 0; i < a.weights.layers.size(); ++i) {
    const LayerWeights& x = a.weights.layers[i];
    const LayerWeights& y = b.weights.layers[i];
    for (size_t n = 0; n < x.linears().size(); ++n) {
      SCOPED_TRACE(absl::StrCat("layer ", i, ", linear ", n));
      ExpectSameMatrix(x.linears()[n]->w, y.linears()[n]->w);
      EXPECT_EQ(testing::Loaded(x.linears()[n]->bias), testing::Loaded(y.linears()[n]->bias));
    }
    EXPECT_EQ(testing::Loaded(x.input_norm), testing::Loaded(y.input_norm));
    EXPECT_EQ(testing::Loaded(x.post_attention_norm), testing::Loaded(y.post_attention_norm));
    EXPECT_EQ(testing::Loaded(x.q_norm), testing::Loaded(y.q_norm));
    EXPECT_EQ(testing::Loaded(x.k_norm), testing::Loaded(y.k_norm));
    EXPECT_EQ(testing::Loaded(x.attn_sub_norm), testing::Loaded(y.attn_sub_norm));
    EXPECT_EQ(testing::Loaded(x.ffn_sub_norm), testing::Loaded(y.ffn_sub_norm));
  }
  const ModelConfig& c = a.config;
  const ModelConfig& d = b.config;
  EXPECT_EQ(c.model_type, d.model_type);
  EXPECT_EQ(c.has_sub_norms(), d.has_sub_norms());
  EXPECT_EQ(c.activation, d.activation);
  EXPECT_EQ(c.tie_embeddings, d.tie_embeddings);
  EXPECT_EQ(c.max_positions, d.max_positions);
  EXPECT_EQ(c.head_dim, d.head_dim);
  EXPECT_EQ(c.num_kv_heads, d.num_kv_heads);
  EXPECT_EQ(c.scale_group_size, d.scale_group_size);
  EXPECT_FLOAT_EQ(static_cast<float>(c.rms_norm_eps), static_cast<float>(d.rms_norm_eps));
  EXPECT_EQ(c.qk_norm, d.qk_norm);
  EXPECT_EQ(c.rope.InverseFrequencies(c.head_dim), d.rope.InverseFrequencies(c.head_dim));
  EXPECT_EQ(c.rope.attention_factor, d.rope.attention_factor);
}

StatusOr<Checkpoint> LoadGguf(const testing::GgufContents& contents,
                              const LoadOptions& options = {}) {
  const TempDir dir;
  dir.Write("model.gguf", testing::GgufFileBytes(contents));
  return LoadCheckpoint(dir.path() + "/model.gguf", options);
}

struct FamilyCase {
  CheckpointFamily family;
  const char* architecture;
};

TEST(GgufLoadTest, EveryPackingIsTheSameModelAsSafetensors) {
  constexpr FamilyCase kFamilies[] = {{CheckpointFamily::kBitNetPacked, "bitnet-b1.58"},
                                      {CheckpointFamily::kBitNetPacked, "bitnet-25"},
                                      {CheckpointFamily::kBitLinear, "llama"}};
  for (const FamilyCase& of : kFamilies) {
    const TempDir dir;
    const StatusOr<Checkpoint> wanted = LargerTest(of.family).Load(dir);
    ASSERT_TRUE(wanted.ok()) << wanted.status();
    for (const GgufPacking packing :
         {GgufPacking::kTq1_0, GgufPacking::kTq2_0, GgufPacking::kQ2_0Group64,
          GgufPacking::kQ2_0Group128, GgufPacking::kI2sX86, GgufPacking::kF16}) {
      SCOPED_TRACE(absl::StrCat(of.architecture, ", packing ", static_cast<int>(packing)));
      const auto loaded = LoadGguf(GgufModelOf(*wanted, of.architecture, packing));
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      ExpectSameModel(*loaded, *wanted);
    }
  }
}

TEST(GgufLoadTest, FamilyCIsArchitectureBitnet) {
  const TempDir dir;
  StatusOr<Checkpoint> wanted = LargerTest(CheckpointFamily::kInnerNorms).Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  // Scales of latent weights are any float; files of half precision take these.
  for (LayerWeights& layer : wanted->weights.layers) {
    for (TernaryLinearWeights* linear :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      linear->w.SetTensorScale(0.625);
    }
  }
  testing::GgufContents contents = GgufModelOf(*wanted, "bitnet", GgufPacking::kTq2_0);
  StatusOr<Checkpoint> loaded = LoadGguf(contents);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ExpectSameModel(*loaded, *wanted);
  // A scale of its own is one more factor.
  const float factor = 3;
  contents.tensors.push_back({.name = "blk.1.ffn_up.scale",
                              .type = 0,
                              .dims = {1},
                              .bytes = {reinterpret_cast<const char*>(&factor), sizeof(factor)}});
  loaded = LoadGguf(contents);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->weights.layers[1].up.w.tensor_scale(), 1.875);
  EXPECT_EQ(loaded->weights.layers[0].up.w.tensor_scale(), 0.625);
}

TEST(GgufLoadTest, FamilyDKeepsScalesOfRows) {
  const TempDir dir;
  const StatusOr<Checkpoint> wanted = LargerTest(CheckpointFamily::kUnpacked).Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  for (const GgufPacking packing :
       {GgufPacking::kTq1_0, GgufPacking::kTq2_0, GgufPacking::kQ2_0Group64,
        GgufPacking::kQ2_0Group128, GgufPacking::kF16}) {
    SCOPED_TRACE(static_cast<int>(packing));
    const auto loaded = LoadGguf(GgufModelOf(*wanted, "llama", packing));
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_EQ(loaded->weights.layers[0].q.w.granularity(), ScaleGranularity::kRow);
    ExpectSameModel(*loaded, *wanted);
  }
}

TEST(GgufLoadTest, FamilyEIsArchitectureQwen3) {
  for (const int64_t group : {int64_t{64}, int64_t{128}}) {
    const TempDir dir;
    const StatusOr<Checkpoint> wanted = GroupedTest(group).Load(dir);
    ASSERT_TRUE(wanted.ok()) << wanted.status();
    ASSERT_EQ(wanted->config.scale_group_size, group);
    ASSERT_FALSE(wanted->weights.untied_ternary_head.empty());
    std::vector<GgufPacking> packings = {GgufPacking::kQ2_0Group64, GgufPacking::kF16};
    if (group == 128) packings.push_back(GgufPacking::kQ2_0Group128);
    for (const GgufPacking packing : packings) {
      SCOPED_TRACE(absl::StrCat("groups of ", group, ", packing ", static_cast<int>(packing)));
      const auto loaded = LoadGguf(GgufModelOf(*wanted, "qwen3", packing));
      ASSERT_TRUE(loaded.ok()) << loaded.status();
      ExpectSameModel(*loaded, *wanted);
    }
  }
}

TEST(GgufLoadTest, ArmLayoutOfI2sIsTheCallersToSay) {
  const TempDir dir;
  const StatusOr<Checkpoint> wanted = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  const testing::GgufContents contents = GgufModelOf(*wanted, "llama", GgufPacking::kI2sArm);
  StatusOr<Checkpoint> loaded = LoadGguf(contents, {.i2s_layout = I2sLayout::kArm});
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ExpectSameModel(*loaded, *wanted);
  loaded = LoadGguf(contents);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  const TernaryMatrix& right = wanted->weights.layers[0].up.w;
  const TernaryMatrix& wrong = loaded->weights.layers[0].up.w;
  EXPECT_NE(std::memcmp(wrong.packed(), right.packed(), static_cast<size_t>(right.packed_bytes())),
            0);
}

TEST(GgufLoadTest, BiasesFollowTheirRows) {
  TestCheckpoint model = LargerTest(CheckpointFamily::kBitLinear);
  model.config["attention_bias"] = true;
  for (int i = 0; i < 2; ++i) {
    for (const auto& [name, rows] : std::map<std::string, int64_t>{
             {"q", 4 * kHeadDim}, {"k", 2 * kHeadDim}, {"v", 2 * kHeadDim}, {"o", kHidden}}) {
      std::vector<float> bias(static_cast<size_t>(rows));
      for (size_t j = 0; j < bias.size(); ++j) bias[j] = static_cast<float>(j) / 64;
      model.tensors[absl::StrCat("model.layers.", i, ".self_attn.", name, "_proj.bias")] =
          testing::FloatTensor("F32", {rows}, bias);
    }
  }
  const TempDir dir;
  const StatusOr<Checkpoint> wanted = model.Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  const auto loaded = LoadGguf(GgufModelOf(*wanted, "llama", GgufPacking::kTq2_0));
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->config.attention_bias);
  ExpectSameModel(*loaded, *wanted);
}

TEST(GgufLoadTest, BiasesThatAreMissingBesideOthersAreZeros) {
  const TempDir dir;
  StatusOr<Checkpoint> wanted = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  testing::GgufContents contents = GgufModelOf(*wanted, "llama", GgufPacking::kTq2_0);
  // Of a bias that is rotated, of one layer.
  const std::vector<float> bias(2 * kHeadDim, 0.5f);
  contents.tensors.push_back(
      {.name = "blk.1.attn_k.bias",
       .type = 0,
       .dims = {bias.size()},
       .bytes = {reinterpret_cast<const char*>(bias.data()), bias.size() * sizeof(float)}});
  const auto loaded = LoadGguf(contents);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->config.attention_bias);
  EXPECT_FALSE(loaded->config.mlp_bias);
  for (const LayerWeights& layer : loaded->weights.layers) {
    const bool has = &layer == &loaded->weights.layers[1];
    for (const TernaryLinearWeights* linear : {&layer.q, &layer.k, &layer.v, &layer.o}) {
      const float value = has && linear == &layer.k ? 0.5f : 0.0f;
      EXPECT_EQ(testing::Loaded(linear->bias),
                std::vector<float>(static_cast<size_t>(linear->w.rows()), value));
    }
    for (const TernaryLinearWeights* linear : {&layer.gate, &layer.up, &layer.down}) {
      EXPECT_TRUE(linear->bias.empty());
    }
  }
}

// Ops read floats where they lie in the file, if only at addresses that floats have.
TEST(GgufLoadTest, MatricesAtOddAddressesAreCopied) {
  const TempDir dir;
  const StatusOr<Checkpoint> wanted = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  testing::GgufContents contents = GgufModelOf(*wanted, "llama", GgufPacking::kTq2_0);
  contents.metadata.emplace_back("general.alignment", testing::GgufNumber(uint32_t{1}));
  contents.alignment = 1;
  // The data begin right behind the header, which this makes 15 bytes longer.
  if (testing::GgufHeaderBytes(contents).size() % 2 == 0) {
    contents.metadata.emplace_back("xx", testing::GgufNumber(uint8_t{1}));
  }
  ASSERT_EQ(testing::GgufHeaderBytes(contents).size() % 2, 1u);
  const auto loaded = LoadGguf(contents);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  for (const DenseMatrix* matrix : {&loaded->weights.embedding, &loaded->weights.head}) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix->data) % sizeof(float), 0u);
  }
  ExpectSameModel(*loaded, *wanted);
}

TEST(GgufLoadTest, Llama3FrequenciesAreThoseOfConfigJson) {
  TestCheckpoint model = LargerTest(CheckpointFamily::kBitLinear);
  model.config["rope_theta"] = 500000.0;
  model.config["rope_scaling"] = {{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 8192}};
  const TempDir dir;
  const StatusOr<Checkpoint> wanted = model.Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  RopeConfig plain;
  plain.theta = 500000.0;
  const std::vector<double> from = plain.InverseFrequencies(kHeadDim);
  const std::vector<double> to = wanted->config.rope.InverseFrequencies(kHeadDim);
  std::vector<float> divisors;
  for (size_t i = 0; i < from.size(); ++i) divisors.push_back(static_cast<float>(from[i] / to[i]));
  ASSERT_EQ(divisors.front(), 1);
  ASSERT_EQ(divisors.back(), 8);

  testing::GgufContents contents = GgufModelOf(*wanted, "llama", GgufPacking::kTq2_0);
  const auto with = [&](std::span<const float> values) {
    testing::GgufContents copy = contents;
    copy.tensors.push_back(
        {.name = "rope_freqs.weight",
         .type = 0,
         .dims = {values.size()},
         .bytes = {reinterpret_cast<const char*>(values.data()), values.size_bytes()}});
    return LoadGguf(copy);
  };
  StatusOr<Checkpoint> loaded = with(divisors);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  ExpectSameModel(*loaded, *wanted);  // to the last bit of each frequency

  // Others divide as they are.
  divisors[3] = 1.5f;
  loaded = with(divisors);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.rope.InverseFrequencies(kHeadDim)[3], from[3] / 1.5);
  EXPECT_EQ(loaded->config.rope.InverseFrequencies(kHeadDim)[31], from[31] / 8);

  divisors[3] = 0;
  EXPECT_THAT(with(divisors).status().message(), HasSubstr("rope_freqs.weight"));
  divisors.pop_back();
  EXPECT_THAT(with(divisors).status().message(), HasSubstr("[32]"));
}

TEST(GgufLoadTest, EndTokensAreTheTokenizers) {
  const TempDir dir;
  const StatusOr<Checkpoint> good = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(good.ok()) << good.status();
  testing::GgufContents contents = GgufModelOf(*good, "llama", GgufPacking::kTq2_0);
  EXPECT_TRUE(LoadGguf(contents)->config.eos_token_ids.empty());
  std::vector<testing::GgufBytes> tokens, types;
  for (int i = 0; i <= kVocab; ++i) {
    tokens.push_back(testing::GgufText(absl::StrCat("t", i)));
    types.push_back(testing::GgufNumber(int32_t{i < 3 ? 3 : 1}));
  }
  contents.metadata.emplace_back("tokenizer.ggml.model", testing::GgufText("gpt2"));
  contents.metadata.emplace_back("tokenizer.ggml.tokens", testing::GgufList(tokens));
  contents.metadata.emplace_back("tokenizer.ggml.token_type", testing::GgufList(types));
  contents.metadata.emplace_back("tokenizer.ggml.eot_token_id", testing::GgufNumber(uint32_t{1}));
  contents.metadata.emplace_back("tokenizer.ggml.eos_token_id", testing::GgufNumber(uint32_t{2}));
  const StatusOr<Checkpoint> loaded = LoadGguf(contents);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->config.eos_token_ids, ::testing::ElementsAre(1, 2));
  contents.metadata.back().second = testing::GgufNumber(uint32_t{kVocab});
  EXPECT_THAT(LoadGguf(contents).status().message(), HasSubstr("end token 32"));
}

TEST(GgufLoadTest, LinearScalingAndQuantisedEmbeddings) {
  const TempDir dir;
  const StatusOr<Checkpoint> wanted = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(wanted.ok()) << wanted.status();
  testing::GgufContents contents = GgufModelOf(*wanted, "llama", GgufPacking::kTq2_0);
  contents.metadata.emplace_back("llama.rope.scaling.type", testing::GgufText("linear"));
  contents.metadata.emplace_back("llama.rope.scaling.factor", testing::GgufNumber(4.0f));
  for (testing::GgufTensorBytes& tensor : contents.tensors) {
    if (tensor.name != "token_embd.weight") continue;
    tensor.type = 8;
    tensor.bytes.clear();
    for (int64_t block = 0; block < kVocab * kHidden / 32; ++block) {
      std::vector<int> q(32);
      for (int i = 0; i < 32; ++i) q[i] = i - static_cast<int>(block);
      tensor.bytes += testing::PackQ8_0(q, 0.5f);
    }
  }
  const StatusOr<Checkpoint> loaded = LoadGguf(contents);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_EQ(loaded->config.rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(loaded->config.rope.factor, 4);
  ASSERT_EQ(loaded->weights.embedding.type, DenseType::kF32);
  EXPECT_EQ(DenseValues(loaded->weights.embedding)[32 * 3 + 5], 0.5f * (5 - 3));
}

struct GgufDamage {
  const char* what;
  std::function<void(testing::GgufContents&)> apply;
  std::vector<std::string> messages;
};

TEST(GgufLoadTest, RefusesWhatItDoesNotRead) {
  const TempDir dir;
  const StatusOr<Checkpoint> good = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(good.ok()) << good.status();
  const auto set = [](testing::GgufContents& c, const std::string& key, testing::GgufBytes value) {
    std::erase_if(c.metadata, [&](const auto& pair) { return pair.first == key; });
    c.metadata.emplace_back(key, std::move(value));
  };
  const auto rename = [](testing::GgufContents& c, const std::string& from, const std::string& to) {
    for (testing::GgufTensorBytes& tensor : c.tensors) {
      if (tensor.name == from) tensor.name = to;
    }
  };
  const std::vector<GgufDamage> damages = {
      {"architecture",
       [&](auto& c) { set(c, "general.architecture", testing::GgufText("gemma")); },
       {"general.architecture", "'gemma'", "bitnet-b1.58", "llama"}},
      {"no layers",
       [&](auto& c) { set(c, "llama.block_count", testing::GgufNumber(uint32_t{0})); },
       {"llama.block_count", "is 0", "from 1 to"}},
      {"fewer layers than tensors",
       [&](auto& c) { set(c, "llama.block_count", testing::GgufNumber(uint32_t{1})); },
       {"block_count 1", "blk.1."}},
      {"heads",
       [&](auto& c) { set(c, "llama.attention.head_count_kv", testing::GgufNumber(uint32_t{3})); },
       {"head_count_kv", "must divide"}},
      {"layers that differ",
       [&](auto& c) {
         set(c, "llama.attention.head_count",
             testing::GgufList(
                 {testing::GgufNumber(uint32_t{4}), testing::GgufNumber(uint32_t{2})}));
       },
       {"llama.attention.head_count", "layers that differ"}},
      {"experts",
       [&](auto& c) { set(c, "llama.expert_count", testing::GgufNumber(uint32_t{8})); },
       {"expert_count", "mixtures"}},
      {"window",
       [&](auto& c) {
         set(c, "llama.attention.sliding_window", testing::GgufNumber(uint32_t{16}));
       },
       {"sliding_window"}},
      {"partial rotation",
       [&](auto& c) { set(c, "llama.rope.dimension_count", testing::GgufNumber(uint32_t{32})); },
       {"rope.dimension_count", "32", "64"}},
      {"scaling",
       [&](auto& c) { set(c, "llama.rope.scaling.type", testing::GgufText("longrope")); },
       {"rope.scaling.type", "longrope", "linear"}},
      {"scale",
       [&](auto& c) { set(c, "llama.logit_scale", testing::GgufNumber(0.5f)); },
       {"logit_scale"}},
      {"missing",
       [&](auto& c) { rename(c, "blk.1.attn_k.weight", "blk.1.other.weight"); },
       {"lacks tensor 'blk.1.attn_k.weight'"}},
      {"sub-norms of another architecture",
       [&](auto& c) { rename(c, "blk.0.attn_norm.weight", "blk.0.attn_sub_norm.weight"); },
       {"no sub-norms", "blk.0.attn_sub_norm.weight"}},
      {"shape",
       [&](auto& c) {
         for (testing::GgufTensorBytes& t : c.tensors) {
           if (t.name == "blk.0.ffn_up.weight") std::swap(t.dims[0], t.dims[1]);
         }
       },
       {"blk.0.ffn_up.weight", "[256, 512]", "[512, 256]"}},
  };
  const testing::GgufContents contents = GgufModelOf(*good, "llama", GgufPacking::kTq2_0);
  ASSERT_TRUE(LoadGguf(contents).ok()) << LoadGguf(contents).status();
  for (const GgufDamage& damage : damages) {
    SCOPED_TRACE(damage.what);
    testing::GgufContents bent = contents;
    damage.apply(bent);
    const Status status = LoadGguf(bent).status();
    EXPECT_FALSE(status.ok());
    for (const std::string& message : damage.messages) {
      EXPECT_THAT(status.message(), HasSubstr(message));
    }
  }
}

TEST(GgufLoadTest, ProgressEndsWithEverything) {
  const TempDir dir;
  const StatusOr<Checkpoint> good = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(good.ok()) << good.status();
  dir.Write("m.gguf", testing::GgufFileBytes(GgufModelOf(*good, "llama", GgufPacking::kTq2_0)));
  for (const std::string& model : {dir.path(), dir.path() + "/m.gguf"}) {
    std::vector<std::pair<int64_t, int64_t>> reports;
    const auto loaded = LoadCheckpoint(model, {.progress = [&](int64_t done, int64_t total) {
                                         reports.emplace_back(done, total);
                                       }});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    ASSERT_EQ(reports.size(), 3u);  // the head, and two layers
    EXPECT_TRUE(std::ranges::is_sorted(reports));
    // Norms are not worth counting.
    EXPECT_GT(reports.back().first, reports.back().second * 9 / 10);
    EXPECT_LE(reports.back().first, reports.back().second);
  }
}

TEST(ModelFilesTest, FindsModels) {
  const TempDir dir;
  const StatusOr<Checkpoint> good = LargerTest(CheckpointFamily::kBitLinear).Load(dir);
  ASSERT_TRUE(good.ok()) << good.status();
  const std::string bytes =
      testing::GgufFileBytes(GgufModelOf(*good, "llama", GgufPacking::kTq2_0));
  EXPECT_EQ(ModelFiles::Open(dir.path())->gguf(), nullptr);

  const TempDir other;
  other.Write("a.gguf", bytes);
  const StatusOr<ModelFiles> only = ModelFiles::Open(other.path());
  ASSERT_TRUE(only.ok()) << only.status();
  ASSERT_NE(only->gguf(), nullptr);
  EXPECT_EQ(only->path(), other.path() + "/a.gguf");
  other.Write("b-00002-of-00002.gguf", bytes);  // not one to begin with
  EXPECT_TRUE(ModelFiles::Open(other.path()).ok());
  other.Write("b.gguf", bytes);
  EXPECT_THAT(ModelFiles::Open(other.path()).status().message(), HasSubstr("a.gguf, b.gguf"));
  EXPECT_EQ(ModelFiles::Open(other.path() + "/c.gguf").status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace sterna
