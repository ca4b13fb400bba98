#include "engine/model/convert.h"

#include <filesystem>
#include <memory>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/model/agreement.h"
#include "engine/model/convert_job.h"
#include "engine/model/gguf.h"
#include "engine/model/model_files.h"
#include "engine/model/model_tensors.h"
#include "engine/model/safetensors.h"
#include "engine/model/weight_source.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half_float.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"
#include "tests/testing/safetensors_writer.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr int64_t kHidden = 256;
constexpr int64_t kFfn = 512;
constexpr int64_t kHeads = 2;
constexpr int64_t kHeadDim = 128;
constexpr int64_t kVocab = 11;
const char* const kGguf[] = {"gguf-tq1_0", "gguf-tq2_0", "gguf-q2_0-64", "gguf-q2_0-128"};

// A checkpoint, to be bent before it is written.
struct TestModel {
  Json config;
  std::map<std::string, testing::TensorData> tensors;

  std::string Write(const testing::TempDir& dir, const std::string& name = "model") const {
    std::filesystem::create_directory(dir.path() + "/" + name);
    dir.Write(name + "/config.json", config.dump());
    dir.Write(name + "/model.safetensors", testing::SafetensorsFileBytes(tensors));
    return dir.path() + "/" + name;
  }
};

std::vector<float> Values(int64_t size, std::mt19937& random) {
  std::vector<float> values(static_cast<size_t>(size));
  for (float& v : values) v = static_cast<float>(static_cast<int>(random() % 255) - 127) / 64;
  return values;
}

enum class Form { kPackedDivides, kPackedMultiplies, kLatent, kUnpacked, kFull };

// A linear of this form; unpacked, its scale is `scale`, or that and its double in turn by rows.
void AddLinear(TestModel& model, Form form, const std::string& name, int64_t rows, int64_t cols,
               std::mt19937& random, bool rows_differ) {
  const size_t size = static_cast<size_t>(rows * cols);
  if (form == Form::kLatent || form == Form::kFull) {
    model.tensors[name + ".weight"] =
        testing::FloatTensor("BF16", {rows, cols}, Values(rows * cols, random));
    return;
  }
  if (form == Form::kUnpacked) {
    std::vector<float> values(size);
    for (size_t i = 0; i < size; ++i) {
      const float scale = rows_differ && i / static_cast<size_t>(cols) % 2 == 1 ? 0.75f : 0.375f;
      values[i] = (static_cast<float>(random() % 3) - 1) * scale;
    }
    model.tensors[name + ".weight"] = testing::FloatTensor("F16", {rows, cols}, values);
    return;
  }
  std::vector<uint8_t> packed(size / 4);
  for (uint8_t& byte : packed) {
    byte = static_cast<uint8_t>(random() % 3 | random() % 3 << 2 | random() % 3 << 4 |
                                random() % 3 << 6);
  }
  model.tensors[name + ".weight"] = testing::ByteTensor({rows / 4, cols}, packed);
  // Its inverse is not exact in any binary format.
  const float scale = 11;
  model.tensors[name + ".weight_scale"] = testing::FloatTensor("BF16", {1}, {&scale, 1});
}

