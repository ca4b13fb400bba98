// LoadCheckpoint: from the tensors of a model directory to ModelWeights. docs/formats.md tells what
// is read and how it is decided.
#include <algorithm>
#include <cstring>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/logging.h"
#include "base/thread_pool.h"
#include "engine/model/json_text.h"
#include "engine/model/safetensors.h"
#include "engine/model/scale_groups.h"
#include "engine/model/tensor_reader.h"
#include "engine/model/ternary_reader.h"
#include "engine/model/weights.h"

namespace sterna {
namespace {

constexpr int kMaxLoadThreads = 8;

// How messages name what config.json has of family C.
constexpr char kFamilyCSigns[] = "weight_bits 1 (family C)";

bool IsFamilyC(const ModelConfig& config) { return config.family == CheckpointFamily::kInnerNorms; }

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

StatusOr<TernaryLinearWeights> ReadLinear(TensorReader& reader, const ModelConfig& config,
                                          const std::string& name, int64_t rows, int64_t cols,
                                          bool has_bias, const std::string& bias_field) {
  TernaryLinearWeights linear;
  const std::string scale_name = name + ".weight_scale";
  if (config.family != CheckpointFamily::kBitNetPacked &&
      config.family != CheckpointFamily::kBitLinear) {
    if (reader.Has(scale_name)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "config.json says ", SignsOfComputedScales(config),
          ", where scales are computed, but the ", "checkpoint has tensor '", scale_name, "'"));
    }
    const auto read = IsUnpacked(config) ? ReadUnpacked : ReadLatent;
    STERNA_ASSIGN_OR_RETURN(linear.w, read(reader, name + ".weight", rows, cols));
  } else {
    STERNA_ASSIGN_OR_RETURN(linear.w, ReadPacked(reader, name + ".weight", rows, cols));
    STERNA_ASSIGN_OR_RETURN(const double scale, ReadWeightScale(reader, scale_name));
    // Only autobitlinear stores the factor itself; bitlinear stores its inverse.
    linear.w.SetTensorScale(config.family == CheckpointFamily::kBitNetPacked ? scale : 1.0 / scale);
  }
  STERNA_ASSIGN_OR_RETURN(linear.bias, reader.VectorIf(has_bias, bias_field, name + ".bias", rows));
  STERNA_ASSIGN_OR_RETURN(linear.in_norm, reader.VectorIf(config.linear_rms_norm, "use_rms_norm",
                                                          name + ".rms_norm.weight", cols));
  return linear;
}

std::string LayerPrefix(int64_t layer) { return absl::StrCat("model.layers.", layer, "."); }

// Names of the norms in front of o_proj and of down_proj, within a layer.
struct SubNormNames {
  const char* attention;  // [heads * head_dim]
  const char* ffn;        // [ffn]
};
constexpr SubNormNames kBitNetSubNorms = {"self_attn.attn_sub_norm.weight",
                                          "mlp.ffn_sub_norm.weight"};
constexpr SubNormNames kFamilyCSubNorms = {"self_attn.inner_attn_ln.weight",
                                           "mlp.ffn_layernorm.weight"};

