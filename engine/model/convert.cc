#include "engine/model/convert.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/logging.h"
#include "base/mapped_file.h"
#include "engine/model/agreement.h"
#include "engine/model/convert_job.h"
#include "engine/model/json_text.h"
#include "kernels/bfloat16.h"
#include "kernels/half_float.h"

namespace sterna {
namespace {

template <typename T>
void Append(T value, std::vector<uint8_t>& out) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof(value));
}

bool HoldsAll(TensorType type, std::span<const float> values) {
  return std::ranges::all_of(values, [type](float value) {
    const float held = type == TensorType::kBf16  ? Bf16ToFloat(FloatToBf16(value))
                       : type == TensorType::kF16 ? HalfToFloat(FloatToHalf(value))
                                                  : value;
    return held == value;
  });
}

std::string UnitName(const TernarizeUnit& unit) {
  switch (unit.granularity) {
    case ScaleGranularity::kTensor:
      return "tensor";
    case ScaleGranularity::kRow:
      return "row";
    case ScaleGranularity::kGroup:
      return absl::StrCat("group of ", unit.group_size, " weights");
  }
  return "unit";
}

// Before hours of work: that the output is not there, and what rounding to ternary weights needs.
Status CheckOptions(const ConvertOptions& options, bool from_gguf, const ModelConfig& config) {
  std::error_code ignored;
  const std::filesystem::path output = options.output;
  const bool taken = IsGguf(options.format)
                         ? std::filesystem::exists(output, ignored)
                         : std::filesystem::exists(output, ignored) &&
                               !(std::filesystem::is_directory(output, ignored) &&
                                 std::filesystem::is_empty(output, ignored));
  if (taken) {
    return absl::AlreadyExistsError(absl::StrCat(
        options.output, " is there already",
        IsGguf(options.format) ? "" : " and is no empty directory", "; nothing is overwritten"));
  }
  if (options.ternarize.has_value() &&
      (from_gguf || (config.family != CheckpointFamily::kUnpacked &&
                     config.family != CheckpointFamily::kGrouped))) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.model, from_gguf ? " is GGUF of family " : " is of family ",
        std::string(FamilyName(config.family)),
        ", whose weights are ternary: only safetensors in full precision are ternarised"));
  }
  return absl::OkStatus();
}

}  // namespace

const char* NameOf(ConvertFormat format) {
  for (const FormatName& known : kConvertFormats) {
    if (known.format == format) return known.name;
  }
  return "unknown";
}

bool IsGguf(ConvertFormat format) {
  return format != ConvertFormat::kHfPacked && format != ConvertFormat::kHfUnpacked;
}

std::string TernarizeWarning(const TernarizeUnit& unit) {
  return absl::StrCat("Weights rounded to -1, 0 and +1 times their mean magnitude per ",
                      UnitName(unit),
                      ", without fine-tuning: this model is damaged, and its output is of little "
                      "use until it has been trained on.");
}

StatusOr<std::vector<ModelTensor>> ConvertJob::Tensors() {
  constexpr std::string_view kSuffix = ".weight";
  std::vector<ModelTensor> tensors = TensorsOf(config_);
  if (options_.format == ConvertFormat::kHfPacked) return tensors;
  for (ModelTensor& tensor : tensors) {
    if (tensor.kind != ModelTensor::Kind::kMatrix) continue;
    STERNA_ASSIGN_OR_RETURN(const TernaryMatrix table,
                            source_.TernaryTable(tensor.name, tensor.rows, tensor.cols));
    if (table.empty()) continue;
    tensor.kind = ModelTensor::Kind::kTernary;
    tensor.is_table = true;
    tensor.name.resize(tensor.name.size() - kSuffix.size());
  }
  return tensors;
}

StatusOr<TernaryMatrix> ConvertJob::ReadTernary(const ModelTensor& tensor) {
  ++report_.ternary_tensors;
  if (tensor.is_table) {
    return source_.TernaryTable(tensor.name + ".weight", tensor.rows, tensor.cols);
  }
  if (!options_.ternarize.has_value()) {
    return source_.Ternary(tensor.name, tensor.rows, tensor.cols);
  }
  STERNA_ASSIGN_OR_RETURN(const StoredMatrix full,
                          source_.Matrix(tensor.name + ".weight", tensor.rows, tensor.cols));
  STERNA_ASSIGN_OR_RETURN(Ternarized made, TernarizeAbsmean(full, options_.ternarize->granularity,
                                                            options_.ternarize->group_size));
  MappedFile::Forget(full.bytes);
  report_.ternarized.emplace_back(tensor.name, made.error);
  return std::move(made.w);
}