TestModel MakeModel(Form form, bool sub_norms = false, bool rows_differ = false) {
  TestModel model;
  model.config = {{"model_type", sub_norms ? "bitnet" : "llama"},
                  {"hidden_size", kHidden},
                  {"intermediate_size", kFfn},
                  {"num_hidden_layers", 2},
                  {"num_attention_heads", kHeads},
                  {"num_key_value_heads", 1},
                  {"vocab_size", kVocab},
                  {"max_position_embeddings", 64},
                  {"rms_norm_eps", 1e-5},
                  {"rope_theta", 12345.0},
                  {"eos_token_id", 3},
                  {"tie_word_embeddings", sub_norms}};
  if (form == Form::kPackedDivides) model.config["quantization_config"]["quant_method"] = "bitnet";
  if (form == Form::kPackedMultiplies || form == Form::kLatent) {
    model.config["quantization_config"] = {
        {"quant_method", "bitnet"},
        {"linear_class", "autobitlinear"},
        {"quantization_mode", form == Form::kLatent ? "online" : "offline"}};
  }
  std::mt19937 random(7);
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    int64_t size = 1;
    for (const int64_t dim : shape) size *= dim;
    model.tensors[name + ".weight"] =
        testing::FloatTensor("BF16", std::move(shape), Values(size, random));
  };
  add("model.embed_tokens", {kVocab, kHidden});
  if (!sub_norms) add("lm_head", {kVocab, kHidden});
  add("model.norm", {kHidden});
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const auto linear = [&](const char* name, int64_t rows, int64_t cols) {
      AddLinear(model, form, absl::StrCat(prefix, name), rows, cols, random, rows_differ);
    };
    add(prefix + "input_layernorm", {kHidden});
    add(prefix + "post_attention_layernorm", {kHidden});
    if (sub_norms) add(prefix + "self_attn.attn_sub_norm", {kHidden});
    if (sub_norms) add(prefix + "mlp.ffn_sub_norm", {kFfn});
    linear("self_attn.q_proj", kHidden, kHidden);
    linear("self_attn.k_proj", kHeadDim, kHidden);
    linear("self_attn.v_proj", kHeadDim, kHidden);
    linear("self_attn.o_proj", kHidden, kHidden);
    linear("mlp.gate_proj", kFfn, kHidden);
    linear("mlp.up_proj", kFfn, kHidden);
    linear("mlp.down_proj", kHidden, kFfn);
  }
  return model;
}

ConvertOptions Options(const std::string& model, const std::string& output,
                       const std::string& format) {
  ConvertOptions options{.model = model, .output = output};
  for (const FormatName& known : kConvertFormats) {
    if (format == known.name) options.format = known.format;
  }
  EXPECT_EQ(NameOf(options.format), format);
  options.tokenizer_dir = model;
  return options;
}

// An open model.
struct Opened {
  std::unique_ptr<ModelFiles> files;
  ModelConfig config;
  std::unique_ptr<WeightSource> source;
};
Opened Open(const std::string& path) {
  Opened opened;
  auto files = ModelFiles::Open(path);
  EXPECT_TRUE(files.ok()) << files.status();
  opened.files = std::make_unique<ModelFiles>(*std::move(files));
  auto config = ReadModelConfig(*opened.files);
  EXPECT_TRUE(config.ok()) << config.status();
  opened.config = *std::move(config);
  auto source = OpenWeights(*opened.files, opened.config, I2sLayout::kX86);
  EXPECT_TRUE(source.ok()) << source.status();
  opened.source = *std::move(source);
  return opened;
}

enum class Scales { kSame, kInHalfPrecision, kAsReported };

void ExpectSameTernary(const TernaryMatrix& a, const TernaryMatrix& b, Scales scales,
                       double change) {
  ASSERT_EQ(a.rows(), b.rows());
  ASSERT_EQ(a.cols(), b.cols());
  const auto scale_at = [](const TernaryMatrix& w, int64_t row, int64_t col) {
    return w.granularity() == ScaleGranularity::kTensor ? w.tensor_scale()
                                                        : w.scale(row, col / w.group_size());
  };
  for (int64_t row = 0; row < a.rows(); ++row) {
    for (int64_t col = 0; col < a.cols(); ++col) {
      ASSERT_EQ(a.At(row, col), b.At(row, col)) << row << ", " << col;
      const double was = scale_at(a, row, col);
      const double is = scale_at(b, row, col);
      const double half = HalfToFloat(FloatToHalf(static_cast<float>(was)));
      if (scales == Scales::kAsReported) {
        ASSERT_NEAR(is, was, change * was * (1 + 1e-9));
      } else {
        ASSERT_EQ(is, scales == Scales::kSame ? was : half);
      }
    }
  }
}

