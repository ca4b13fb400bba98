// `convert` to a Hugging Face directory: packed as families A and B are, or unpacked as D and E.
#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "base/output_file.h"
#include "engine/model/convert_job.h"
#include "engine/model/json_text.h"
#include "engine/model/safetensors_writer.h"
#include "kernels/half_float.h"
#include "nlohmann/json.hpp"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxConfigBytes = 1 << 20;

// What a directory has beside config.json and weights, as far as it is there.
constexpr const char* kCompanions[] = {
    "generation_config.json", "tokenizer.json",      "tokenizer_config.json",
    "tokenizer.model",        "vocab.json",          "merges.txt",
    "added_tokens.json",      "chat_template.jinja", "special_tokens_map.json"};

bool Packed(const ConvertJob& job) { return job.options().format == ConvertFormat::kHfPacked; }

// Whether the packed form's scale divides. It does where it did; elsewhere the scale itself is
// stored, which its inverse might not be exactly. Packed weights whose scale multiplies have no
// biases (docs/formats.md).
bool ScaleDivides(const ConvertJob& job) {
  const ModelConfig& c = job.config();
  const bool did = job.files().gguf() == nullptr && c.family == CheckpointFamily::kBitLinear;
  return did || c.attention_bias || c.mlp_bias;
}

Json QuantizationConfig(const ConvertJob& job) {
  const ModelConfig& config = job.config();
  Json quantization = {{"quant_method", "bitnet"},
                       {"modules_to_not_convert", nullptr},
                       {"linear_class", ScaleDivides(job) ? "bitlinear" : "autobitlinear"},
                       {"quantization_mode", "offline"}};
  if (config.linear_rms_norm) {
    quantization["use_rms_norm"] = true;
    quantization["rms_norm_eps"] = config.linear_rms_norm_eps;
  }
  return quantization;
}

// Rotary embedding, whatever the source leaves to defaults: those of another model type differ.
void SetRope(const RopeConfig& rope, Json& object) {
  object.erase("rope_parameters");
  object.erase("rope_scaling");
  object["rope_theta"] = rope.theta;
  if (rope.scaling == RopeScaling::kNone) return;
  Json scaling = {{"factor", rope.factor}};
  if (rope.scaling == RopeScaling::kLinear) scaling["rope_type"] = "linear";
  if (rope.scaling == RopeScaling::kLlama3) {
    scaling.update({{"rope_type", "llama3"},
                    {"low_freq_factor", rope.low_freq_factor},
                    {"high_freq_factor", rope.high_freq_factor},
                    {"original_max_position_embeddings", rope.original_max_positions}});
  }
  if (rope.scaling == RopeScaling::kYarn) {
    scaling.update({{"rope_type", "yarn"},
                    {"beta_fast", rope.beta_fast},
                    {"beta_slow", rope.beta_slow},
                    {"truncate", rope.truncate},
                    {"attention_factor", rope.attention_factor},
                    {"original_max_position_embeddings", rope.original_max_positions}});
  }
  object["rope_scaling"] = std::move(scaling);
}

// config.json: that of the source, where it has one, with what changes, and with what another
// model type would have other defaults for.
StatusOr<Json> ConfigJson(const ConvertJob& job) {
  const ModelConfig& c = job.config();
  Json object = Json::object();
  if (job.files().gguf() == nullptr) {
    STERNA_ASSIGN_OR_RETURN(const std::string text,
                            ReadJsonText(job.files().path() + "/config.json", kMaxConfigBytes));
    object = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    STERNA_CHECK(object.is_object());  // ReadModelConfig has read it
  }
  // The architecture and code that the files of family C name are their authors' own.
  for (const char* key : {"quantization_config", "weight_bits", "input_bits", "auto_map"}) {
    object.erase(key);
  }
  const std::string type = c.has_sub_norms() ? "bitnet" : c.qk_norm ? "qwen3" : "llama";
  object["architectures"] = {type == "bitnet"  ? "BitNetForCausalLM"
                             : type == "qwen3" ? "Qwen3ForCausalLM"
                                               : "LlamaForCausalLM"};
  object["model_type"] = type;
  object["hidden_size"] = c.hidden_size;
  object["intermediate_size"] = c.ffn_size;
  object["num_hidden_layers"] = c.num_layers;
  object["num_attention_heads"] = c.num_heads;
  object["num_key_value_heads"] = c.num_kv_heads;
  object["head_dim"] = c.head_dim;
  object["vocab_size"] = c.vocab_size;
  object["max_position_embeddings"] = c.max_positions;
  object["rms_norm_eps"] = c.rms_norm_eps;
  object["hidden_act"] = c.activation == Activation::kReluSquared ? "relu2" : "silu";
  object["attention_bias"] = c.attention_bias;
  object["mlp_bias"] = c.mlp_bias;
  object["tie_word_embeddings"] = c.tie_embeddings;
  SetRope(c.rope, object);
  if (object.value("eos_token_id", Json()).is_null() && !c.eos_token_ids.empty()) {
    object["eos_token_id"] = c.eos_token_ids;
  }
  if (!object.contains("torch_dtype") && !object.contains("dtype")) {
    object["torch_dtype"] = "bfloat16";
  }
  if (Packed(job)) object["quantization_config"] = QuantizationConfig(job);
  return object;
}

