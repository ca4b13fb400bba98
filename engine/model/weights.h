// All weights of one model, in the form the ops take: loaded into the host's memory, then placed
// where a device reads them. Move-only; immutable once placed.
#ifndef STERNA_ENGINE_MODEL_WEIGHTS_H_
#define STERNA_ENGINE_MODEL_WEIGHTS_H_

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/mapped_file.h"
#include "base/thread_pool.h"
#include "engine/model/config.h"
#include "engine/model/model_files.h"
#include "engine/model/weight_vector.h"
#include "kernels/dense_format.h"
#include "kernels/dense_shortlist.h"
#include "kernels/device_memory.h"
#include "kernels/ops.h"
#include "kernels/ternary_format.h"

namespace sterna {

struct TernaryLinearWeights {
  TernaryMatrix w;       // [outputs, inputs]
  WeightVector bias;     // [outputs] or empty
  WeightVector in_norm;  // [inputs] or empty: `use_rms_norm` checkpoints
};

struct LayerWeights {
  WeightVector input_norm;  // [hidden]
  TernaryLinearWeights q, k, v, o;
  WeightVector q_norm, k_norm;       // [head_dim] or empty: Qwen3
  WeightVector attn_sub_norm;        // [heads * head_dim] or empty
  WeightVector post_attention_norm;  // [hidden]
  TernaryLinearWeights gate, up, down;
  WeightVector ffn_sub_norm;  // [ffn] or empty

  std::array<const TernaryLinearWeights*, 7> linears() const {
    return {&q, &k, &v, &o, &gate, &up, &down};
  }
};

struct ModelWeights {
  // Of embedding and head each, the dense matrix or the ternary one is there, and the other empty.
  DenseMatrix embedding;            // [vocab, hidden]
  TernaryMatrix ternary_embedding;  // the same
  std::vector<LayerWeights> layers;
  WeightVector final_norm;            // [hidden]
  DenseMatrix head;                   // [vocab, hidden], as DenseLinear takes it
  TernaryMatrix untied_ternary_head;  // the same; of a tied model ternary_embedding is it
  DenseShortlist shortlist;           // of the dense head, or empty
  bool tied = false;  // head and embedding are one matrix, if not always in one form

  // What the dense matrices point into: of the host, or when they are placed of the device.
  std::vector<MappedFile> mapped_files;
  std::vector<AlignedBuffer<uint8_t>> buffers;
  std::vector<DeviceMemory> device_memory;

  // The head where it is ternary, else null.
  const TernaryMatrix* ternary_head() const {
    if (tied && !ternary_embedding.empty()) return &ternary_embedding;
    return untied_ternary_head.empty() ? nullptr : &untied_ternary_head;
  }
  int64_t head_bytes() const;
  // "ternary", or the DenseTypeName.
  std::string_view head_dtype() const;