// That the model at `b` is the model at `a`: shapes, numbers and codes.
void ExpectSameModel(const std::string& path_a, const std::string& path_b, Scales scales,
                     double change = 0) {
  const Opened a = Open(path_a);
  const Opened b = Open(path_b);
  EXPECT_EQ(a.config.num_heads, b.config.num_heads);
  EXPECT_EQ(a.config.num_kv_heads, b.config.num_kv_heads);
  EXPECT_EQ(a.config.head_dim, b.config.head_dim);
  EXPECT_EQ(a.config.max_positions, b.config.max_positions);
  EXPECT_EQ(a.config.activation, b.config.activation);
  EXPECT_EQ(a.config.has_sub_norms(), b.config.has_sub_norms());
  EXPECT_EQ(a.config.tie_embeddings, b.config.tie_embeddings);
  EXPECT_EQ(static_cast<float>(a.config.rms_norm_eps), static_cast<float>(b.config.rms_norm_eps));
  EXPECT_EQ(a.config.rope.InverseFrequencies(kHeadDim), b.config.rope.InverseFrequencies(kHeadDim));
  const std::vector<ModelTensor> tensors = TensorsOf(a.config);
  ASSERT_EQ(tensors.size(), TensorsOf(b.config).size());
  for (const ModelTensor& tensor : tensors) {
    SCOPED_TRACE(tensor.name);
    if (tensor.kind == ModelTensor::Kind::kTernary) {
      const auto was = a.source->Ternary(tensor.name, tensor.rows, tensor.cols);
      const auto is = b.source->Ternary(tensor.name, tensor.rows, tensor.cols);
      ASSERT_TRUE(was.ok() && is.ok()) << was.status() << is.status();
      ExpectSameTernary(*was, *is, scales, change);
    } else if (tensor.kind == ModelTensor::Kind::kVector) {
      const auto was = a.source->Vector(tensor.name, tensor.cols);
      const auto is = b.source->Vector(tensor.name, tensor.cols);
      ASSERT_TRUE(was.ok() && is.ok()) << was.status() << is.status();
      EXPECT_EQ(*was, *is);
    } else {
      const auto was = a.source->Matrix(tensor.name, tensor.rows, tensor.cols);
      const auto is = b.source->Matrix(tensor.name, tensor.rows, tensor.cols);
      ASSERT_TRUE(was.ok() && is.ok()) << was.status() << is.status();
      EXPECT_EQ(was->type, is->type);
      std::vector<float> row_was(tensor.cols);
      std::vector<float> row_is(tensor.cols);
      for (int64_t row = 0; row < tensor.rows; ++row) {
        was->read_row(row, row_was);
        is->read_row(row, row_is);
        EXPECT_EQ(row_was, row_is);
      }
    }
  }
  EXPECT_TRUE(CheckAgreement(*b.source, b.config).ok());
}

TEST(ConvertTest, EveryFamilyToEveryGgufTypeIsReadBackEqual) {
  for (const bool sub_norms : {false, true}) {
    for (const Form form : {Form::kPackedDivides, Form::kPackedMultiplies, Form::kLatent}) {
      const testing::TempDir dir;
      const std::string model = MakeModel(form, sub_norms).Write(dir);
      for (const char* format : kGguf) {
        SCOPED_TRACE(absl::StrCat(format, " of form ", static_cast<int>(form), sub_norms));
        const std::string output = absl::StrCat(dir.path(), "/", format, ".gguf");
        const auto report = ConvertModel(Options(model, output, format));
        ASSERT_TRUE(report.ok()) << report.status();
        EXPECT_EQ(report->ternary_tensors, 14);
        EXPECT_LT(report->largest_scale_change, 0x1p-11);
        EXPECT_EQ(report->largest_scale_change > 0, form != Form::kPackedMultiplies);
        ExpectSameModel(model, output, Scales::kInHalfPrecision);
      }
    }
  }
}

