#include "engine/model/gguf_source.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/mutex.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_blocks.h"
#include "engine/model/ternary_reader.h"

namespace sterna {
namespace {

struct NamePair {
  std::string_view ours;
  std::string_view file;
};
// Of the model, and of a layer, less ".weight" and the like.
constexpr NamePair kModelNames[] = {
    {"model.embed_tokens", "token_embd"}, {"model.norm", "output_norm"}, {"lm_head", "output"}};
constexpr NamePair kLayerNames[] = {
    {"input_layernorm", "attn_norm"},
    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},
    {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"},
    {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"},
    {"self_attn.attn_sub_norm", "attn_sub_norm"},
    {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},
    {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},
    {"mlp.ffn_sub_norm", "ffn_sub_norm"},
};
constexpr std::string_view kLayers = "model.layers.";
constexpr char kFileLayers[] = "blk.";

// The rows of a ternary matrix, as numbers.
StoredMatrix Stored(const GgufTensor& tensor, TernaryMatrix matrix) {
  const auto shared = std::make_shared<TernaryMatrix>(std::move(matrix));
  return {.rows = tensor.rows,
          .cols = tensor.cols,
          .type = DenseType::kF32,
          .read_row = [shared](int64_t row,
                               std::span<float> values) { shared->CopyRow(row, values.data()); },
          .bytes = tensor.bytes,
          .in_place = false,
          .where = absl::StrCat(tensor.file, ": tensor '", tensor.name, "'")};
}

// A matrix of numbers. Unimplemented for one of another type.
StatusOr<StoredMatrix> Stored(const GgufTensor& tensor) {
  // One row tells whether the type is one of numbers at all.
  std::vector<float> first(static_cast<size_t>(tensor.cols));
  STERNA_RETURN_IF_ERROR(DequantizeGgufRow(tensor, 0, first));
  const bool bf16 = tensor.type == GgufTensorType::kBf16;
  // At an odd address where the file's alignment is less than a float's.
  const auto address = reinterpret_cast<uintptr_t>(tensor.bytes.data());
  const bool aligned = address % static_cast<uintptr_t>(tensor.block_bytes) == 0;
  const auto read_row = [&tensor](int64_t row, std::span<float> values) {
    STERNA_CHECK(DequantizeGgufRow(tensor, row, values).ok());  // as it was for the first
  };
  return StoredMatrix{.rows = tensor.rows,
                      .cols = tensor.cols,
                      .type = bf16 ? DenseType::kBf16 : DenseType::kF32,
                      .read_row = read_row,
                      .bytes = tensor.bytes,
                      .in_place = aligned && (bf16 || tensor.type == GgufTensorType::kF32),
                      .where = absl::StrCat(tensor.file, ": tensor '", tensor.name, "'")};
}

class GgufSource final : public WeightSource {
 public:
  GgufSource(GgufCheckpoint tensors, const ModelConfig& config, I2sLayout i2s_layout);

  const std::string& path() const override { return tensors_.files()[0].path(); }
  bool Has(const std::string& name) const override {
    return tensors_.Find(GgufTensorName(name)) != nullptr;
  }
  StatusOr<std::vector<float>> Vector(const std::string& name, int64_t size) override;
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
  StatusOr<const GgufTensor*> Get(const std::string& name, const std::vector<int64_t>& shape)
      STERNA_EXCLUDES(mutex_);
  RowOrder RowOrderOf(const std::string& name) const;
  StatusOr<TernaryMatrix> Read(const GgufTensor& tensor, const RowOrder& order);

  GgufCheckpoint tensors_;
  const ModelConfig& config_;
  const I2sLayout i2s_layout_;
  bool interleaved_ = false;  // whether q's and k's rotated pairs are neighbours
  int64_t total_bytes_ = 0;
  Mutex mutex_;
  std::set<std::string> used_ STERNA_GUARDED_BY(mutex_);  // as the files call them
};

GgufSource::GgufSource(GgufCheckpoint tensors, const ModelConfig& config, I2sLayout i2s_layout)
    : tensors_(std::move(tensors)), config_(config), i2s_layout_(i2s_layout) {
  for (const std::string& name : tensors_.names()) {
    total_bytes_ += static_cast<int64_t>(tensors_.Find(name)->bytes.size());
  }
  const auto architecture = tensors_.metadata().String("general.architecture");
  interleaved_ = architecture.ok() && *architecture == "llama";
}

StatusOr<const GgufTensor*> GgufSource::Get(const std::string& name,
                                            const std::vector<int64_t>& shape) {
  const std::string in_file = GgufTensorName(name);
  const GgufTensor* tensor = tensors_.Find(in_file);
  if (tensor == nullptr) {
    return absl::NotFoundError(absl::StrCat(path(), " lacks tensor '", in_file,
                                            "', which the metadata and the other tensors imply"));
  }
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor->Where(), "is ", tensor->type_name, " ", tensor->ShapeString(),
                     ", but the metadata imply [", absl::StrJoin(shape, ", "), "]"));
  }
  const MutexLock lock(mutex_);
  used_.insert(in_file);
  return tensor;
}