  int64_t num_parameters() const;  // every weight, norm, bias, embedding and head, once when tied
  int64_t ternary_bytes() const;   // packed ternary weights with their scales
  // Dense embedding and head, once where they are the same memory, and the head's shortlist.
  int64_t dense_bytes() const;
  // What a step with one greedy token for each of its sequences reads of the weights, at the least.
  int64_t step_bytes(int64_t sequences) const;
};

// How the output head is kept in memory.
enum class HeadType {
  kAsStored,  // exactly as the checkpoint has it; a tied embedding is read from the same memory
  kInt8,  // rounded to int8 with a scale per row; a tied embedding stays as it is stored, beside
};

enum class ShortlistUse { kOff, kAuto, kOn };

struct HeadOptions {
  HeadType type = HeadType::kAsStored;
  // Whether an int8 copy of a head that is kept as stored lies beside it (dense_shortlist.h), so
  // that requests that draw from few tokens have half the bytes read, with the same result. kAuto:
  // if the head has kShortlistFromBytes or more.
  ShortlistUse shortlist = ShortlistUse::kOff;
};

// InvalidArgument where `head` asks for what is for dense heads alone, though the head is ternary.
Status CheckTernaryHead(const HeadOptions& head);

// A head that fits caches gains nothing from fewer bytes.
inline constexpr int64_t kShortlistFromBytes = 64 << 20;

// A bf16 [rows, cols] matrix in kTiles, owned by what it adds to `buffers`. `read_row(row, values)`
// fills values [cols], on any thread of the pool; the rows of a tile are asked for in order.
DenseMatrix MakeDenseTiles(
    int64_t rows, int64_t cols, ThreadPool& pool,
    const std::function<void(int64_t row, std::span<uint16_t> values)>& read_row,
    std::vector<AlignedBuffer<uint8_t>>& buffers);

// What RoundDenseRow made of a row, and of what.
struct RoundedRow {
  std::span<const float> values;
  std::span<const uint8_t> codes;
  float scale;
};

// An int8 [rows, cols] matrix in kTiles, owned by what it adds to `buffers`. `read_row` as above;
// what it gives must be finite, or DataLoss names the first row that is not. `on_rounded`, if there
// is one, is called for every finite row after its read_row, on the same thread. InvalidArgument
// where there are more than kMaxDenseInt8Cols columns.
StatusOr<DenseMatrix> MakeInt8Tiles(
    int64_t rows, int64_t cols, ThreadPool& pool,
    const std::function<void(int64_t row, std::span<float> values)>& read_row,
    std::vector<AlignedBuffer<uint8_t>>& buffers,
    const std::function<void(int64_t row, const RoundedRow& rounded)>& on_rounded = {});

// Adds to `weights` the shortlist of its head where `head` asks for one. InvalidArgument where it
// insists on one of an int8 head, or of more than kMaxDenseInt8Cols columns.
Status AddShortlist(const HeadOptions& head, ThreadPool& pool, ModelWeights& weights);

// Moves all tensors to where the ops of this device read them (Ops::Place), one after another, and
// frees the host's copies on the way; on a device whose memory is the host's nothing moves. Once,
// before anything computes with the weights, which must not outlive `ops`. A shortlist cannot move.
// After an error, the device's with the tensors named, the weights are of no use.
template <typename F>
Status PlaceWeights(Ops<F>& ops, ModelWeights& weights);

struct Checkpoint {
  ModelConfig config;
  ModelWeights weights;
  std::vector<std::string> unused_tensors;  // that the model has no use for, by the files' names
};

// Bytes of tensors read, and of all of them. Called from loading threads, one at a time; it must be
// quick.
using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

struct LoadOptions {
  HeadOptions head;
  I2sLayout i2s_layout = I2sLayout::kX86;  // of GGUF files with I2_S tensors
  LoadProgress progress;                   // may be empty
};

// Loads the weights of families A, A', B, C, D or E: a Hugging Face directory's model.safetensors
// or its shards, or GGUF files; all are memory-mapped. Every tensor the config implies must be
// there with its exact shape and a type it can have, and no weight may hold code 3. Sub-norms must
// be there where the config implies them and nowhere else; config and tensors that disagree are
// refused with both named. Errors: NotFound, InvalidArgument, DataLoss (corrupt file), each naming
// file and tensor.
StatusOr<Checkpoint> LoadCheckpoint(const ModelFiles& files, const LoadOptions& options = {});
// The same of what `model` names, as ModelFiles::Open takes it.
StatusOr<Checkpoint> LoadCheckpoint(const std::string& model, const LoadOptions& options = {});

// Weights of the config's shapes with uniform random ternary values, for benchmarks and tests of
// shapes nobody has a checkpoint of. Deterministic in `seed`. Sub-norms as `sub_norms` says. Of
// family E embedding and head are ternary too, and `head` must pass CheckTernaryHead.
ModelWeights MakeRandomWeights(const ModelConfig& config, uint64_t seed, bool sub_norms,
                               const HeadOptions& head = {});

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_WEIGHTS_H_