TEST(ConvertTest, ScalesOfRowsStayScalesOfRows) {
  const testing::TempDir dir;
  const std::string model = MakeModel(Form::kUnpacked, false, /*rows_differ=*/true).Write(dir);
  for (const char* format :
       {"gguf-tq1_0", "gguf-tq2_0", "gguf-q2_0-64", "gguf-q2_0-128", "hf-unpacked"}) {
    SCOPED_TRACE(format);
    const std::string output = absl::StrCat(dir.path(), "/", format, "_");
    const auto report = ConvertModel(Options(model, output, format));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->largest_scale_change, 0);
    ExpectSameModel(model, output, Scales::kSame);
  }
  const Status packed = ConvertModel(Options(model, dir.path() + "/packed", "hf-packed")).status();
  EXPECT_EQ(packed.code(), absl::StatusCode::kInvalidArgument) << packed;
  EXPECT_THAT(packed.message(), HasSubstr("tensor 'model.layers.0.self_attn.q_proj' has a scale "
                                          "for each row"));
  EXPECT_THAT(packed.message(), HasSubstr("hf-packed cannot hold it; what can: hf-unpacked"));
  EXPECT_FALSE(std::filesystem::exists(dir.path() + "/packed/config.json"));
}

TEST(ConvertTest, ThePackedFormIsReadBackEqual) {
  for (const bool sub_norms : {false, true}) {
    for (const Form form :
         {Form::kPackedDivides, Form::kPackedMultiplies, Form::kLatent, Form::kUnpacked}) {
      if (sub_norms && form == Form::kUnpacked) continue;
      SCOPED_TRACE(absl::StrCat("form ", static_cast<int>(form), sub_norms));
      const testing::TempDir dir;
      const std::string model = MakeModel(form, sub_norms).Write(dir);
      const std::string output = dir.path() + "/packed";
      const auto report = ConvertModel(Options(model, output, "hf-packed"));
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_LT(report->largest_scale_change, 0x1p-23);
      ExpectSameModel(model, output, Scales::kAsReported, report->largest_scale_change);
      if (form != Form::kPackedDivides && form != Form::kPackedMultiplies) continue;
      // Every tensor as it was, to the byte.
      const auto was = SafetensorsCheckpoint::Open(model);
      const auto is = SafetensorsCheckpoint::Open(output);
      ASSERT_EQ(was->names().size(), is->names().size());
      for (const std::string& name : was->names()) {
        const TensorView* after = is->Find(name);
        ASSERT_NE(after, nullptr) << name;
        EXPECT_EQ(after->type, was->Find(name)->type) << name;
        EXPECT_TRUE(std::ranges::equal(after->bytes, was->Find(name)->bytes)) << name;
      }
    }
  }
}

// The packing vectors of Transformers.
TEST(ConvertTest, PacksAsTransformersDoes) {
  const auto text = ReadTextFile(testing::SourcePath("tests/golden/data/hf_pack_golden.json"));
  ASSERT_TRUE(text.ok()) << text.status();
  const Json golden = Json::parse(*text);
  const auto weights = golden["W"].get<std::vector<std::vector<int8_t>>>();
  TernaryMatrix w(static_cast<int64_t>(weights.size()), static_cast<int64_t>(weights[0].size()));
  for (size_t row = 0; row < weights.size(); ++row) {
    w.SetRow(static_cast<int64_t>(row), weights[row]);
  }
  const auto packed = golden["packed_u8"].get<std::vector<std::vector<uint8_t>>>();
  ASSERT_EQ(packed.size() * 4, weights.size());
  for (size_t row = 0; row < packed.size(); ++row) {
    std::vector<uint8_t> bytes(weights[0].size());
    PackFourRows(w, static_cast<int64_t>(row), bytes);
    EXPECT_EQ(bytes, packed[row]);
  }
}

