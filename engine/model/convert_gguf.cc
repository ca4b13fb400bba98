// `convert` to GGUF: metadata and tensor names as llama.cpp's own converter gives them.
// Source: llama.cpp (gguf-py's constants.py and the architectures' tensors), BitNet's fork.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/model/convert_job.h"
#include "engine/model/gguf_ternary.h"
#include "engine/model/gguf_writer.h"

namespace sterna {
namespace {

constexpr char kRopeDivisors[] = "rope_freqs.weight";

struct Target {
  ConvertFormat format;
  GgufPacking packing;
  uint32_t file_type;  // llama.cpp's number for files that are mostly of this type
};
constexpr Target kTargets[] = {
    {ConvertFormat::kTq1_0, kPackingTq1_0, 36},
    {ConvertFormat::kTq2_0, kPackingTq2_0, 37},
    {ConvertFormat::kQ2_0Of64, kPackingQ2_0Of64, 41},
    {ConvertFormat::kQ2_0Of128, kPackingQ2_0Of128, 41},
};

const Target& TargetOf(ConvertFormat format) {
  for (const Target& target : kTargets) {
    if (target.format == format) return target;
  }
  STERNA_CHECK(false);
  return kTargets[0];
}

// Whether the architecture rotates neighbours instead of halves, so that rows of q and k are
// reordered.
bool TurnsNeighbours(const std::string& architecture) { return architecture == "llama"; }

// Row `row` of a tensor whose heads' rows are interleaved is this row of ours: the pair (i, i +
// head_dim / 2) becomes (2i, 2i + 1).
int64_t InterleavedRow(int64_t row, int64_t head_dim) {
  const int64_t in_head = row % head_dim;
  return row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2;
}

// What the frequencies of the rotary embedding are divided by, beyond what metadata say; empty for
// nothing.
std::vector<float> RopeDivisors(const ModelConfig& config) {
  if (config.rope.scaling != RopeScaling::kLlama3) return config.rope.frequency_divisors;
  RopeConfig plain;
  plain.theta = config.rope.theta;
  const std::vector<double> from = plain.InverseFrequencies(config.head_dim);
  const std::vector<double> to = config.rope.InverseFrequencies(config.head_dim);
  std::vector<float> divisors(from.size());
  for (size_t i = 0; i < from.size(); ++i) divisors[i] = static_cast<float>(from[i] / to[i]);
  return divisors;
}

std::vector<GgufKeyValue> Metadata(const ConvertJob& job, const std::string& architecture) {
  const ModelConfig& c = job.config();
  std::vector<GgufKeyValue> keys;
  const auto add = [&](const std::string& key, auto value) {
    keys.emplace_back(key, std::move(value));
  };
  const auto add_own = [&](const char* key, auto value) {
    add(absl::StrCat(architecture, ".", key), std::move(value));
  };
  const auto count = [](int64_t value) { return static_cast<uint32_t>(value); };
  std::filesystem::path model = std::filesystem::path(job.options().model).lexically_normal();
  if (!model.has_filename()) model = model.parent_path();
  add("general.architecture", architecture);
  add("general.type", std::string("model"));
  add("general.name", (job.files().gguf() != nullptr ? model.stem() : model.filename()).string());
  if (job.options().ternarize.has_value()) {
    add("general.description", TernarizeWarning(*job.options().ternarize));
  }
  add("general.file_type", TargetOf(job.options().format).file_type);
  add("general.quantization_version", uint32_t{2});
  add_own("vocab_size", count(c.vocab_size));
  add_own("context_length", count(c.max_positions));
  add_own("embedding_length", count(c.hidden_size));
  add_own("block_count", count(c.num_layers));
  add_own("feed_forward_length", count(c.ffn_size));
  add_own("attention.head_count", count(c.num_heads));
  add_own("attention.head_count_kv", count(c.num_kv_heads));
  add_own("attention.key_length", count(c.head_dim));
  add_own("attention.value_length", count(c.head_dim));
  add_own("attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_norm_eps));
  add_own("rope.dimension_count", count(c.head_dim));
  add_own("rope.freq_base", static_cast<float>(c.rope.theta));
  if (c.rope.scaling == RopeScaling::kLinear) {
    add_own("rope.scaling.type", std::string("linear"));
    add_own("rope.scaling.factor", static_cast<float>(c.rope.factor));
  }
  if (c.rope.scaling == RopeScaling::kYarn) {
    add_own("rope.scaling.type", std::string("yarn"));
    add_own("rope.scaling.factor", static_cast<float>(c.rope.factor));
    add_own("rope.scaling.original_context_length", count(c.rope.original_max_positions));
    add_own("rope.scaling.yarn_beta_fast", static_cast<float>(c.rope.beta_fast));
    add_own("rope.scaling.yarn_beta_slow", static_cast<float>(c.rope.beta_slow));
    // Readers multiply by what follows from the factor (Peng et al. 2023, section 3.4).
    const double implied = c.rope.factor <= 1 ? 1 : 0.1 * std::log(c.rope.factor) + 1;
    const auto given = static_cast<float>(c.rope.attention_factor / implied);
    if (given != 1) add_own("rope.scaling.attn_factor", given);
  }
  for (const GgufKeyValue& key : job.options().tokenizer) keys.push_back(key);
  return keys;
}

StatusOr<GgufKeyValue> CopyOf(const GgufMetadata& metadata, const std::string& key,
                              const GgufValue& value) {
  const bool array = value.type == GgufValueType::kArray;
  const GgufValueType type = array ? value.element_type : value.type;
  if (type == GgufValueType::kString && array) {
    STERNA_ASSIGN_OR_RETURN(const auto strings, metadata.Strings(key));
    return GgufKeyValue(key, std::vector<std::string>(strings.begin(), strings.end()));
  }
  if (type == GgufValueType::kInt32 && array) {
    STERNA_ASSIGN_OR_RETURN(const auto numbers, metadata.Integers(key));
    return GgufKeyValue(key, std::vector<int32_t>(numbers.begin(), numbers.end()));
  }
  if (type == GgufValueType::kFloat32 && array) {
    STERNA_ASSIGN_OR_RETURN(const auto numbers, metadata.Floats(key));
    return GgufKeyValue(key, std::vector<float>(numbers.begin(), numbers.end()));
  }
  if (type == GgufValueType::kString && !array) {
    STERNA_ASSIGN_OR_RETURN(const auto text, metadata.String(key));
    return GgufKeyValue(key, std::string(text));
  }
  if (type == GgufValueType::kBool && !array) {
    STERNA_ASSIGN_OR_RETURN(const bool set, metadata.Bool(key));
    return GgufKeyValue(key, set);
  }
  if (type == GgufValueType::kFloat32 && !array) {
    STERNA_ASSIGN_OR_RETURN(const double number, metadata.Float(key));
    return GgufKeyValue(key, static_cast<float>(number));
  }
  if ((type == GgufValueType::kUint32 || type == GgufValueType::kInt32) && !array) {
    STERNA_ASSIGN_OR_RETURN(const int64_t number, metadata.Integer(key));
    if (type == GgufValueType::kUint32) return GgufKeyValue(key, static_cast<uint32_t>(number));
    return GgufKeyValue(key, static_cast<int32_t>(number));
  }
  return absl::UnimplementedError(
      absl::StrCat("metadata '", key, "' is ", value.Description(), ", which is not copied"));
}

class GgufModelWriter {
 public:
  GgufModelWriter(ConvertJob& job, std::string architecture)
      : job_(job),
        architecture_(std::move(architecture)),
        packing_(GgufPackingOf(job.options().format)) {}

  Status Write();

 private:
  Status AddHeader(const ModelTensor& tensor);
  Status WriteTensor(const ModelTensor& tensor, const GgufTensorHeader& header);
  Status WriteTernary(const ModelTensor& tensor);
  void PackRow(const ModelTensor& tensor, const TernaryMatrix& w, int64_t row,
               std::span<uint8_t> out);
  // The row of ours that becomes row `row`.
  int64_t SourceRow(const ModelTensor& tensor, int64_t row) const {
    const bool moved = tensor.rotated_heads > 0 && TurnsNeighbours(architecture_);
    return moved ? InterleavedRow(row, job_.config().head_dim) : row;
  }

  ConvertJob& job_;
  std::string architecture_;
  GgufPacking packing_;  // of ternary tensors
  std::vector<GgufTensorHeader> headers_;
  std::optional<GgufWriter> writer_;
};

TensorType TypeOf(const GgufPacking& packing) {
  return packing.type == GgufTensorType::kBf16  ? TensorType::kBf16
         : packing.type == GgufTensorType::kF16 ? TensorType::kF16
                                                : TensorType::kF32;
}

Status GgufModelWriter::AddHeader(const ModelTensor& tensor) {
  STERNA_CHECK(!tensor.gguf_name.empty());
  if (tensor.kind == ModelTensor::Kind::kVector) {
    headers_.push_back({tensor.gguf_name, kPackingF32, {tensor.cols}});
    return absl::OkStatus();
  }
  GgufPacking packing = packing_;
  if (tensor.kind == ModelTensor::Kind::kMatrix) {
    STERNA_ASSIGN_OR_RETURN(const StoredMatrix matrix, job_.ReadMatrix(tensor));
    const TensorType type = NarrowestType(matrix);
    packing = type == TensorType::kBf16  ? kPackingBf16
              : type == TensorType::kF16 ? kPackingF16
                                         : kPackingF32;
  }
  headers_.push_back({tensor.gguf_name, packing, {tensor.rows, tensor.cols}});
  return absl::OkStatus();
}

void GgufModelWriter::PackRow(const ModelTensor& tensor, const TernaryMatrix& w, int64_t row,
                              std::span<uint8_t> out) {
  std::vector<uint8_t> codes(static_cast<size_t>(tensor.cols));
  w.GetRowCodes(row, codes);
  std::vector<uint16_t> scales;
  for (int64_t col = 0; col < tensor.cols; col += packing_.block_elements) {
    scales.push_back(job_.HalfScale(tensor, ScaleAt(w, row, col)));
  }
  PackGgufTernaryRow(packing_, codes, scales, out);
}

Status GgufModelWriter::WriteTernary(const ModelTensor& tensor) {
  STERNA_ASSIGN_OR_RETURN(const TernaryMatrix w, job_.ReadTernary(tensor));
  STERNA_RETURN_IF_ERROR(job_.CheckRoom(tensor, w));
  std::vector<uint8_t> bytes(
      static_cast<size_t>(tensor.cols / packing_.block_elements * packing_.block_bytes));
  for (int64_t row = 0; row < tensor.rows; ++row) {
    PackRow(tensor, w, SourceRow(tensor, row), bytes);
    STERNA_RETURN_IF_ERROR(writer_->Write(bytes));
  }
  return absl::OkStatus();
}

Status GgufModelWriter::WriteTensor(const ModelTensor& tensor, const GgufTensorHeader& header) {
  if (tensor.kind == ModelTensor::Kind::kTernary) return WriteTernary(tensor);
  if (tensor.kind == ModelTensor::Kind::kMatrix) {
    STERNA_ASSIGN_OR_RETURN(const StoredMatrix matrix, job_.ReadMatrix(tensor));
    return WriteMatrix(matrix, TypeOf(header.packing),
                       [this](std::span<const uint8_t> bytes) { return writer_->Write(bytes); });
  }
  STERNA_ASSIGN_OR_RETURN(const std::vector<float> values, job_.ReadVector(tensor));
  std::vector<float> ordered(values.size());
  for (int64_t i = 0; i < tensor.cols; ++i) ordered[i] = values[SourceRow(tensor, i)];
  std::vector<uint8_t> bytes;
  AppendFloats(TensorType::kF32, ordered, bytes);
  return writer_->Write(bytes);
}

Status GgufModelWriter::Write() {
  const std::vector<float> divisors = RopeDivisors(job_.config());
  STERNA_ASSIGN_OR_RETURN(const std::vector<ModelTensor> tensors, job_.Tensors());
  for (const ModelTensor& tensor : tensors) STERNA_RETURN_IF_ERROR(AddHeader(tensor));
  if (!divisors.empty()) {
    headers_.push_back({kRopeDivisors, kPackingF32, {static_cast<int64_t>(divisors.size())}});
  }
  STERNA_ASSIGN_OR_RETURN(
      writer_, GgufWriter::Create(job_.options().output, Metadata(job_, architecture_), headers_));
  for (size_t i = 0; i < tensors.size(); ++i) {
    STERNA_RETURN_IF_ERROR(WriteTensor(tensors[i], headers_[i]));
  }
  if (!divisors.empty()) {
    std::vector<uint8_t> bytes;
    AppendFloats(TensorType::kF32, divisors, bytes);
    STERNA_RETURN_IF_ERROR(writer_->Write(bytes));
  }
  for (const GgufTensorHeader& header : headers_) job_.report().bytes += header.bytes();
  return writer_->Finish();
}

}  // namespace

StatusOr<std::vector<GgufKeyValue>> CopyOf(const GgufMetadata& metadata, std::string_view prefix) {
  std::vector<GgufKeyValue> copies;
  for (const auto& [key, value] : metadata.values()) {
    if (!key.starts_with(prefix)) continue;
    STERNA_ASSIGN_OR_RETURN(GgufKeyValue copy, CopyOf(metadata, std::string(key), value));
    copies.push_back(std::move(copy));
  }
  return copies;
}

std::string GgufArchitecture(const ModelConfig& config) {
  if (config.has_sub_norms()) {
    return config.activation == Activation::kReluSquared ? "bitnet-b1.58" : "bitnet";
  }
  return config.qk_norm ? "qwen3" : "llama";
}

const GgufPacking& GgufPackingOf(ConvertFormat format) { return TargetOf(format).packing; }

Status WriteGgufModel(ConvertJob& job) {
  return GgufModelWriter(job, GgufArchitecture(job.config())).Write();
}

}  // namespace sterna
