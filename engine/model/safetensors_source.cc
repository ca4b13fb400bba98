#include "engine/model/safetensors_source.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/logging.h"
#include "engine/model/json_text.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_reader.h"
#include "engine/model/ternary_reader.h"

namespace sterna {
namespace {

// How messages name what config.json has of family C.
constexpr char kFamilyCSigns[] = "weight_bits 1 (family C)";

bool IsFamilyC(const ModelConfig& config) { return config.family == CheckpointFamily::kInnerNorms; }

bool IsPacked(const ModelConfig& config) {
  return config.family == CheckpointFamily::kBitNetPacked ||
         config.family == CheckpointFamily::kBitLinear;
}

// Families D and E: values that are ternary already.
bool IsUnpacked(const ModelConfig& config) {
  return config.family == CheckpointFamily::kUnpacked ||
         config.family == CheckpointFamily::kGrouped;
}

// What in config.json makes scales something that is computed at load.
std::string SignsOfComputedScales(const ModelConfig& config) {
  if (IsFamilyC(config)) return kFamilyCSigns;
  if (!IsUnpacked(config)) return "quantization_mode online";
  return absl::StrCat("no quantization_config (family ", std::string(FamilyName(config.family)),
                      ")");
}

// Old exports store the rotary table, which the config determines.
bool IsRotaryTable(const std::string& name) { return name.ends_with("rotary_emb.inv_freq"); }

// A norm in front of o_proj or of down_proj, within a layer.
struct SubNorm {
  const char* bitnet;    // as model_type bitnet calls it, and this engine
  const char* family_c;  // as family C does
};
constexpr std::array<SubNorm, 2> kSubNorms = {{
    {"self_attn.attn_sub_norm.weight", "self_attn.inner_attn_ln.weight"},  // [heads * head_dim]
    {"mlp.ffn_sub_norm.weight", "mlp.ffn_layernorm.weight"},               // [ffn]
}};

class SafetensorsSource final : public WeightSource {
 public:
  SafetensorsSource(SafetensorsCheckpoint tensors, const ModelConfig& config)
      : tensors_(std::move(tensors)), reader_(tensors_), config_(config) {
    for (const std::string& name : tensors_.names()) {
      total_bytes_ += static_cast<int64_t>(tensors_.Find(name)->bytes.size());
    }
  }

  const std::string& path() const override { return tensors_.path(); }
  bool Has(const std::string& name) const override {
    return reader_.Has(SafetensorsName(name, config_));
  }
  StatusOr<std::vector<float>> Vector(const std::string& name, int64_t size) override {
    return reader_.Vector(SafetensorsName(name, config_), size);
  }
  StatusOr<TernaryMatrix> Ternary(const std::string& name, int64_t rows, int64_t cols) override;
  StatusOr<TernaryMatrix> TernaryTable(const std::string& name, int64_t rows,
                                       int64_t cols) override;
  StatusOr<StoredMatrix> Matrix(const std::string& name, int64_t rows, int64_t cols) override;
  std::vector<std::string> Unused() override;
  std::vector<MappedFile> TakeMappedFiles(const std::set<const void*>& kept) override {
    return KeepHolding(std::move(tensors_).TakeFiles(), kept);
  }
  int64_t total_bytes() const override { return total_bytes_; }

  // What no reading of single tensors would notice, before any.
  Status CheckLayers() const;

 private:
  Status CheckSubNorms() const;
  StatusOr<StoredMatrix> Stored(const std::string& name, int64_t rows, int64_t cols) {
    STERNA_ASSIGN_OR_RETURN(const TensorView* view, reader_.GetFloat(name, {rows, cols}));
    return StoreOf(*view, absl::StrCat(view->file, ": tensor '", name, "'"));
  }