// Architecture llama rotates neighbours: row 1 of a head is what was in its middle.
TEST(ConvertTest, RowsOfQAndKAreInterleavedForArchitectureLlama) {
  const testing::TempDir dir;
  TestModel model = MakeModel(Form::kPackedDivides);
  const std::string path = model.Write(dir);
  const std::string output = dir.path() + "/m.gguf";
  ASSERT_TRUE(ConvertModel(Options(path, output, "gguf-tq2_0")).ok());
  const auto file = GgufFile::Open(output);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(*file->metadata().String("general.architecture"), "llama");
  EXPECT_EQ(*file->metadata().Integer("general.file_type"), 37);
  const auto q = GgufTernaryReader::Make(*file->Find("blk.0.attn_q.weight"));
  ASSERT_TRUE(q.ok()) << q.status();
  const Opened opened = Open(path);
  const auto w = opened.source->Ternary("model.layers.0.self_attn.q_proj", kHidden, kHidden);
  ASSERT_TRUE(w.ok()) << w.status();
  std::vector<uint8_t> codes(kHidden);
  std::vector<uint8_t> ours(kHidden);
  std::vector<float> scales(1);
  const std::pair<int64_t, int64_t> rows[] = {{0, 0}, {1, 64}, {2, 1}, {127, 127}, {129, 192}};
  for (const auto& [theirs, our] : rows) {
    ASSERT_TRUE(q->ReadRow(theirs, codes, scales).ok());
    w->GetRowCodes(our, ours);
    EXPECT_EQ(codes, ours) << theirs;
  }
}

TEST(ConvertTest, FromGgufToOtherFormsAndBack) {
  const testing::TempDir dir;
  const std::string model = MakeModel(Form::kUnpacked).Write(dir);
  const std::string tq2 = dir.path() + "/tq2.gguf";
  ASSERT_TRUE(ConvertModel(Options(model, tq2, "gguf-tq2_0")).ok());
  for (const char* format : {"gguf-tq1_0", "gguf-q2_0-64", "hf-packed", "hf-unpacked"}) {
    SCOPED_TRACE(format);
    const std::string output = absl::StrCat(dir.path(), "/", format, "_");
    const auto report = ConvertModel(Options(tq2, output, format));
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->largest_scale_change, 0);
    ExpectSameModel(model, output, Scales::kSame);
  }
}

TEST(ConvertTest, Llama3RotaryScalingGoesAlong) {
  const testing::TempDir dir;
  TestModel model = MakeModel(Form::kUnpacked);
  model.config["rope_scaling"] = {{"rope_type", "llama3"},
                                  {"factor", 8.0},
                                  {"low_freq_factor", 1.0},
                                  {"high_freq_factor", 4.0},
                                  {"original_max_position_embeddings", 32}};
  const std::string path = model.Write(dir);
  const std::string gguf = dir.path() + "/m.gguf";
  ASSERT_TRUE(ConvertModel(Options(path, gguf, "gguf-tq2_0")).ok());
  const auto file = GgufFile::Open(gguf);
  ASSERT_NE(file->Find("rope_freqs.weight"), nullptr);
  EXPECT_THAT(file->Find("rope_freqs.weight")->shape, ::testing::ElementsAre(kHeadDim / 2));
  const std::vector<double> was = Open(path).config.rope.InverseFrequencies(kHeadDim);
  const std::vector<double> is = Open(gguf).config.rope.InverseFrequencies(kHeadDim);
  for (size_t i = 0; i < was.size(); ++i) EXPECT_NEAR(is[i], was[i], 1e-6 * was[i]);
  const std::string unpacked = dir.path() + "/unpacked";
  ASSERT_TRUE(ConvertModel(Options(path, unpacked, "hf-unpacked")).ok());
  ExpectSameModel(path, unpacked, Scales::kSame);
}