void ConvertJob::NoteScaleChange(const ModelTensor& tensor, double scale, double written) {
  if (scale == written) return;
  const double change = std::abs(written / scale - 1);
  if (change <= report_.largest_scale_change) return;
  report_.largest_scale_change = change;
  report_.scale_change_tensor = tensor.name;
}

uint16_t ConvertJob::HalfScale(const ModelTensor& tensor, double scale) {
  const uint16_t half = FloatToHalf(static_cast<float>(scale));
  NoteScaleChange(tensor, scale, HalfToFloat(half));
  return half;
}

TensorType NarrowestType(std::span<const float> values) {
  for (const TensorType type : {TensorType::kBf16, TensorType::kF16}) {
    if (HoldsAll(type, values)) return type;
  }
  return TensorType::kF32;
}

TensorType NarrowestType(const StoredMatrix& matrix) {
  if (matrix.type == DenseType::kBf16) return TensorType::kBf16;
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  bool bf16 = true;
  bool f16 = true;
  for (int64_t r = 0; r < matrix.rows && (bf16 || f16); ++r) {
    matrix.read_row(r, row);
    bf16 = bf16 && HoldsAll(TensorType::kBf16, row);
    f16 = f16 && HoldsAll(TensorType::kF16, row);
  }
  MappedFile::Forget(matrix.bytes);
  return bf16 ? TensorType::kBf16 : f16 ? TensorType::kF16 : TensorType::kF32;
}

void AppendFloats(TensorType type, std::span<const float> values, std::vector<uint8_t>& out) {
  for (const float value : values) {
    if (type == TensorType::kBf16) {
      Append(FloatToBf16(value), out);
    } else if (type == TensorType::kF16) {
      Append(FloatToHalf(value), out);
    } else {
      Append(value, out);
    }
  }
}

Status WriteMatrix(const StoredMatrix& matrix, TensorType type, const ByteSink& sink) {
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  std::vector<uint8_t> bytes;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    matrix.read_row(r, row);
    bytes.clear();
    AppendFloats(type, row, bytes);
    STERNA_RETURN_IF_ERROR(sink(bytes));
  }
  MappedFile::Forget(matrix.bytes);
  return absl::OkStatus();
}

double ScaleAt(const TernaryMatrix& w, int64_t row, int64_t col) {
  if (w.granularity() == ScaleGranularity::kTensor) return w.tensor_scale();
  return w.scale(row, col / w.group_size());
}

namespace {

void WarnOfUnused(WeightSource& source) {
  constexpr size_t kMostNamed = 5;
  std::vector<std::string> names = source.Unused();
  const size_t count = names.size();
  if (count == 0) return;
  names.resize(std::min(count, kMostNamed));
  for (std::string& name : names) name = Shown(name);
  STERNA_LOG(kWarning, source.path(), " has ", count,
             " tensors that the model does not use and that are not written: ",
             absl::StrJoin(names, ", "), count > kMostNamed ? ", ..." : "");
}

}  // namespace

StatusOr<ConvertReport> ConvertModel(const ConvertOptions& options) {
  STERNA_ASSIGN_OR_RETURN(const ModelFiles files, ModelFiles::Open(options.model));
  STERNA_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(files));
  STERNA_RETURN_IF_ERROR(CheckOptions(options, files.gguf() != nullptr, config));
  STERNA_ASSIGN_OR_RETURN(const std::unique_ptr<WeightSource> source,
                          OpenWeights(files, config, options.i2s_layout));
  ConvertJob job(options, files, config, *source);
  STERNA_RETURN_IF_ERROR(job.CheckRoom());
  STERNA_RETURN_IF_ERROR(CheckAgreement(*source, config));
  STERNA_RETURN_IF_ERROR(IsGguf(options.format) ? WriteGgufModel(job) : WriteHfModel(job));
  WarnOfUnused(*source);
  return std::move(job.report());
}

}  // namespace sterna