Status WriteTextFile(const std::string& path, const std::string& text) {
  STERNA_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  STERNA_RETURN_IF_ERROR(file.Write(text));
  return file.Commit();
}

Status CopyCompanions(const ConvertJob& job) {
  for (const char* name : kCompanions) {
    const std::string from = absl::StrCat(job.options().tokenizer_dir, "/", name);
    std::error_code ignored;
    if (!std::filesystem::exists(from, ignored)) continue;
    STERNA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(from));
    STERNA_RETURN_IF_ERROR(WriteTextFile(absl::StrCat(job.options().output, "/", name), text));
  }
  return absl::OkStatus();
}

class HfModelWriter {
 public:
  explicit HfModelWriter(ConvertJob& job) : job_(job) {}

  Status Write();

 private:
  Status AddHeaders(const ModelTensor& tensor);
  Status WriteTensor(const ModelTensor& tensor);
  Status WritePacked(const ModelTensor& tensor, const TernaryMatrix& w);
  Status WriteScale(const ModelTensor& tensor, double scale);
  Status WriteUnpacked(const ModelTensor& tensor, const TernaryMatrix& w);
  StatusOr<TensorType> ScaleType(const ModelTensor& tensor);
  TensorType TypeOf(const std::string& name) const { return types_.at(name); }

  ConvertJob& job_;
  std::vector<SafetensorsHeader> headers_;
  std::map<std::string, TensorType> types_;  // of each of the headers
  std::optional<SafetensorsWriter> writer_;
};

// What the source stores it in, so that nothing changes where nothing need to.
StatusOr<TensorType> HfModelWriter::ScaleType(const ModelTensor& tensor) {
  const std::string name = tensor.name + ".weight_scale";
  if (!job_.source().Has(name)) return TensorType::kF32;
  const StatusOr<std::vector<float>> scale = job_.source().Vector(name, 1);
  // Of another shape, which only the reader of the whole tensor knows to take.
  return scale.ok() ? NarrowestType(*scale) : TensorType::kF32;
}

Status HfModelWriter::AddHeaders(const ModelTensor& tensor) {
  const auto add = [this](const std::string& name, TensorType type, std::vector<int64_t> shape) {
    headers_.push_back({name, type, std::move(shape)});
    types_[name] = type;
  };
  switch (tensor.kind) {
    case ModelTensor::Kind::kVector: {
      STERNA_ASSIGN_OR_RETURN(const std::vector<float> values, job_.ReadVector(tensor));
      add(tensor.name, NarrowestType(values), {tensor.cols});
      break;
    }
    case ModelTensor::Kind::kMatrix: {
      STERNA_ASSIGN_OR_RETURN(const StoredMatrix matrix, job_.ReadMatrix(tensor));
      add(tensor.name, NarrowestType(matrix), {tensor.rows, tensor.cols});
      break;
    }
    case ModelTensor::Kind::kTernary: {
      if (!Packed(job_)) {
        add(tensor.name + ".weight", TensorType::kF16, {tensor.rows, tensor.cols});
        break;
      }
      STERNA_ASSIGN_OR_RETURN(const TensorType scale_type, ScaleType(tensor));
      add(tensor.name + ".weight", TensorType::kU8,
          {tensor.rows / kPackedRowsPerByte, tensor.cols});
      add(tensor.name + ".weight_scale", scale_type, {1});
      break;
    }
  }
  return absl::OkStatus();
}

Status HfModelWriter::WritePacked(const ModelTensor& tensor, const TernaryMatrix& w) {
  std::vector<uint8_t> bytes(static_cast<size_t>(tensor.cols));
  for (int64_t row = 0; row < tensor.rows / kPackedRowsPerByte; ++row) {
    PackFourRows(w, row, bytes);
    STERNA_RETURN_IF_ERROR(writer_->Write(bytes));
  }
  return WriteScale(tensor, w.tensor_scale());
}