TEST(ConvertTest, MatricesKeepTheNarrowestTypeThatHoldsThem) {
  const testing::TempDir dir;
  TestModel model = MakeModel(Form::kUnpacked);
  std::vector<float> values(kVocab * kHidden, 1.0f / 1024 + 1);  // eleven bits
  values[3] = 0.5f;                                              // not ternary
  model.tensors["model.embed_tokens.weight"] =
      testing::FloatTensor("F16", {kVocab, kHidden}, values);
  values[5] = 1.1f;
  model.tensors["lm_head.weight"] = testing::FloatTensor("F32", {kVocab, kHidden}, values);
  const std::string path = model.Write(dir);
  const std::string gguf = dir.path() + "/m.gguf";
  ASSERT_TRUE(ConvertModel(Options(path, gguf, "gguf-tq2_0")).ok());
  const auto file = GgufFile::Open(gguf);
  EXPECT_EQ(file->Find("token_embd.weight")->type, GgufTensorType::kF16);
  EXPECT_EQ(file->Find("output.weight")->type, GgufTensorType::kF32);
  EXPECT_EQ(file->Find("output_norm.weight")->type, GgufTensorType::kF32);
  ExpectSameModel(path, gguf, Scales::kSame);
  const std::string packed = dir.path() + "/packed";
  ASSERT_TRUE(ConvertModel(Options(gguf, packed, "hf-packed")).ok());
  const auto tensors = SafetensorsCheckpoint::Open(packed);
  EXPECT_EQ(tensors->Find("model.embed_tokens.weight")->type, TensorType::kF16);
  EXPECT_EQ(tensors->Find("model.norm.weight")->type, TensorType::kBf16);
}

TEST(ConvertTest, TernarisesAModelInFullPrecision) {
  const testing::TempDir dir;
  const std::string model = MakeModel(Form::kFull).Write(dir);
  // As it is, its weights are those of no ternary model.
  const Status as_it_is = ConvertModel(Options(model, dir.path() + "/no", "gguf-tq2_0")).status();
  EXPECT_EQ(as_it_is.code(), absl::StatusCode::kInvalidArgument) << as_it_is;
  EXPECT_FALSE(std::filesystem::exists(dir.path() + "/no"));
  struct Case {
    const char* format;
    TernarizeUnit unit;
  };
  for (const Case& c : {Case{"hf-packed", {ScaleGranularity::kTensor, 0}},
                        {"gguf-tq2_0", {ScaleGranularity::kRow, 0}},
                        {"hf-unpacked", {ScaleGranularity::kRow, 0}},
                        {"gguf-q2_0-64", {ScaleGranularity::kGroup, 64}},
                        {"gguf-q2_0-64", {ScaleGranularity::kGroup, 128}},
                        {"gguf-q2_0-128", {ScaleGranularity::kGroup, 128}}}) {
    SCOPED_TRACE(absl::StrCat(c.format, c.unit.group_size));
    const std::string output = absl::StrCat(dir.path(), "/", c.format, c.unit.group_size);
    ConvertOptions options = Options(model, output, c.format);
    options.ternarize = c.unit;
    const auto report = ConvertModel(options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->largest_scale_change, 0);
    ASSERT_EQ(report->ternarized.size(), 14);
    EXPECT_EQ(report->ternarized[0].first, "model.layers.0.self_attn.q_proj");
    EXPECT_GT(report->ternarized[0].second.relative(), 0.05);
    const Opened full = Open(model);
    const Opened made = Open(output);
    const auto w = made.source->Ternary("model.layers.1.mlp.down_proj", kHidden, kFfn);
    const auto stored = full.source->Matrix("model.layers.1.mlp.down_proj.weight", kHidden, kFfn);
    ASSERT_TRUE(w.ok() && stored.ok()) << w.status() << stored.status();
    const auto expected = TernarizeAbsmean(*stored, c.unit.granularity, c.unit.group_size);
    ExpectSameTernary(expected->w, *w, Scales::kSame, 0);
    // The file says what was done to it.
    const std::string text = *ReadTextFile(
        std::filesystem::is_directory(output) ? output + "/model.safetensors" : output);
    EXPECT_THAT(text, HasSubstr(TernarizeWarning(c.unit)));
  }
}

