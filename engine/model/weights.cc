#include "engine/model/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

template <typename F>
Status PlaceDense(Ops<F>& ops, DenseMatrix& matrix, std::vector<DeviceMemory>& memory) {
  if (matrix.rows == 0) return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(PlacedDense placed, ops.Place(matrix));
  matrix = placed.view;
  if (!placed.memory.empty()) memory.push_back(std::move(placed.memory));
  return absl::OkStatus();
}

// Both, once where they are one matrix.
template <typename F>
Status PlaceEmbeddingAndHead(Ops<F>& ops, ModelWeights& weights) {
  for (TernaryMatrix* matrix : {&weights.ternary_embedding, &weights.untied_ternary_head}) {
    if (matrix->empty()) continue;
    STERNA_ASSIGN_OR_RETURN(*matrix, ops.Place(std::move(*matrix)));
  }
  const bool one = weights.head.data == weights.embedding.data;
  STERNA_RETURN_IF_ERROR(PlaceDense(ops, weights.embedding, weights.device_memory));
  if (one) {
    weights.head = weights.embedding;
  } else {
    STERNA_RETURN_IF_ERROR(PlaceDense(ops, weights.head, weights.device_memory));
  }
  if (weights.device_memory.empty()) return absl::OkStatus();
  STERNA_CHECK(weights.shortlist.empty());  // it would go with the buffers
  weights.buffers.clear();
  weights.mapped_files.clear();
  return absl::OkStatus();
}

template <typename F>
Status PlaceLayer(Ops<F>& ops, LayerWeights& layer) {
  for (TernaryLinearWeights* linear :
       {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
    STERNA_ASSIGN_OR_RETURN(linear->w, ops.Place(std::move(linear->w)));
    STERNA_RETURN_IF_ERROR(linear->bias.Place(ops));
    STERNA_RETURN_IF_ERROR(linear->in_norm.Place(ops));
  }
  for (WeightVector* norm : {&layer.input_norm, &layer.q_norm, &layer.k_norm, &layer.attn_sub_norm,
                             &layer.post_attention_norm, &layer.ffn_sub_norm}) {
    STERNA_RETURN_IF_ERROR(norm->Place(ops));
  }
  return absl::OkStatus();
}

}  // namespace

DenseMatrix MakeDenseTiles(
    int64_t rows, int64_t cols, ThreadPool& pool,
    const std::function<void(int64_t row, std::span<uint16_t> values)>& read_row,
    std::vector<AlignedBuffer<uint8_t>>& buffers) {
  DenseMatrix dense{.type = DenseType::kBf16,
                    .layout = DenseLayout::kTiles,
                    .data = nullptr,
                    .rows = rows,
                    .cols = cols};
  AlignedBuffer<uint8_t> buffer(static_cast<size_t>(dense.bytes()));
  auto* tiles = reinterpret_cast<uint16_t*>(buffer.data());
  pool.ParallelFor(dense.row_blocks(), [&](int64_t block) {
    std::vector<uint16_t> values(static_cast<size_t>(cols));
    const int64_t end = std::min(rows, (block + 1) * kDenseTileRows);
    for (int64_t row = block * kDenseTileRows; row < end; ++row) {
      read_row(row, values);
      PackBf16Row(dense, row, values, tiles);
    }
  });
  dense.data = tiles;
  buffers.push_back(std::move(buffer));
  return dense;
}

StatusOr<DenseMatrix> MakeInt8Tiles(
    int64_t rows, int64_t cols, ThreadPool& pool,
    const std::function<void(int64_t row, std::span<float> values)>& read_row,
    std::vector<AlignedBuffer<uint8_t>>& buffers,
    const std::function<void(int64_t row, const RoundedRow& rounded)>& on_rounded) {
  if (cols > kMaxDenseInt8Cols) {
    return absl::InvalidArgumentError(absl::StrCat("an int8 output head can have at most ",
                                                   kMaxDenseInt8Cols, " columns, not ", cols));
  }
  DenseMatrix dense{.type = DenseType::kI8,
                    .layout = DenseLayout::kTiles,
                    .data = nullptr,
                    .rows = rows,
                    .cols = cols};
  AlignedBuffer<uint8_t> buffer(static_cast<size_t>(dense.data_bytes()));
  AlignedBuffer<uint8_t> scale_buffer(static_cast<size_t>(rows) * sizeof(float));
  auto* scales = reinterpret_cast<float*>(scale_buffer.data());
  std::atomic<int64_t> bad_row = rows;
  pool.ParallelFor(dense.row_blocks(), [&](int64_t block) {
    std::vector<float> values(static_cast<size_t>(cols));
    std::vector<uint8_t> codes(static_cast<size_t>(cols));
    const int64_t end = std::min(rows, (block + 1) * kDenseTileRows);
    for (int64_t row = block * kDenseTileRows; row < end; ++row) {
      read_row(row, values);
      scales[row] = RoundDenseRow(values, codes);
      if (std::isfinite(scales[row])) {
        PackInt8Row(dense, row, codes, buffer.data());
        if (on_rounded) on_rounded(row, {values, codes, scales[row]});
      } else {
        int64_t first = bad_row.load();
        while (row < first && !bad_row.compare_exchange_weak(first, row)) {
        }
      }
    }
  });
  if (const int64_t row = bad_row.load(); row < rows) {
    return absl::DataLossError(
        absl::StrCat("row ", row, " has values that are not finite; int8 cannot hold them"));
  }
  dense.data = buffer.data();
  dense.scales = scales;
  buffers.push_back(std::move(buffer));
  buffers.push_back(std::move(scale_buffer));
  return dense;
}

