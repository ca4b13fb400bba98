// The dense products of CpuOps: the output head, whole or of a shortlist.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/cpu_sampler.h"
#include "kernels/cpu/packed_activations.h"

namespace sterna::cpu {
namespace {

// Of the row blocks, the part that is computed exactly beside a shortlist; with more, all of them
// in order are read faster.
constexpr int64_t kMostExact = 4;  // one in so many
// Rows that are looked at together before each row block is.
constexpr int64_t kScanRows = 256;
static_assert(kScanRows % kDenseTileRows == 0);

// Writes the 16 bits of a token's activations as PackedActivations<kInt8Parts> wants them, their
// scale and sum[kInt8Parts], the sum of each part. A row that is not all finite gets a NaN for its
// scale, so that its outputs are NaN; one that is all but zero gets zeros.
void PackInt8Row(const DenseTask& task, int64_t token, std::byte* packed, float& scale,
                 int32_t* sum) {
  using Packed = PackedActivations<kInt8Parts>;
  constexpr float kSmallest = 1e-30f;  // its reciprocal times kInt8Largest is finite
  const float* x = task.x + token * task.cols;
  const float largest = LargestMagnitude({x, static_cast<size_t>(task.cols)});
  const bool usable = std::isfinite(largest) && largest >= kSmallest;
  const float to_integer = usable ? kInt8Largest / largest : 0.0f;
  scale = usable                   ? largest / kInt8Largest
          : std::isfinite(largest) ? 0.0f
                                   : std::numeric_limits<float>::quiet_NaN();
  const int64_t first = token / kPackedGroup * kPackedGroup;
  const int64_t tokens = Packed::GroupTokens(first, task.tokens);
  auto* out = reinterpret_cast<int8_t*>(packed) + Packed::GroupOffset(token, task.col_blocks) +
              (token - first) * kDenseLineBytes;
  int32_t high_sum = 0, low_sum = 0;
  for (int64_t b = 0; b < task.col_blocks; ++b, out += Packed::BlockBytes(tokens)) {
    const int64_t begin = b * kDenseLineBytes;
    const int64_t cols = std::min(task.cols - begin, kDenseLineBytes);
    float block[kDenseLineBytes] = {};
    if (usable) std::copy_n(x + begin, cols, block);
    for (int64_t i = 0; i < kDenseLineBytes; ++i) {
      const auto value = static_cast<int32_t>(RoundHalfEven(block[i] * to_integer));
      const int32_t high = (value + 128) >> 8;
      const int32_t low = value - high * 256;
      out[i] = static_cast<int8_t>(high);
      out[tokens * kDenseLineBytes + i] = static_cast<int8_t>(low);
      high_sum += high;
      low_sum += low;
    }
  }
  sum[0] = high_sum;
  sum[1] = low_sum;
}

// The Euclidean norm of x, rounded up; infinite where the bounds of a shortlist do not hold.
float NormForBounds(const float* x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  const double norm = std::sqrt(sum);
  // NaN fails both comparisons.
  if (!(norm >= kLeastShortlistNorm && norm <= kMostShortlistNorm))
    return std::numeric_limits<float>::infinity();
  return static_cast<float>(norm * (1 + 1e-6));
}

}  // namespace

void CpuOps::PackActivations(DenseTask& task) {
  const bool int8 = task.type == DenseType::kI8;
  const auto bytes =
      static_cast<size_t>(int8 ? PackedActivations<kInt8Parts>::Bytes(task.tokens, task.col_blocks)
                               : kernels_.dense_pack_bytes(task));
  if (bytes == 0) return;
  if (packed_x_.size() < bytes) packed_x_ = AlignedBuffer<std::byte>(bytes);
  task.packed_x = packed_x_.data();
  if (!int8) return kernels_.pack_dense(task, packed_x_.data());
  STERNA_CHECK(task.cols <= kMaxDenseInt8Cols && task.w_scale != nullptr);
  x_scale_.resize(static_cast<size_t>(task.tokens));
  x_sum_.resize(static_cast<size_t>(task.tokens * kInt8Parts));
  task.x_scale = x_scale_.data();
  task.x_sum = x_sum_.data();
  ForRuns(task.tokens, task.cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      PackInt8Row(task, t, packed_x_.data(), x_scale_[static_cast<size_t>(t)],
                  &x_sum_[static_cast<size_t>(t * kInt8Parts)]);
    }
  });
}

