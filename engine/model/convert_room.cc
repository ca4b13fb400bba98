// What each of `convert`'s formats has room for: of a model, of a tensor's shape and of its scales.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/model/convert_job.h"
#include "kernels/half_float.h"

namespace sterna {
namespace {

// Half an ulp of half precision, with a little for the rounding to float in between.
constexpr double kHalfRounding = 0x1.001p-11;

std::string NoRoomInGguf(const ModelConfig& c) {
  constexpr char kNone[] = ", which no GGUF architecture has";
  const bool biases = c.attention_bias || c.mlp_bias;
  if (c.linear_rms_norm) return absl::StrCat("a norm in each linear (use_rms_norm)", kNone);
  if (c.has_sub_norms() && biases) return absl::StrCat("sub-norms and biases", kNone);
  if (!c.has_sub_norms() && c.activation == Activation::kReluSquared) {
    return absl::StrCat("relu squared (hidden_act relu2) without sub-norms", kNone);
  }
  if (c.qk_norm && biases) return absl::StrCat("norms of q and k, and biases", kNone);
  if (c.rope.scaling == RopeScaling::kYarn && !c.rope.truncate) {
    return absl::StrCat("yarn rotary scaling with truncate false", kNone);
  }
  const bool divisors =
      c.rope.scaling == RopeScaling::kLlama3 || !c.rope.frequency_divisors.empty();
  if (divisors && GgufArchitecture(c) != "llama") {
    return absl::StrCat("llama3 rotary scaling, which architecture ", GgufArchitecture(c),
                        " has not");
  }
  return "";
}

std::string NoRoomInDirectory(bool packed, const ModelConfig& c) {
  if (!c.rope.frequency_divisors.empty()) {
    return "rotary frequencies of its own (rope_freqs.weight)";
  }
  if (!packed && (c.has_sub_norms() || c.linear_rms_norm)) {
    return "sub-norms or norms in its linears, which nothing unpacked has";
  }
  if (packed && c.qk_norm) return "norms of q and k (model_type qwen3), which nothing packed has";
  if (packed && c.has_sub_norms() && (c.attention_bias || c.mlp_bias)) {
    return "sub-norms and biases";
  }
  return "";
}

std::string NoRoomForShapes(ConvertFormat format, const ModelConfig& config) {
  ModelConfig one_layer = config;  // they are all alike
  one_layer.num_layers = 1;
  for (const ModelTensor& tensor : TensorsOf(one_layer)) {
    if (tensor.kind != ModelTensor::Kind::kTernary) continue;
    const std::string start = absl::StrCat("tensor '", tensor.name, "' of ");
    if (format == ConvertFormat::kHfPacked && tensor.rows % kPackedRowsPerByte != 0) {
      return absl::StrCat(start, tensor.rows, " rows, no multiple of ", kPackedRowsPerByte);
    }
    if (!IsGguf(format)) continue;
    const int64_t block = GgufPackingOf(format).block_elements;
    if (tensor.cols % block != 0) {
      return absl::StrCat(start, tensor.cols, " columns, no multiple of ", block);
    }
  }
  return "";
}

// The first scale that half precision has not, or 0.
double BeyondHalf(const TernaryMatrix& w) {
  const auto beyond = [](double scale) {
    return std::abs(double{HalfToFloat(FloatToHalf(static_cast<float>(scale)))} - scale) >
           kHalfRounding * scale;
  };
  if (w.granularity() == ScaleGranularity::kTensor) {
    return beyond(w.tensor_scale()) ? w.tensor_scale() : 0;
  }
  for (int64_t row = 0; row < w.rows(); ++row) {
    for (int64_t group = 0; group < w.num_groups(); ++group) {
      if (beyond(w.scale(row, group))) return w.scale(row, group);
    }
  }
  return 0;
}

}  // namespace

std::string NoRoom(ConvertFormat format, const ModelConfig& config) {
  const std::string no_room = IsGguf(format)
                                  ? NoRoomInGguf(config)
                                  : NoRoomInDirectory(format == ConvertFormat::kHfPacked, config);
  return no_room.empty() ? NoRoomForShapes(format, config) : no_room;
}

std::string NoRoom(ConvertFormat format, const TernaryMatrix& w) {
  const bool groups = w.granularity() == ScaleGranularity::kGroup;
  if (format == ConvertFormat::kHfPacked) {
    if (groups) return absl::StrCat("a scale for each ", w.group_size(), " columns");
    return w.granularity() == ScaleGranularity::kRow ? "a scale for each row, or for some rows"
                                                     : "";
  }
  // Scales are found again in the values of whole groups alone.
  if (w.num_groups() > 1 && format == ConvertFormat::kHfUnpacked &&
      w.cols() % kTernaryBlockCols != 0) {
    return absl::StrCat("a scale for each ", w.group_size(), " of ", w.cols(),
                        " columns, no multiple of ", kTernaryBlockCols);
  }
  if (groups && IsGguf(format) && w.group_size() % GgufPackingOf(format).block_elements != 0) {
    return absl::StrCat("a scale for each ", w.group_size(),
                        " columns, where the format has one for ",
                        GgufPackingOf(format).block_elements);
  }
  if (const double scale = BeyondHalf(w); scale != 0) {
    return absl::StrFormat(
        "the scale %g, which half precision, of which its scales are, has only as %g", scale,
        HalfToFloat(FloatToHalf(static_cast<float>(scale))));
  }
  return "";
}

Status ConvertJob::CheckRoom() {
  const std::string no_room = NoRoom(options_.format, config_);
  if (no_room.empty()) return absl::OkStatus();
  // The scales of one tensor tell which of the other formats have room for all.
  const std::vector<ModelTensor> tensors = TensorsOf(config_);
  const auto linear = std::ranges::find(tensors, ModelTensor::Kind::kTernary, &ModelTensor::kind);
  const StatusOr<TernaryMatrix> w = ReadTernary(*linear);
  return Refuse(options_.model, no_room, w.ok() ? &*w : nullptr);
}

Status ConvertJob::CheckRoom(const ModelTensor& tensor, const TernaryMatrix& w) const {
  const std::string no_room = NoRoom(options_.format, w);
  if (no_room.empty()) return absl::OkStatus();
  return Refuse(absl::StrCat(options_.model, ": tensor '", tensor.name, "'"), no_room, &w);
}

Status ConvertJob::Refuse(const std::string& who, const std::string& what,
                          const TernaryMatrix* w) const {
  std::vector<std::string> instead;
  for (const FormatName& other : kConvertFormats) {
    const bool holds =
        NoRoom(other.format, config_).empty() && (w == nullptr || NoRoom(other.format, *w).empty());
    if (holds) instead.emplace_back(other.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      who, " has ", what, ", so that ", NameOf(options_.format), " cannot hold it; what can: ",
      instead.empty() ? "none of the formats" : absl::StrJoin(instead, ", ")));
}

}  // namespace sterna