Status AddShortlist(const HeadOptions& head, ThreadPool& pool, ModelWeights& weights) {
  const DenseMatrix& exact = weights.head;
  if (head.shortlist == ShortlistUse::kOff) return absl::OkStatus();
  if (exact.type == DenseType::kI8) {
    if (head.shortlist == ShortlistUse::kAuto) return absl::OkStatus();
    return absl::InvalidArgumentError("a shortlist is of no use to a head that is int8 itself");
  }
  if (head.shortlist == ShortlistUse::kAuto &&
      (exact.bytes() < kShortlistFromBytes || exact.cols > kMaxDenseInt8Cols)) {
    return absl::OkStatus();
  }
  AlignedBuffer<uint8_t> bound_buffer(3 * static_cast<size_t>(exact.rows) * sizeof(float));
  auto* bounds = reinterpret_cast<float*>(bound_buffer.data());
  float* high_bits_bounds = bounds + exact.rows;
  float* norms = high_bits_bounds + exact.rows;
  const auto read_row = [&](int64_t row, std::span<float> values) {
    exact.CopyRow(row, values.data());
    if (HasShortlistBound(values)) return;
    bounds[row] = high_bits_bounds[row] = HUGE_VALF;
    std::ranges::fill(values, 0.0f);
  };
  const auto set_bound = [&](int64_t row, const RoundedRow& r) {
    if (bounds[row] == HUGE_VALF) return;
    const ShortlistBounds of_row = BoundShortlistRow(r.values, r.codes, r.scale);
    bounds[row] = of_row.error;
    high_bits_bounds[row] = of_row.high_bits_error;
    norms[row] = of_row.norm;
  };
  STERNA_ASSIGN_OR_RETURN(
      const DenseMatrix rounded,
      MakeInt8Tiles(exact.rows, exact.cols, pool, read_row, weights.buffers, set_bound));
  double errors = 0, all_norms = 0;
  for (int64_t row = 0; row < exact.rows; ++row) {
    if (high_bits_bounds[row] == HUGE_VALF) continue;
    errors += high_bits_bounds[row];
    all_norms += norms[row];
  }
  const double deviations = errors / all_norms * std::sqrt(static_cast<double>(exact.cols));
  weights.shortlist = {
      .rounded = rounded,
      .error_bounds = bounds,
      .high_bits_error_bounds = deviations <= kMostHighBitsDeviations ? high_bits_bounds : nullptr,
      .norms = norms};
  weights.buffers.push_back(std::move(bound_buffer));
  return absl::OkStatus();
}

Status CheckTernaryHead(const HeadOptions& head) {
  if (head.type == HeadType::kAsStored && head.shortlist != ShortlistUse::kOn) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      head.type == HeadType::kInt8 ? "int8" : "a shortlist",
      " is of no use to this model's output head: it is ternary, and its bytes are fewer already; "
      "keep it as the checkpoint has it, without a shortlist"));
}

template <typename F>
Status PlaceWeights(Ops<F>& ops, ModelWeights& weights) {
  STERNA_RETURN_IF_ERROR(Annotate(PlaceEmbeddingAndHead(ops, weights), "embedding and head"));
  STERNA_RETURN_IF_ERROR(Annotate(weights.final_norm.Place(ops), "final norm"));
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    STERNA_RETURN_IF_ERROR(
        Annotate(PlaceLayer(ops, weights.layers[i]), absl::StrCat("weights of layer ", i)));
  }
  return absl::OkStatus();
}

template Status PlaceWeights(Ops<float>& ops, ModelWeights& weights);
template Status PlaceWeights(Ops<double>& ops, ModelWeights& weights);

int64_t ModelWeights::num_parameters() const {
  int64_t parameters = embedding.rows * embedding.cols + (tied ? 0 : head.rows * head.cols) +
                       ternary_embedding.rows() * ternary_embedding.cols() +
                       untied_ternary_head.rows() * untied_ternary_head.cols() + final_norm.size();
  for (const LayerWeights& layer : layers) {
    parameters += layer.input_norm.size() + layer.q_norm.size() + layer.k_norm.size() +
                  layer.attn_sub_norm.size() + layer.post_attention_norm.size() +
                  layer.ffn_sub_norm.size();
    for (const TernaryLinearWeights* linear : layer.linears()) {
      parameters +=
          linear->w.rows() * linear->w.cols() + linear->bias.size() + linear->in_norm.size();
    }
  }
  return parameters;
}

int64_t ModelWeights::head_bytes() const {
  return ternary_head() != nullptr ? ternary_head()->bytes() : head.bytes();
}

std::string_view ModelWeights::head_dtype() const {
  return ternary_head() != nullptr ? "ternary" : DenseTypeName(head.type);
}

int64_t ModelWeights::ternary_bytes() const {
  int64_t bytes = 0;
  for (const TernaryMatrix* matrix : {&ternary_embedding, &untied_ternary_head}) {
    if (!matrix->empty()) bytes += matrix->bytes();
  }
  for (const LayerWeights& layer : layers) {
    for (const TernaryLinearWeights* linear : layer.linears()) bytes += linear->w.bytes();
  }
  return bytes;
}

int64_t ModelWeights::dense_bytes() const {
  return embedding.bytes() + (head.data == embedding.data ? 0 : head.bytes()) + shortlist.bytes();
}

int64_t ModelWeights::step_bytes(int64_t sequences) const {
  int64_t bytes = shortlist.empty() ? head_bytes() : shortlist.bytes_read(sequences);
  for (const LayerWeights& layer : layers) {
    for (const TernaryLinearWeights* linear : layer.linears()) bytes += linear->w.bytes();
  }
  return bytes;
}

}  // namespace sterna