DenseTask CpuOps::MakeDenseTask(const DenseLinearParams<float>& p) {
  STERNA_CHECK(p.x.cols == p.w.cols && p.y.rows == p.x.rows && p.y.cols == p.w.rows);
  const bool tiles = p.w.type != DenseType::kF32;
  STERNA_CHECK(p.w.layout == (tiles ? DenseLayout::kTiles : DenseLayout::kRows));
  DenseTask task = {.x = p.x.data,
                    .tokens = p.x.rows,
                    .w = p.w.data,
                    .type = p.w.type,
                    .rows = p.w.rows,
                    .cols = p.w.cols,
                    .col_blocks = p.w.col_blocks(),
                    .w_scale = p.w.scales,
                    .y = p.y.data};
  PackActivations(task);
  return task;
}

void CpuOps::DenseLinear(const DenseLinearParams<float>& p) {
  const DenseTask task = MakeDenseTask(p);
  // f32 rows take twice the cache.
  const int64_t panel_rows = p.w.type != DenseType::kF32 ? kDensePanelRows : kDensePanelRows / 2;
  const int64_t panel_cost = p.x.rows * panel_rows * p.w.cols / kFloatsPerNanosecond;
  ForPanels(CeilDiv(p.w.rows, panel_rows), panel_cost, [&](int64_t first, int64_t count) {
    for (int64_t panel = first; panel < first + count; ++panel) {
      const int64_t row = panel * panel_rows;
      kernels_.dense_linear(task, row, std::min(panel_rows, p.w.rows - row));
    }
  });
}

void CpuOps::MarkBlocks(std::span<const float> logits, float least) {
  const auto rows = std::ssize(logits);
  // Whether any of rows row .. row + most - 1 is as large; NaN may be.
  const auto reached = [&](int64_t row, int64_t most) {
    return !(kernels_.largest(logits.data() + row, std::min(most, rows - row)) < least);
  };
  for (int64_t row = 0; row < rows; row += kDenseTileRows) {
    // Hardly any stretch of rows has one, so most are passed over as a whole.
    if (row % kScanRows == 0 && !reached(row, kScanRows)) {
      row += kScanRows - kDenseTileRows;
    } else if (reached(row, kDenseTileRows)) {
      const std::atomic_ref block(blocks_[static_cast<size_t>(row / kDenseTileRows)]);
      RowBlock unknown = RowBlock::kRounded;
      block.compare_exchange_strong(unknown, RowBlock::kWanted, std::memory_order_relaxed);
    }
  }
}

bool CpuOps::ComputeWanted(const DenseTask& task) {
  const auto done = std::ssize(exact_blocks_);
  for (size_t block = 0; block < blocks_.size(); ++block) {
    if (blocks_[block] != RowBlock::kWanted) continue;
    blocks_[block] = RowBlock::kExact;
    exact_blocks_.push_back(static_cast<int64_t>(block));
  }
  if (std::ssize(exact_blocks_) * kMostExact > std::ssize(blocks_)) return false;
  const int64_t block_cost = task.tokens * kDenseTileRows * task.cols / kFloatsPerNanosecond;
  ForRuns(std::ssize(exact_blocks_) - done, block_cost, [&](int64_t first, int64_t count) {
    for (int64_t i = done + first; i < done + first + count; ++i) {
      const int64_t row = exact_blocks_[static_cast<size_t>(i)] * kDenseTileRows;
      kernels_.dense_linear(task, row, std::min(kDenseTileRows, task.rows - row));
    }
  });
  return true;
}