// Of the rows of q and k within a head: files of architecture llama have what is rotated together,
// rows i and i + head_dim / 2 of ours, as neighbours 2i and 2i + 1.
RowOrder GgufSource::RowOrderOf(const std::string& name) const {
  const bool rotated = absl::StrContains(name, "q_proj") || absl::StrContains(name, "k_proj");
  if (!interleaved_ || !rotated) return {};
  return [head_dim = config_.head_dim](int64_t row) {
    const int64_t in_head = row % head_dim;
    return row - in_head + in_head / 2 + in_head % 2 * (head_dim / 2);
  };
}

StatusOr<std::vector<float>> GgufSource::Vector(const std::string& name, int64_t size) {
  // Asked for where another linear of the model has one.
  if (name.ends_with(".bias") && !Has(name)) return std::vector<float>(static_cast<size_t>(size));
  STERNA_ASSIGN_OR_RETURN(const GgufTensor* tensor, Get(name, {size}));
  std::vector<float> values(static_cast<size_t>(size));
  STERNA_RETURN_IF_ERROR(DequantizeGgufRow(*tensor, 0, values));
  const auto bad = std::ranges::find_if_not(values, [](float x) { return std::isfinite(x); });
  if (bad != values.end()) {
    return absl::DataLossError(absl::StrCat(tensor->Where(), "holds ", *bad, " at ",
                                            bad - values.begin(), ", but must be finite"));
  }
  const RowOrder order = RowOrderOf(name);
  if (!order) return values;
  std::vector<float> ordered(values.size());
  for (int64_t i = 0; i < size; ++i) ordered[order(i)] = values[i];
  return ordered;
}

// A tensor of any type whose weights are ternary; InvalidArgument where they are not.
StatusOr<TernaryMatrix> GgufSource::Read(const GgufTensor& tensor, const RowOrder& order) {
  StatusOr<TernaryMatrix> w;
  if (IsTernaryGgufType(tensor.type)) {
    w = ReadGgufTernaryMatrix(tensor, i2s_layout_, order, RowForgetter(tensor.bytes, tensor.rows));
  } else {
    STERNA_ASSIGN_OR_RETURN(const StoredMatrix stored, Stored(tensor));
    w = ReadUnpacked(stored, order);
  }
  if (!w.ok()) return w;
  CountRead(tensor.bytes);
  MappedFile::Forget(tensor.bytes);
  return w;
}

StatusOr<TernaryMatrix> GgufSource::TernaryTable(const std::string& name, int64_t rows,
                                                 int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(const GgufTensor* tensor, Get(name, {rows, cols}));
  StatusOr<TernaryMatrix> matrix = Read(*tensor, {});
  if (absl::IsInvalidArgument(matrix.status())) return TernaryMatrix();
  return matrix;
}