StatusOr<LayerWeights> ReadLayer(TensorReader& reader, const ModelConfig& config, int64_t number) {
  const std::string prefix = LayerPrefix(number);
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.ffn_size;
  const int64_t heads = config.num_heads * config.head_dim;
  const int64_t kv_heads = config.num_kv_heads * config.head_dim;
  const auto attention = [&](const std::string& name, int64_t rows, int64_t cols) {
    return ReadLinear(reader, config, absl::StrCat(prefix, "self_attn.", name, "_proj"), rows, cols,
                      config.attention_bias, "attention_bias");
  };
  const auto mlp = [&](const std::string& name, int64_t rows, int64_t cols) {
    return ReadLinear(reader, config, absl::StrCat(prefix, "mlp.", name, "_proj"), rows, cols,
                      config.mlp_bias, "mlp_bias");
  };
  LayerWeights layer;
  STERNA_ASSIGN_OR_RETURN(layer.input_norm,
                          reader.Vector(prefix + "input_layernorm.weight", hidden));
  STERNA_ASSIGN_OR_RETURN(layer.q, attention("q", heads, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.k, attention("k", kv_heads, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.v, attention("v", kv_heads, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.o, attention("o", hidden, heads));
  if (config.qk_norm) {
    STERNA_ASSIGN_OR_RETURN(layer.q_norm,
                            reader.Vector(prefix + "self_attn.q_norm.weight", config.head_dim));
    STERNA_ASSIGN_OR_RETURN(layer.k_norm,
                            reader.Vector(prefix + "self_attn.k_norm.weight", config.head_dim));
  }
  STERNA_ASSIGN_OR_RETURN(layer.post_attention_norm,
                          reader.Vector(prefix + "post_attention_layernorm.weight", hidden));
  STERNA_ASSIGN_OR_RETURN(layer.gate, mlp("gate", ffn, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.up, mlp("up", ffn, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.down, mlp("down", hidden, ffn));
  if (config.has_sub_norms()) {
    const SubNormNames& names = IsFamilyC(config) ? kFamilyCSubNorms : kBitNetSubNorms;
    STERNA_ASSIGN_OR_RETURN(layer.attn_sub_norm,
                            reader.Vector(absl::StrCat(prefix, names.attention), heads));
    STERNA_ASSIGN_OR_RETURN(layer.ffn_sub_norm,
                            reader.Vector(absl::StrCat(prefix, names.ffn), ffn));
  }
  return layer;
}

// That the layers have the sub-norms which the config implies: all of them, and none by another
// family's names.
Status CheckSubNorms(const SafetensorsCheckpoint& tensors, const ModelConfig& config) {
  const bool family_c = IsFamilyC(config);
  std::vector<std::string> wrong;  // "lacks ..." and "has ...", the first of each kind
  const auto check = [&](const SubNormNames& names, bool wanted) {
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      for (const char* name : {names.attention, names.ffn}) {
        const std::string full = absl::StrCat(LayerPrefix(layer), name);
        if ((tensors.Find(full) != nullptr) == wanted) continue;
        wrong.push_back(absl::StrCat(wanted ? "lacks '" : "has '", full, "'"));
        return;
      }
    }
  };
  check(kBitNetSubNorms, config.has_sub_norms() && !family_c);
  check(kFamilyCSubNorms, family_c);
  if (wrong.empty()) return absl::OkStatus();
  const SubNormNames& names = family_c ? kFamilyCSubNorms : kBitNetSubNorms;
  return absl::InvalidArgumentError(absl::StrCat(
      "config.json says ",
      family_c ? kFamilyCSigns : absl::StrCat("model_type ", config.model_type), ", whose ",
      config.num_layers, " layers have ",
      config.has_sub_norms() ? absl::StrCat(names.attention, " and ", names.ffn, " each")
                             : "no sub-norms",
      ", but ", tensors.path(), " ", absl::StrJoin(wrong, " and ")));
}

// All layers, a few at a time; the error of the first layer that has one.
Status ReadLayers(const SafetensorsCheckpoint& tensors, const ModelConfig& config, ThreadPool& pool,
                  std::vector<LayerWeights>& layers, std::set<std::string>& used) {
  const size_t count = static_cast<size_t>(config.num_layers);
  layers.resize(count);
  std::vector<TensorReader> readers(count, TensorReader(tensors));
  std::vector<Status> statuses(count);
  pool.ParallelFor(config.num_layers, [&](int64_t i) {
    const auto n = static_cast<size_t>(i);
    StatusOr<LayerWeights> layer = ReadLayer(readers[n], config, i);
    statuses[n] = layer.status();
    if (layer.ok()) layers[n] = *std::move(layer);
  });
  for (size_t i = 0; i < count; ++i) {
    STERNA_RETURN_IF_ERROR(statuses[i]);
    used.insert(readers[i].used().begin(), readers[i].used().end());
  }
  return absl::OkStatus();
}

// A float matrix in kRows. BF16 and F32 stay where they are mapped, unless the file puts them at an
// address no element may have; F16 becomes F32.
DenseMatrix MakeDenseRows(const TensorView& view, std::vector<AlignedBuffer<uint8_t>>& buffers) {
  DenseMatrix dense{.type = view.type == TensorType::kBf16 ? DenseType::kBf16 : DenseType::kF32,
                    .data = view.bytes.data(),
                    .rows = view.shape[0],
                    .cols = view.shape[1]};
  const auto address = reinterpret_cast<uintptr_t>(dense.data);
  const bool aligned = address % static_cast<uintptr_t>(FloatBytes(view.type)) == 0;
  if (view.type != TensorType::kF16 && aligned) return dense;
  AlignedBuffer<uint8_t> buffer(static_cast<size_t>(dense.bytes()));
  if (view.type == TensorType::kF16) {
    ReadFloats(view, 0, {reinterpret_cast<float*>(buffer.data()), buffer.size() / sizeof(float)});
  } else {
    std::memcpy(buffer.data(), view.bytes.data(), view.bytes.size());
  }
  dense.data = buffer.data();
  buffers.push_back(std::move(buffer));
  return dense;
}

// A float matrix as DenseLinear takes it.
StatusOr<DenseMatrix> MakeHead(const char* name, const TensorView& view, HeadType type,
                               ThreadPool& pool, std::vector<AlignedBuffer<uint8_t>>& buffers) {
  if (type == HeadType::kAsStored && view.type != TensorType::kBf16) {
    return MakeDenseRows(view, buffers);
  }
  // With the last row of a tile the file's pages can go. So can, once more, those before: the
  // kernel maps pages around the one that is asked for.
  const auto forget_after = [&view](int64_t row) {
    if ((row + 1) % kDenseTileRows != 0) return;
    const auto row_bytes = static_cast<size_t>(view.shape[1] * FloatBytes(view.type));
    const int64_t first = std::max<int64_t>(0, row + 1 - 2 * kDenseTileRows);
    MappedFile::Forget(view.bytes.subspan(static_cast<size_t>(first) * row_bytes,
                                          static_cast<size_t>(row + 1 - first) * row_bytes));
  };
  StatusOr<DenseMatrix> head;
  if (type == HeadType::kInt8) {
    const auto read_row = [&](int64_t row, std::span<float> values) {
      ReadFloats(view, row * view.shape[1], values);
      forget_after(row);
    };
    head = MakeInt8Tiles(view.shape[0], view.shape[1], pool, read_row, buffers);
  } else {
    const auto read_row = [&](int64_t row, std::span<uint16_t> values) {
      std::memcpy(values.data(), view.bytes.data() + static_cast<size_t>(row) * values.size_bytes(),
                  values.size_bytes());
      forget_after(row);
    };
    head = MakeDenseTiles(view.shape[0], view.shape[1], pool, read_row, buffers);
  }
  MappedFile::Forget(view.bytes);
  if (head.ok()) return head;
  return Annotate(head.status(), absl::StrCat(view.file, ": tensor '", name, "'"));
}

// Embedding or head of an unpacked checkpoint whose values are ternary; empty where they are
// others, or of another family.
StatusOr<TernaryMatrix> ReadIfTernary(TensorReader& reader, const ModelConfig& config,
                                      const std::string& name) {
  if (!IsUnpacked(config)) return TernaryMatrix();
  StatusOr<TernaryMatrix> matrix =
      ReadUnpacked(reader, name, config.vocab_size, config.hidden_size);
  if (absl::IsInvalidArgument(matrix.status())) return TernaryMatrix();
  return matrix;
}

Status ReadEmbeddingAndHead(TensorReader& reader, const ModelConfig& config, HeadType head_type,
                            ThreadPool& pool, ModelWeights& weights) {
  constexpr char kEmbedding[] = "model.embed_tokens.weight";
  constexpr char kHead[] = "lm_head.weight";
  const std::vector<int64_t> shape = {config.vocab_size, config.hidden_size};
  STERNA_ASSIGN_OR_RETURN(const TensorView* embedding, reader.GetFloat(kEmbedding, shape));
  STERNA_ASSIGN_OR_RETURN(weights.ternary_embedding, ReadIfTernary(reader, config, kEmbedding));
  const bool ternary = !weights.ternary_embedding.empty();
  if (!config.tie_embeddings) {
    if (!ternary) weights.embedding = MakeDenseRows(*embedding, weights.buffers);
    if (!reader.Has(kHead)) {
      return absl::NotFoundError(absl::StrCat("config.json does not set tie_word_embeddings, but ",
                                              embedding->file, " lacks tensor '", kHead, "'"));
    }
    STERNA_ASSIGN_OR_RETURN(const TensorView* head, reader.GetFloat(kHead, shape));
    STERNA_ASSIGN_OR_RETURN(weights.untied_ternary_head, ReadIfTernary(reader, config, kHead));
    if (!weights.untied_ternary_head.empty()) return absl::OkStatus();
    STERNA_ASSIGN_OR_RETURN(weights.head, MakeHead(kHead, *head, head_type, pool, weights.buffers));
    return absl::OkStatus();
  }
  weights.tied = true;
  if (!ternary) {
    STERNA_ASSIGN_OR_RETURN(weights.head,
                            MakeHead(kEmbedding, *embedding, head_type, pool, weights.buffers));
    weights.embedding = head_type == HeadType::kAsStored
                            ? weights.head
                            : MakeDenseRows(*embedding, weights.buffers);
  }
  if (!reader.Has(kHead)) return absl::OkStatus();
  // Some tools store the tied matrix twice. Anything else is another model than the config says.
  STERNA_ASSIGN_OR_RETURN(const TensorView* head, reader.Get(kHead));
  if (head->type != embedding->type || !std::ranges::equal(head->bytes, embedding->bytes)) {
    return absl::InvalidArgumentError(absl::StrCat("config.json sets tie_word_embeddings, but ",
                                                   head->file, " has a tensor '", kHead,
                                                   "' that differs from '", kEmbedding, "'"));
  }
  return absl::OkStatus();
}

// Tensors that nothing asked for: a layer beyond the config's is a contradiction, the rest a
// warning.
Status CheckUnused(const SafetensorsCheckpoint& tensors, const ModelConfig& config,
                   const std::set<std::string>& used) {
  constexpr size_t kMaxNamed = 5;
  std::vector<std::string> unused;
  for (const std::string& name : tensors.names()) {
    // Old exports store the rotary table, which the config determines.
    if (used.contains(name) || name.ends_with("rotary_emb.inv_freq")) continue;
    constexpr std::string_view kLayers = "model.layers.";
    int64_t layer = 0;
    if (name.starts_with(kLayers) &&
        absl::SimpleAtoi(
            name.substr(kLayers.size(), name.find('.', kLayers.size()) - kLayers.size()), &layer) &&
        layer >= config.num_layers) {
      return absl::InvalidArgumentError(absl::StrCat("config.json says num_hidden_layers ",
                                                     config.num_layers, ", but ", tensors.path(),
                                                     " has tensor '", Shown(name), "'"));
    }
    unused.push_back(Shown(name));
  }
  if (unused.empty()) return absl::OkStatus();
  const size_t count = unused.size();
  unused.resize(std::min(count, kMaxNamed));
  STERNA_LOG(kWarning, tensors.path(), " has ", count,
             " tensors that the model does not use: ", absl::StrJoin(unused, ", "),
             count > kMaxNamed ? ", ..." : "");
  return absl::OkStatus();
}

}  // namespace

StatusOr<Checkpoint> LoadCheckpoint(const std::string& model_dir, const HeadOptions& head) {
  Checkpoint checkpoint;
  STERNA_ASSIGN_OR_RETURN(checkpoint.config, ReadModelConfig(model_dir));
  const ModelConfig& config = checkpoint.config;
  ModelWeights& weights = checkpoint.weights;
  STERNA_ASSIGN_OR_RETURN(SafetensorsCheckpoint tensors, SafetensorsCheckpoint::Open(model_dir));

  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  ThreadPool pool(std::clamp(cores, 1, kMaxLoadThreads));
  TensorReader reader(tensors);
  STERNA_RETURN_IF_ERROR(ReadEmbeddingAndHead(reader, config, head.type, pool, weights));
  STERNA_RETURN_IF_ERROR(weights.ternary_head() != nullptr ? CheckTernaryHead(head)
                                                           : AddShortlist(head, pool, weights));
  STERNA_ASSIGN_OR_RETURN(weights.final_norm,
                          reader.Vector("model.norm.weight", config.hidden_size));
  STERNA_RETURN_IF_ERROR(CheckSubNorms(tensors, config));
  std::set<std::string> used(reader.used().begin(), reader.used().end());
  STERNA_RETURN_IF_ERROR(ReadLayers(tensors, config, pool, weights.layers, used));
  STERNA_RETURN_IF_ERROR(CheckUnused(tensors, config, used));
  checkpoint.config.scale_group_size = UnifyScaleGroups(weights);
  weights.mapped_files =
      std::move(tensors).TakeFilesOf({weights.embedding.data, weights.head.data});
  return checkpoint;
}

}  // namespace sterna
