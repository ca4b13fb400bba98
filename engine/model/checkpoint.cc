// LoadCheckpoint: from the tensors of a checkpoint to ModelWeights. docs/formats.md tells what is
// read and how it is decided.
#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/thread_pool.h"
#include "engine/model/agreement.h"
#include "engine/model/load_threads.h"
#include "engine/model/model_files.h"
#include "engine/model/scale_groups.h"
#include "engine/model/weight_names.h"
#include "engine/model/weight_source.h"
#include "engine/model/weights.h"

namespace sterna {
namespace {

// `name` of `size` values if the model has it, else empty.
StatusOr<std::vector<float>> VectorIf(WeightSource& source, bool has, const std::string& name,
                                      int64_t size) {
  if (has) return source.Vector(name, size);
  return std::vector<float>();
}

StatusOr<TernaryLinearWeights> ReadLinear(WeightSource& source, const ModelConfig& config,
                                          const std::string& name, int64_t rows, int64_t cols,
                                          bool has_bias) {
  TernaryLinearWeights linear;
  STERNA_ASSIGN_OR_RETURN(linear.w, source.Ternary(name, rows, cols));
  STERNA_ASSIGN_OR_RETURN(linear.bias, VectorIf(source, has_bias, name + ".bias", rows));
  STERNA_ASSIGN_OR_RETURN(
      linear.in_norm, VectorIf(source, config.linear_rms_norm, name + ".rms_norm.weight", cols));
  return linear;
}

StatusOr<LayerWeights> ReadLayer(WeightSource& source, const ModelConfig& config, int64_t number) {
  const std::string prefix = absl::StrCat("model.layers.", number, ".");
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.ffn_size;
  const int64_t heads = config.num_heads * config.head_dim;
  const int64_t kv_heads = config.num_kv_heads * config.head_dim;
  const auto attention = [&](const std::string& name, int64_t rows, int64_t cols) {
    return ReadLinear(source, config, absl::StrCat(prefix, "self_attn.", name, "_proj"), rows, cols,
                      config.attention_bias);
  };
  const auto mlp = [&](const std::string& name, int64_t rows, int64_t cols) {
    return ReadLinear(source, config, absl::StrCat(prefix, "mlp.", name, "_proj"), rows, cols,
                      config.mlp_bias);
  };
  LayerWeights layer;
  STERNA_ASSIGN_OR_RETURN(layer.input_norm,
                          source.Vector(prefix + "input_layernorm.weight", hidden));
  STERNA_ASSIGN_OR_RETURN(layer.q, attention("q", heads, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.k, attention("k", kv_heads, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.v, attention("v", kv_heads, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.o, attention("o", hidden, heads));
  if (config.qk_norm) {
    STERNA_ASSIGN_OR_RETURN(layer.q_norm,
                            source.Vector(prefix + "self_attn.q_norm.weight", config.head_dim));
    STERNA_ASSIGN_OR_RETURN(layer.k_norm,
                            source.Vector(prefix + "self_attn.k_norm.weight", config.head_dim));
  }
  STERNA_ASSIGN_OR_RETURN(layer.post_attention_norm,
                          source.Vector(prefix + "post_attention_layernorm.weight", hidden));
  STERNA_ASSIGN_OR_RETURN(layer.gate, mlp("gate", ffn, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.up, mlp("up", ffn, hidden));
  STERNA_ASSIGN_OR_RETURN(layer.down, mlp("down", hidden, ffn));
  if (config.has_sub_norms()) {
    STERNA_ASSIGN_OR_RETURN(layer.attn_sub_norm,
                            source.Vector(prefix + "self_attn.attn_sub_norm.weight", heads));
    STERNA_ASSIGN_OR_RETURN(layer.ffn_sub_norm,
                            source.Vector(prefix + "mlp.ffn_sub_norm.weight", ffn));
  }
  return layer;
}

// How far a load has come, told to who wants to know.
class Progress {
 public:
  Progress(const WeightSource& source, const LoadProgress& report)
      : source_(source), report_(report) {}
  // Something more has been read.
  void Tell() STERNA_EXCLUDES(mutex_) {
    if (!report_) return;
    const MutexLock lock(mutex_);
    report_(source_.bytes_read(), source_.total_bytes());
  }

 private:
  const WeightSource& source_;
  const LoadProgress& report_;
  Mutex mutex_;  // held while reporting: one report at a time
};

// All layers, a few at a time; the error of the first layer that has one.
Status ReadLayers(WeightSource& source, const ModelConfig& config, ThreadPool& pool,
                  Progress& progress, std::vector<LayerWeights>& layers) {
  const size_t count = static_cast<size_t>(config.num_layers);
  layers.resize(count);
  std::vector<Status> statuses(count);
  pool.ParallelFor(config.num_layers, [&](int64_t i) {
    const auto n = static_cast<size_t>(i);
    StatusOr<LayerWeights> layer = ReadLayer(source, config, i);
    statuses[n] = layer.status();
    if (layer.ok()) layers[n] = *std::move(layer);
    progress.Tell();
  });
  for (const Status& status : statuses) STERNA_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

// A matrix in kRows: where it is mapped, if ops can read it there, else a copy.
DenseMatrix MakeDenseRows(const StoredMatrix& stored,
                          std::vector<AlignedBuffer<uint8_t>>& buffers) {
  DenseMatrix dense{
      .type = stored.type, .data = stored.bytes.data(), .rows = stored.rows, .cols = stored.cols};
  if (stored.in_place) return dense;
  AlignedBuffer<uint8_t> buffer(static_cast<size_t>(dense.bytes()));
  const RowForgetter forgetter(stored.bytes, stored.rows);
  const size_t row_bytes = stored.bytes.size() / static_cast<size_t>(stored.rows);
  for (int64_t row = 0; row < stored.rows; ++row) {
    if (stored.type == DenseType::kBf16) {
      const size_t at = static_cast<size_t>(row) * row_bytes;
      std::memcpy(buffer.data() + at, stored.bytes.data() + at, row_bytes);
    } else {
      auto* values = reinterpret_cast<float*>(buffer.data());
      stored.read_row(row, {values + row * stored.cols, static_cast<size_t>(stored.cols)});
    }
    forgetter.AfterRow(row);
  }
  dense.data = buffer.data();
  buffers.push_back(std::move(buffer));
  return dense;
}

// A matrix as DenseLinear takes it.
StatusOr<DenseMatrix> MakeHead(const StoredMatrix& stored, HeadType type, ThreadPool& pool,
                               std::vector<AlignedBuffer<uint8_t>>& buffers) {
  if (type == HeadType::kAsStored && stored.type != DenseType::kBf16) {
    return MakeDenseRows(stored, buffers);
  }
  const size_t row_bytes = stored.bytes.size() / static_cast<size_t>(stored.rows);
  // With the last row of a tile, which one thread reads, the file's pages can go.
  const RowForgetter forgetter(stored.bytes, stored.rows, kDenseTileRows);
  StatusOr<DenseMatrix> head;
  if (type == HeadType::kInt8) {
    const auto read_row = [&](int64_t row, std::span<float> values) {
      stored.read_row(row, values);
      forgetter.AfterRow(row);
    };
    head = MakeInt8Tiles(stored.rows, stored.cols, pool, read_row, buffers);
  } else {
    const auto read_row = [&](int64_t row, std::span<uint16_t> values) {
      std::memcpy(values.data(), stored.bytes.data() + static_cast<size_t>(row) * row_bytes,
                  row_bytes);
      forgetter.AfterRow(row);
    };
    head = MakeDenseTiles(stored.rows, stored.cols, pool, read_row, buffers);
  }
  MappedFile::Forget(stored.bytes);
  if (head.ok()) return head;
  return Annotate(head.status(), stored.where);
}

Status ReadTiedEmbedding(WeightSource& source, const ModelConfig& config, HeadType head_type,
                         ThreadPool& pool, ModelWeights& weights) {
  const int64_t rows = config.vocab_size, cols = config.hidden_size;
  weights.tied = true;
  STERNA_ASSIGN_OR_RETURN(weights.ternary_embedding,
                          source.TernaryTable(kEmbeddingName, rows, cols));
  if (!weights.ternary_embedding.empty()) return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(const StoredMatrix embedding, source.Matrix(kEmbeddingName, rows, cols));
  STERNA_ASSIGN_OR_RETURN(weights.head, MakeHead(embedding, head_type, pool, weights.buffers));
  weights.embedding =
      head_type == HeadType::kAsStored ? weights.head : MakeDenseRows(embedding, weights.buffers);
  return absl::OkStatus();
}

Status ReadEmbeddingAndHead(WeightSource& source, const ModelConfig& config, HeadType head_type,
                            ThreadPool& pool, ModelWeights& weights) {
  const int64_t rows = config.vocab_size, cols = config.hidden_size;
  if (config.tie_embeddings) {
    return ReadTiedEmbedding(source, config, head_type, pool, weights);
  }
  STERNA_ASSIGN_OR_RETURN(weights.ternary_embedding,
                          source.TernaryTable(kEmbeddingName, rows, cols));
  if (weights.ternary_embedding.empty()) {
    STERNA_ASSIGN_OR_RETURN(const StoredMatrix embedding,
                            source.Matrix(kEmbeddingName, rows, cols));
    weights.embedding = MakeDenseRows(embedding, weights.buffers);
  }
  STERNA_ASSIGN_OR_RETURN(weights.untied_ternary_head, source.TernaryTable(kHeadName, rows, cols));
  if (!weights.untied_ternary_head.empty()) return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(const StoredMatrix head, source.Matrix(kHeadName, rows, cols));
  STERNA_ASSIGN_OR_RETURN(weights.head, MakeHead(head, head_type, pool, weights.buffers));
  return absl::OkStatus();
}

}  // namespace

StatusOr<Checkpoint> LoadCheckpoint(const ModelFiles& files, const LoadOptions& options) {
  Checkpoint checkpoint;
  STERNA_ASSIGN_OR_RETURN(checkpoint.config, ReadModelConfig(files));
  const ModelConfig& config = checkpoint.config;
  ModelWeights& weights = checkpoint.weights;
  STERNA_ASSIGN_OR_RETURN(const std::unique_ptr<WeightSource> source,
                          OpenWeights(files, config, options.i2s_layout));
  STERNA_RETURN_IF_ERROR(CheckAgreement(*source, config));

  ThreadPool pool(NumLoadThreads());
  Progress progress(*source, options.progress);
  STERNA_RETURN_IF_ERROR(ReadEmbeddingAndHead(*source, config, options.head.type, pool, weights));
  STERNA_RETURN_IF_ERROR(weights.ternary_head() != nullptr
                             ? CheckTernaryHead(options.head)
                             : AddShortlist(options.head, pool, weights));
  progress.Tell();
  STERNA_ASSIGN_OR_RETURN(weights.final_norm, source->Vector(kFinalNormName, config.hidden_size));
  STERNA_RETURN_IF_ERROR(ReadLayers(*source, config, pool, progress, weights.layers));
  checkpoint.unused_tensors = source->Unused();
  checkpoint.config.scale_group_size = UnifyScaleGroups(weights);
  weights.mapped_files = source->TakeMappedFiles({weights.embedding.data, weights.head.data});
  return checkpoint;
}

StatusOr<Checkpoint> LoadCheckpoint(const std::string& model, const LoadOptions& options) {
  STERNA_ASSIGN_OR_RETURN(const ModelFiles files, ModelFiles::Open(model));
  return LoadCheckpoint(files, options);
}

}  // namespace sterna