  SafetensorsCheckpoint tensors_;
  TensorReader reader_;
  const ModelConfig& config_;
  int64_t total_bytes_ = 0;
};

StatusOr<TernaryMatrix> SafetensorsSource::Ternary(const std::string& name, int64_t rows,
                                                   int64_t cols) {
  const std::string weight_name = name + ".weight";
  StatusOr<TernaryMatrix> w;
  if (!IsPacked(config_)) {
    if (IsUnpacked(config_)) {
      STERNA_ASSIGN_OR_RETURN(const StoredMatrix stored, Stored(weight_name, rows, cols));
      STERNA_ASSIGN_OR_RETURN(w, ReadUnpacked(stored));
    } else {
      STERNA_ASSIGN_OR_RETURN(w, ReadLatent(reader_, weight_name, rows, cols));
    }
  } else {
    STERNA_ASSIGN_OR_RETURN(w, ReadPacked(reader_, weight_name, rows, cols));
    STERNA_ASSIGN_OR_RETURN(const double scale, ReadWeightScale(reader_, name + ".weight_scale"));
    // Only autobitlinear stores the factor itself; bitlinear stores its inverse.
    w->SetTensorScale(config_.family == CheckpointFamily::kBitNetPacked ? scale : 1.0 / scale);
  }
  CountRead(tensors_.Find(weight_name)->bytes);
  return w;
}

StatusOr<TernaryMatrix> SafetensorsSource::TernaryTable(const std::string& name, int64_t rows,
                                                        int64_t cols) {
  if (!IsUnpacked(config_)) return TernaryMatrix();
  STERNA_ASSIGN_OR_RETURN(const StoredMatrix stored, Stored(name, rows, cols));
  StatusOr<TernaryMatrix> matrix = ReadUnpacked(stored);
  if (absl::IsInvalidArgument(matrix.status())) return TernaryMatrix();
  if (matrix.ok()) CountRead(stored.bytes);
  return matrix;
}

StatusOr<StoredMatrix> SafetensorsSource::Matrix(const std::string& name, int64_t rows,
                                                 int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(StoredMatrix stored, Stored(name, rows, cols));
  CountRead(stored.bytes);
  return stored;
}

// That the layers have the sub-norms which the config implies: all of them, and none by another
// family's names.
Status SafetensorsSource::CheckSubNorms() const {
  const bool family_c = IsFamilyC(config_);
  std::vector<std::string> wrong;  // "lacks ..." and "has ...", the first of each kind
  const auto check = [&](const char* SubNorm::*names, bool wanted) {
    for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
      for (const SubNorm& norm : kSubNorms) {
        const std::string full = absl::StrCat("model.layers.", layer, ".", norm.*names);
        if (reader_.Has(full) == wanted) continue;
        wrong.push_back(absl::StrCat(wanted ? "lacks '" : "has '", full, "'"));
        return;
      }
    }
  };
  check(&SubNorm::bitnet, config_.has_sub_norms() && !family_c);
  check(&SubNorm::family_c, family_c);
  if (wrong.empty()) return absl::OkStatus();
  const auto names = family_c ? &SubNorm::family_c : &SubNorm::bitnet;
  return absl::InvalidArgumentError(
      absl::StrCat("config.json says ",
                   family_c ? kFamilyCSigns : absl::StrCat("model_type ", config_.model_type),
                   ", whose ", config_.num_layers, " layers have ",
                   config_.has_sub_norms()
                       ? absl::StrCat(kSubNorms[0].*names, " and ", kSubNorms[1].*names, " each")
                       : "no sub-norms",
                   ", but ", tensors_.path(), " ", absl::StrJoin(wrong, " and ")));
}

Status SafetensorsSource::CheckLayers() const {
  constexpr std::string_view kLayers = "model.layers.";
  for (const std::string& name : tensors_.names()) {
    int64_t layer = 0;
    if (!name.starts_with(kLayers) ||
        !absl::SimpleAtoi(
            name.substr(kLayers.size(), name.find('.', kLayers.size()) - kLayers.size()), &layer)) {
      continue;
    }
    if (layer >= config_.num_layers && !IsRotaryTable(name)) {
      return absl::InvalidArgumentError(absl::StrCat("config.json says num_hidden_layers ",
                                                     config_.num_layers, ", but ", tensors_.path(),
                                                     " has tensor '", Shown(name), "'"));
    }
    if (!IsPacked(config_) && name.ends_with(".weight_scale")) {
      return absl::InvalidArgumentError(absl::StrCat(
          "config.json says ", SignsOfComputedScales(config_),
          ", where scales are computed, but the ", "checkpoint has tensor '", Shown(name), "'"));
    }
  }
  return CheckSubNorms();
}

std::vector<std::string> SafetensorsSource::Unused() {
  std::vector<std::string> unused;
  const std::set<std::string> used = reader_.used();
  for (const std::string& name : tensors_.names()) {
    if (!used.contains(name) && !IsRotaryTable(name)) unused.push_back(name);
  }
  return unused;
}

}  // namespace

std::string SafetensorsName(const std::string& name, const ModelConfig& config) {
  if (!IsFamilyC(config)) return name;
  for (const SubNorm& norm : kSubNorms) {
    const std::string_view bitnet = norm.bitnet;
    if (name.ends_with(bitnet)) {
      return absl::StrCat(name.substr(0, name.size() - bitnet.size()), norm.family_c);
    }
  }
  return name;
}

StatusOr<std::unique_ptr<WeightSource>> OpenSafetensorsSource(const std::string& model_dir,
                                                              const ModelConfig& config) {
  STERNA_ASSIGN_OR_RETURN(SafetensorsCheckpoint tensors, SafetensorsCheckpoint::Open(model_dir));
  auto source = std::make_unique<SafetensorsSource>(std::move(tensors), config);
  STERNA_RETURN_IF_ERROR(source->CheckLayers());
  return source;
}

}  // namespace sterna