Status HfModelWriter::WriteScale(const ModelTensor& tensor, double scale) {
  const bool divides = ScaleDivides(job_);
  const auto stored = static_cast<float>(divides ? 1 / scale : scale);
  job_.NoteScaleChange(tensor, scale, divides ? 1.0 / stored : stored);
  std::vector<uint8_t> bytes;
  AppendFloats(TypeOf(tensor.name + ".weight_scale"), {&stored, 1}, bytes);
  return writer_->Write(bytes);
}

Status HfModelWriter::WriteUnpacked(const ModelTensor& tensor, const TernaryMatrix& w) {
  std::vector<uint8_t> codes(static_cast<size_t>(tensor.cols));
  std::vector<float> values(codes.size());
  std::vector<uint8_t> bytes;
  for (int64_t row = 0; row < tensor.rows; ++row) {
    w.GetRowCodes(row, codes);
    float scale = 0;
    for (int64_t col = 0; col < tensor.cols; ++col) {
      if (col % w.group_size() == 0) {
        scale = HalfToFloat(job_.HalfScale(tensor, ScaleAt(w, row, col)));
      }
      values[col] = static_cast<float>(codes[col] - 1) * scale;
    }
    bytes.clear();
    AppendFloats(TensorType::kF16, values, bytes);
    STERNA_RETURN_IF_ERROR(writer_->Write(bytes));
  }
  return absl::OkStatus();
}

Status HfModelWriter::WriteTensor(const ModelTensor& tensor) {
  if (tensor.kind == ModelTensor::Kind::kTernary) {
    STERNA_ASSIGN_OR_RETURN(const TernaryMatrix w, job_.ReadTernary(tensor));
    STERNA_RETURN_IF_ERROR(job_.CheckRoom(tensor, w));
    return Packed(job_) ? WritePacked(tensor, w) : WriteUnpacked(tensor, w);
  }
  if (tensor.kind == ModelTensor::Kind::kMatrix) {
    STERNA_ASSIGN_OR_RETURN(const StoredMatrix matrix, job_.ReadMatrix(tensor));
    return WriteMatrix(matrix, TypeOf(tensor.name),
                       [this](std::span<const uint8_t> bytes) { return writer_->Write(bytes); });
  }
  STERNA_ASSIGN_OR_RETURN(const std::vector<float> values, job_.ReadVector(tensor));
  std::vector<uint8_t> bytes;
  AppendFloats(TypeOf(tensor.name), values, bytes);
  return writer_->Write(bytes);
}

Status HfModelWriter::Write() {
  STERNA_ASSIGN_OR_RETURN(const std::vector<ModelTensor> tensors, job_.Tensors());
  for (const ModelTensor& tensor : tensors) STERNA_RETURN_IF_ERROR(AddHeaders(tensor));
  std::map<std::string, std::string> notes;
  if (job_.options().ternarize.has_value()) {
    notes["note"] = TernarizeWarning(*job_.options().ternarize);
  }
  for (const SafetensorsHeader& header : headers_) job_.report().bytes += header.bytes();
  STERNA_ASSIGN_OR_RETURN(writer_,
                          SafetensorsWriter::Create(job_.options().output, headers_, notes));
  for (const ModelTensor& tensor : tensors) STERNA_RETURN_IF_ERROR(WriteTensor(tensor));
  return writer_->Finish();
}

}  // namespace

void PackFourRows(const TernaryMatrix& w, int64_t packed_row, std::span<uint8_t> out) {
  std::vector<uint8_t> codes(static_cast<size_t>(w.cols()));
  std::ranges::fill(out, uint8_t{0});
  for (int64_t i = 0; i < kPackedRowsPerByte; ++i) {
    w.GetRowCodes(i * (w.rows() / kPackedRowsPerByte) + packed_row, codes);
    for (size_t c = 0; c < codes.size(); ++c) out[c] |= static_cast<uint8_t>(codes[c] << (2 * i));
  }
}

Status WriteHfModel(ConvertJob& job) {
  STERNA_ASSIGN_OR_RETURN(const Json config, ConfigJson(job));
  const std::string& directory = job.options().output;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot create directory ", directory));
  }
  STERNA_RETURN_IF_ERROR(HfModelWriter(job).Write());
  STERNA_RETURN_IF_ERROR(CopyCompanions(job));
  if (job.options().ternarize.has_value()) {
    STERNA_RETURN_IF_ERROR(
        WriteTextFile(directory + "/README.md", TernarizeWarning(*job.options().ternarize) + "\n"));
  }
  // Last: without it a directory is no model, so that what was broken off is not taken for one.
  return WriteTextFile(directory + "/config.json",
                       config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace sterna
