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

// Of the row blocks, the part that the shortlist may leave; with more, all of them in order are
// read faster.
constexpr int64_t kMostLeft = 4;  // one in so many
// Row blocks that are looked at together before each of them is.
constexpr int64_t kScanBlocks = 16;

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

bool CpuOps::MarkDrawable(const ShortlistLinearParams<float>& p) {
  const int64_t rows = p.w.rows;
  const int64_t blocks = p.w.row_blocks();
  const auto slots = std::min<int64_t>(p.x.rows, pool_.num_threads());
  drawable_.assign(static_cast<size_t>(blocks), 0);
  upper_.resize(static_cast<size_t>(slots * rows));
  std::atomic<bool> bounded = true;
  for (int64_t first = 0; first < p.x.rows && bounded; first += slots) {
    pool_.ParallelFor(std::min(slots, p.x.rows - first), [&](int64_t slot) {
      const int64_t t = first + slot;
      const float norm = NormForBounds(p.x.row(t), p.x.cols);
      float* lower = p.y.row(t);
      float* upper = &upper_[static_cast<size_t>(slot * rows)];
      if (!std::isfinite(norm)) {
        bounded = false;
        return;
      }
      const float* bounds = p.shortlist.error_bounds;
      kernels_.add_scaled(lower, bounds, norm, rows, upper);
      kernels_.add_scaled(lower, bounds, -norm, rows, lower);
      const SampleParams& params = p.params[static_cast<size_t>(t)];
      const float least = LeastDrawable(kernels_, params, {lower, static_cast<size_t>(rows)});
      AdjustLogits(params, {upper, static_cast<size_t>(rows)});
      // Whether any of rows row .. row + most - 1 can be drawn.
      const auto drawable = [&](int64_t row, int64_t most) {
        return !(kernels_.largest(upper + row, std::min(most, rows - row)) < least);
      };
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t row = block * kDenseTileRows;
        // Hardly any stretch of rows has one, so most are passed over as a whole.
        if (block % kScanBlocks == 0 && !drawable(row, kScanBlocks * kDenseTileRows)) {
          block += kScanBlocks - 1;
          continue;
        }
        if (drawable(row, kDenseTileRows)) {
          std::atomic_ref(drawable_[static_cast<size_t>(block)])
              .store(1, std::memory_order_relaxed);
        }
      }
    });
  }
  return bounded;
}

void CpuOps::ShortlistLinear(const ShortlistLinearParams<float>& p) {
  const DenseMatrix& rounded = p.shortlist.rounded;
  STERNA_CHECK(rounded.rows == p.w.rows && rounded.cols == p.w.cols);
  STERNA_CHECK(std::ssize(p.params) == p.x.rows);
  const DenseLinearParams<float> whole = {.x = p.x, .w = p.w, .y = p.y};
  // One row that needs every output has the whole matrix read, so the others may as well use it.
  if (p.x.rows > kernels_.most_shortlist_tokens ||
      !std::ranges::all_of(
          p.params, [&](const auto& s) { return DrawsFromMostLikely(s, p.w.rows / kMostLeft); })) {
    return DenseLinear(whole);
  }
  DenseLinear({.x = p.x, .w = rounded, .y = p.y});
  if (!MarkDrawable(p)) return DenseLinear(whole);
  drawable_blocks_.clear();
  for (size_t block = 0; block < drawable_.size(); ++block) {
    if (drawable_[block] != 0) drawable_blocks_.push_back(static_cast<int64_t>(block));
  }
  const auto left = std::ssize(drawable_blocks_);
  if (left * kMostLeft > p.w.row_blocks()) return DenseLinear(whole);
  ForRuns(p.y.rows, p.y.cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    std::fill_n(p.y.row(first), count * p.y.cols, -std::numeric_limits<float>::infinity());
  });
  const DenseTask task = MakeDenseTask(whole);
  const int64_t block_cost = p.x.rows * kDenseTileRows * p.w.cols / kFloatsPerNanosecond;
  ForRuns(left, block_cost, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const int64_t row = drawable_blocks_[static_cast<size_t>(i)] * kDenseTileRows;
      kernels_.dense_linear(task, row, std::min(kDenseTileRows, p.w.rows - row));
    }
  });
}

}  // namespace sterna::cpu