StatusOr<TernaryMatrix> GgufSource::Ternary(const std::string& name, int64_t rows, int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(const GgufTensor* tensor, Get(name + ".weight", {rows, cols}));
  STERNA_ASSIGN_OR_RETURN(TernaryMatrix w, Read(*tensor, RowOrderOf(name)));
  // Conversions of family C keep the scale apart.
  if (!Has(name + ".scale")) return w;
  STERNA_ASSIGN_OR_RETURN(const std::vector<float> scale, Vector(name + ".scale", 1));
  if (w.granularity() != ScaleGranularity::kTensor || !(scale[0] > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        tensors_.Find(GgufTensorName(name + ".scale"))->Where(), "is ", scale[0],
        ", but must be above zero, and the weights' own scale one for the whole tensor"));
  }
  w.SetTensorScale(w.tensor_scale() * scale[0]);
  return w;
}

StatusOr<StoredMatrix> GgufSource::Matrix(const std::string& name, int64_t rows, int64_t cols) {
  STERNA_ASSIGN_OR_RETURN(const GgufTensor* tensor, Get(name, {rows, cols}));
  CountRead(tensor->bytes);
  if (!IsTernaryGgufType(tensor->type)) return Stored(*tensor);
  STERNA_ASSIGN_OR_RETURN(
      TernaryMatrix matrix,
      ReadGgufTernaryMatrix(*tensor, i2s_layout_, {}, RowForgetter(tensor->bytes, tensor->rows)));
  return Stored(*tensor, std::move(matrix));
}

Status GgufSource::CheckSubNorms() const {
  for (int64_t layer = 0; layer < config_.num_layers; ++layer) {
    for (const char* norm : {".attn_sub_norm.weight", ".ffn_sub_norm.weight"}) {
      const std::string name = absl::StrCat(kFileLayers, layer, norm);
      if ((tensors_.Find(name) != nullptr) == config_.has_sub_norms()) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          path(), ": metadata 'general.architecture' is one whose layers have ",
          config_.has_sub_norms() ? "sub-norms in front of attn_output and ffn_down"
                                  : "no sub-norms",
          ", but it ", config_.has_sub_norms() ? "lacks" : "has", " tensor '", name, "'"));
    }
  }
  return absl::OkStatus();
}

Status GgufSource::CheckLayers() const {
  constexpr size_t kNumber = sizeof(kFileLayers) - 1;
  for (const std::string& name : tensors_.names()) {
    int64_t layer = 0;
    if (!name.starts_with(kFileLayers) ||
        !absl::SimpleAtoi(name.substr(kNumber, name.find('.', kNumber) - kNumber), &layer) ||
        layer < config_.num_layers) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrCat(path(), ": metadata say block_count ",
                                                   config_.num_layers, ", but it has tensor '",
                                                   name, "'"));
  }
  return CheckSubNorms();
}

std::vector<std::string> GgufSource::Unused() {
  std::vector<std::string> unused;
  const MutexLock lock(mutex_);
  for (const std::string& name : tensors_.names()) {
    if (!used_.contains(name) && name != "rope_freqs.weight") unused.push_back(name);
  }
  return unused;
}

}  // namespace

std::string GgufTensorName(const std::string& name) {
  std::string_view rest = name;
  std::string prefix;
  if (rest.starts_with(kLayers)) {
    const size_t dot = rest.find('.', kLayers.size());
    const std::string_view number = rest.substr(kLayers.size(), dot - kLayers.size());
    prefix = absl::StrCat(kFileLayers, std::string(number), ".");
    rest.remove_prefix(dot + 1);
  }
  const std::span<const NamePair> names = prefix.empty() ? std::span<const NamePair>(kModelNames)
                                                         : std::span<const NamePair>(kLayerNames);
  for (const NamePair& pair : names) {
    if (!rest.starts_with(pair.ours)) continue;
    const std::string_view suffix = rest.substr(pair.ours.size());
    if (!suffix.empty() && suffix[0] != '.') continue;
    return absl::StrCat(prefix, std::string(pair.file), std::string(suffix));
  }
  return name;
}

StatusOr<std::unique_ptr<WeightSource>> OpenGgufSource(const std::string& path,
                                                       const ModelConfig& config,
                                                       I2sLayout i2s_layout) {
  STERNA_ASSIGN_OR_RETURN(GgufCheckpoint tensors, GgufCheckpoint::Open(path));
  auto source = std::make_unique<GgufSource>(std::move(tensors), config, i2s_layout);
  STERNA_RETURN_IF_ERROR(source->CheckLayers());
  return source;
}

}  // namespace sterna