TEST(ConvertTest, RefusesWhatAFormatCannotHold) {
  const testing::TempDir dir;
  const std::string output = dir.path() + "/out";
  struct Case {
    const char* what;
    const char* format;
    std::function<void(TestModel&)> apply;
    std::vector<std::string> messages;
  };
  const auto linear = [](TestModel& model, const std::string& name, float scale) {
    std::vector<float> values(kHidden * kHidden, scale);
    model.tensors[name + ".weight"] = testing::FloatTensor("F32", {kHidden, kHidden}, values);
  };
  for (const Case& c : {
           Case{"a scale beyond half precision",
                "gguf-tq2_0",
                [&](TestModel& m) { linear(m, "model.layers.0.self_attn.o_proj", 1e6f); },
                {"'model.layers.0.self_attn.o_proj' has the scale 1e+06", "hf-packed"}},
           Case{"a scale too small for it",
                "hf-unpacked",
                [&](TestModel& m) { linear(m, "model.layers.1.self_attn.q_proj", 1e-7f); },
                {"'model.layers.1.self_attn.q_proj' has the scale 1e-07", "1.19209e-07"}},
           Case{"an activation that llama has not",
                "gguf-tq2_0",
                [](TestModel& m) { m.config["hidden_act"] = "relu2"; },
                {"relu squared", "no GGUF architecture"}},
       }) {
    SCOPED_TRACE(c.what);
    TestModel model = MakeModel(Form::kUnpacked);
    c.apply(model);
    const Status status = ConvertModel(Options(model.Write(dir), output, c.format)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    for (const std::string& message : c.messages) {
      EXPECT_THAT(status.message(), HasSubstr(message));
    }
    EXPECT_FALSE(std::filesystem::exists(output) && !std::filesystem::is_empty(output));
    std::filesystem::remove_all(output);
  }
  const std::string bitnet = MakeModel(Form::kPackedMultiplies, true).Write(dir, "bitnet");
  const Status unpacked = ConvertModel(Options(bitnet, output, "hf-unpacked")).status();
  EXPECT_THAT(unpacked.message(), HasSubstr("sub-norms"));
  ConvertOptions options = Options(bitnet, output, "hf-packed");
  options.ternarize = TernarizeUnit{};
  const Status ternary = ConvertModel(options).status();
  EXPECT_THAT(ternary.message(), HasSubstr("is of family A, whose weights are ternary"));
}

// 192 columns are whole blocks of 64, but not of 128 or 256.
TEST(ConvertTest, RefusesColumnsThatAreNoWholeBlocks) {
  const testing::TempDir dir;
  TestModel model = MakeModel(Form::kUnpacked);
  model.config["intermediate_size"] = 192;
  std::mt19937 random(9);
  for (int layer = 0; layer < 2; ++layer) {
    const std::string mlp = absl::StrCat("model.layers.", layer, ".mlp.");
    AddLinear(model, Form::kUnpacked, mlp + "gate_proj", 192, kHidden, random, false);
    AddLinear(model, Form::kUnpacked, mlp + "up_proj", 192, kHidden, random, false);
    AddLinear(model, Form::kUnpacked, mlp + "down_proj", kHidden, 192, random, false);
  }
  const std::string path = model.Write(dir);
  for (const char* format : {"gguf-tq1_0", "gguf-tq2_0", "gguf-q2_0-128"}) {
    const Status status = ConvertModel(Options(path, dir.path() + "/m.gguf", format)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(),
                HasSubstr("tensor 'model.layers.0.mlp.down_proj' of 192 columns"));
    EXPECT_THAT(status.message(), HasSubstr("what can: hf-packed, hf-unpacked, gguf-q2_0-64"));
  }
  const std::string output = dir.path() + "/m.gguf";
  ASSERT_TRUE(ConvertModel(Options(path, output, "gguf-q2_0-64")).ok());
  ExpectSameModel(path, output, Scales::kSame);
}

TEST(ConvertTest, OverwritesNothing) {
  const testing::TempDir dir;
  const std::string model = MakeModel(Form::kUnpacked).Write(dir);
  const std::string file = dir.Write("m.gguf", "precious");
  for (const auto& [output, format] :
       {std::pair(file, "gguf-tq2_0"), {file, "hf-packed"}, {model, "hf-packed"}}) {
    const Status status = ConvertModel(Options(model, output, format)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists) << status;
    EXPECT_THAT(status.message(), HasSubstr(output));
  }
  EXPECT_EQ(*ReadTextFile(file), "precious");
  // An empty directory is taken.
  std::filesystem::create_directory(dir.path() + "/empty");
  EXPECT_TRUE(ConvertModel(Options(model, dir.path() + "/empty", "hf-packed")).ok());
}

TEST(ConvertTest, ADirectoryHasWhatTransformersLooksFor) {
  const testing::TempDir dir;
  TestModel model = MakeModel(Form::kPackedMultiplies, true);
  model.config["initializer_range"] = 0.02;
  model.config["auto_map"] = {{"AutoConfig", "configuration.Bitnet"}};
  const std::string path = model.Write(dir);
  dir.Write("model/tokenizer.json", "{}");
  dir.Write("model/generation_config.json", R"({"eos_token_id": 3})");
  const std::string output = dir.path() + "/packed";
  ASSERT_TRUE(ConvertModel(Options(path, output, "hf-packed")).ok());
  EXPECT_EQ(*ReadTextFile(output + "/tokenizer.json"), "{}");
  EXPECT_EQ(*ReadTextFile(output + "/generation_config.json"), R"({"eos_token_id": 3})");
  const Json config = Json::parse(*ReadTextFile(output + "/config.json"));
  EXPECT_EQ(config["architectures"], Json::array({"BitNetForCausalLM"}));
  EXPECT_EQ(config["initializer_range"], 0.02);
  EXPECT_FALSE(config.contains("auto_map"));
  EXPECT_EQ(config["quantization_config"]["quant_method"], "bitnet");
  EXPECT_EQ(config["quantization_config"]["linear_class"], "autobitlinear");
  EXPECT_EQ(config["quantization_config"]["quantization_mode"], "offline");
}

TEST(ConvertTest, CopiesMetadata) {
  const testing::TempDir dir;
  ConvertOptions options =
      Options(MakeModel(Form::kUnpacked).Write(dir), dir.path() + "/m.gguf", "gguf-tq2_0");
  options.tokenizer = {{"tokenizer.ggml.model", std::string("llama")},
                       {"tokenizer.ggml.tokens", std::vector<std::string>{"a", "b"}},
                       {"tokenizer.ggml.scores", std::vector<float>{-1, 2}},
                       {"tokenizer.ggml.token_type", std::vector<int32_t>{1, 3}},
                       {"tokenizer.ggml.bos_token_id", uint32_t{1}},
                       {"tokenizer.ggml.odd", int32_t{-1}},
                       {"tokenizer.ggml.number", 0.5f},
                       {"tokenizer.ggml.add_bos_token", true}};
  ASSERT_TRUE(ConvertModel(options).ok());
  const auto file = GgufFile::Open(options.output);
  const auto copy = CopyOf(file->metadata(), "tokenizer.");
  ASSERT_TRUE(copy.ok()) << copy.status();
  std::ranges::sort(options.tokenizer);
  EXPECT_EQ(*copy, options.tokenizer);
}

}  // namespace
}  // namespace sterna