bool CpuOps::ComputeDrawable(const ShortlistLinearParams<float>& p) {
  const int64_t rows = p.w.rows;
  const DenseTask exact = MakeDenseTask({.x = p.x, .w = p.w, .y = p.y});
  blocks_.assign(static_cast<size_t>(p.w.row_blocks()), RowBlock::kRounded);
  exact_blocks_.clear();
  const auto slots = std::min<int64_t>(p.x.rows, pool_.num_threads());
  adjusted_.resize(static_cast<size_t>(slots * rows));
  // Calls body(params, y, least, most) for all tokens. least() and most() write what the logits
  // are at least or at most to memory of their own.
  const auto for_tokens = [&](const auto& body) {
    for (int64_t first = 0; first < p.x.rows; first += slots) {
      pool_.ParallelFor(std::min(slots, p.x.rows - first), [&](int64_t slot) {
        const int64_t t = first + slot;
        float* out = &adjusted_[static_cast<size_t>(slot * rows)];
        const auto bounded = [&, out](float sign) {
          const float norm = sign * norms_[static_cast<size_t>(t)];
          kernels_.add_scaled(p.y.row(t), p.shortlist.error_bounds, norm, rows, out);
          return std::span(out, static_cast<size_t>(rows));
        };
        body(p.params[static_cast<size_t>(t)], p.y.row(t), bounded);
      });
    }
  };
  // The rows that are surely among the largest, whose exact logits say how large those are ...
  for_tokens([&](const SampleParams& params, const float* /*y*/, const auto& bounded) {
    const std::span<float> lower = bounded(-1.0f);
    const float least = LeastDrawable(kernels_, params, lower);
    MarkBlocks(lower, least);
  });
  if (!ComputeWanted(exact)) return false;
  // ... and the others that could be as large.
  for_tokens([&](const SampleParams& params, const float* y, const auto& bounded) {
    const std::span<float> lower = bounded(-1.0f);
    for (const int64_t block : exact_blocks_) {
      const int64_t row = block * kDenseTileRows;
      std::copy_n(y + row, std::min(kDenseTileRows, rows - row), &lower[static_cast<size_t>(row)]);
    }
    const float least = LeastDrawable(kernels_, params, lower);
    const std::span<float> upper = bounded(1.0f);
    AdjustLogits(params, upper);
    MarkBlocks(upper, least);
  });
  return ComputeWanted(exact);
}

void CpuOps::ShortlistLinear(const ShortlistLinearParams<float>& p) {
  const DenseMatrix& rounded = p.shortlist.rounded;
  STERNA_CHECK(rounded.rows == p.w.rows && rounded.cols == p.w.cols);
  STERNA_CHECK(std::ssize(p.params) == p.x.rows);
  const DenseLinearParams<float> whole = {.x = p.x, .w = p.w, .y = p.y};
  norms_.clear();
  for (int64_t t = 0; t < p.x.rows; ++t) norms_.push_back(NormForBounds(p.x.row(t), p.x.cols));
  const auto draws_from_few = [&](const SampleParams& s) {
    return DrawsFromMostLikely(s, p.w.rows / kMostExact);
  };
  // One row that needs every output has the whole matrix read, so the others may as well use it.
  if (p.x.rows > kernels_.most_shortlist_tokens || !std::ranges::all_of(p.params, draws_from_few) ||
      !std::ranges::all_of(norms_, [](float norm) { return std::isfinite(norm); })) {
    return DenseLinear(whole);
  }
  DenseLinear({.x = p.x, .w = rounded, .y = p.y});
  if (!ComputeDrawable(p)) return DenseLinear(whole);
  ForRuns(p.y.rows, p.y.cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      for (size_t block = 0; block < blocks_.size(); ++block) {
        if (blocks_[block] == RowBlock::kExact) continue;
        const int64_t row = static_cast<int64_t>(block) * kDenseTileRows;
        std::fill_n(p.y.row(t) + row, std::min(kDenseTileRows, p.y.cols - row),
                    -std::numeric_limits<float>::infinity());
      }
    }
  });
}

}  // namespace sterna::cpu
