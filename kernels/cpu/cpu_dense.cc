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
// What the low parts of activations may add to an output, in its deviations, if it is to be told
// without them: 0.4 for 2560 normal activations, more where some are far larger than the others.
constexpr float kMostLowDeviations = 0.7f;
// Rows that are looked at together before each row block is.
constexpr int64_t kScanRows = 256;
static_assert(kScanRows % kDenseTileRows == 0);

// Writes the 16 bits of a token's activations as PackedActivations<kInt8Parts> wants them, their
// scale, sum[kInt8Parts], the sum of each part, and the norm of what the low parts stand for,
// rounded up. A row that is not all finite gets a NaN for its scale, so that its outputs are NaN;
// one that is all but zero gets zeros.
void PackInt8Activations(const DenseTask& task, int64_t token, std::byte* packed, float& scale,
                         int32_t* sum, float& low_norm) {
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
  int64_t low_squares = 0;
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
      low_squares += low * low;
    }
  }
  sum[0] = high_sum;
  sum[1] = low_sum;
  low_norm = static_cast<float>(scale * std::sqrt(static_cast<double>(low_squares)) * (1 + 1e-6));
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
  const bool int8 = task.type == DenseType::kI8 || task.type == DenseType::kI6;
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
  x_low_norm_.resize(static_cast<size_t>(task.tokens));
  task.x_scale = x_scale_.data();
  task.x_sum = x_sum_.data();
  ForRuns(task.tokens, task.cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      PackInt8Activations(task, t, packed_x_.data(), x_scale_[static_cast<size_t>(t)],
                          &x_sum_[static_cast<size_t>(t * kInt8Parts)],
                          x_low_norm_[static_cast<size_t>(t)]);
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
                    .w_low = p.w.type == DenseType::kI8
                                 ? static_cast<const uint8_t*>(p.w.data) + p.w.low_bits_offset()
                                 : nullptr,
                    .w_scale = p.w.scales,
                    .y = p.y.data,
                    .weight_streams = weight_streams_};
  PackActivations(task);
  return task;
}

void CpuOps::ComputeAll(const DenseTask& task) {
  // f32 rows take twice the cache.
  const int64_t panel_rows = task.type != DenseType::kF32 ? kDensePanelRows : kDensePanelRows / 2;
  const int64_t panel_cost = task.tokens * panel_rows * task.cols / kFloatsPerNanosecond;
  ForPanels(CeilDiv(task.rows, panel_rows), panel_cost, [&](int64_t first, int64_t count) {
    for (int64_t panel = first; panel < first + count; ++panel) {
      const int64_t row = panel * panel_rows;
      kernels_.dense_linear(task, row, std::min(panel_rows, task.rows - row));
    }
  });
}

void CpuOps::DenseLinear(const DenseLinearParams<float>& p) { ComputeAll(MakeDenseTask(p)); }

void CpuOps::WantBlocks(RowBlock known, std::span<const float> logits, float least) {
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
      RowBlock expected = known;
      std::atomic_ref(blocks_[static_cast<size_t>(row / kDenseTileRows)])
          .compare_exchange_strong(expected, RowBlock::kWanted, std::memory_order_relaxed);
    }
  }
}

void CpuOps::ComputeWanted(const DenseLinearParams<float>& p, RowBlock becomes) {
  wanted_.clear();
  for (size_t block = 0; block < blocks_.size(); ++block) {
    if (blocks_[block] != RowBlock::kWanted) continue;
    blocks_[block] = becomes;
    wanted_.push_back(static_cast<int64_t>(block) * kDenseTileRows);
  }
  if (wanted_.empty()) return;
  const DenseTask task = MakeDenseTask(p);
  const int64_t block_cost = p.x.rows * kDenseTileRows * p.w.cols / kFloatsPerNanosecond;
  ForRuns(std::ssize(wanted_), block_cost, [&](int64_t first, int64_t count) {
    for (int64_t i = first; i < first + count; ++i) {
      const int64_t row = wanted_[static_cast<size_t>(i)];
      kernels_.dense_linear(task, row, std::min(kDenseTileRows, p.w.rows - row));
    }
  });
}

bool CpuOps::LowPartsAreSmall(int64_t cols) const {
  const float root = std::sqrt(static_cast<float>(cols));
  for (size_t t = 0; t < norms_.size(); ++t) {
    if (x_low_norm_[t] * root > kMostLowDeviations * norms_[t]) return false;
  }
  return true;
}

bool CpuOps::ComputeDrawable(const ShortlistLinearParams<float>& p) {
  const int64_t rows = p.w.rows;
  norms_.resize(static_cast<size_t>(p.x.rows));
  ForRuns(p.x.rows, p.x.cols, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      norms_[static_cast<size_t>(t)] = NormForBounds(p.x.row(t), p.x.cols);
    }
  });
  if (!std::ranges::all_of(norms_, [](float norm) { return std::isfinite(norm); })) return false;
  const DenseLinearParams<float> exact = {.x = p.x, .w = p.w, .y = p.y};
  const DenseLinearParams<float> int8 = {.x = p.x, .w = p.shortlist.rounded, .y = p.y};
  const DenseLinearParams<float> int6 = {.x = p.x, .w = int8.w.HighBits(), .y = p.y};
  // Few tokens wait for memory, more for products, but on AMX. Only where one row wins does what is
  // rounded more leave few enough open.
  const bool greedy =
      std::ranges::all_of(p.params, [](const SampleParams& s) { return s.temperature == 0; });
  RowBlock first = RowBlock::kInt8;
  if (greedy && p.x.rows <= kMostHighBitsRows && p.shortlist.high_bits_error_bounds != nullptr) {
    first = RowBlock::kInt6;
  }
  DenseTask task = MakeDenseTask(first == RowBlock::kInt6 ? int6 : int8);
  if (greedy && first == RowBlock::kInt8 && !kernels_.amx && LowPartsAreSmall(p.x.cols)) {
    first = RowBlock::kInt8By8;
    task.x_parts = 1;
  }
  ComputeAll(task);
  blocks_.assign(static_cast<size_t>(p.w.row_blocks()), first);
  const auto slots = std::min<int64_t>(p.x.rows, pool_.num_threads());
  adjusted_.resize(static_cast<size_t>(slots * rows));
  // Calls body(token, its logits, room for as many) for all tokens.
  const auto for_tokens = [&](const auto& body) {
    for (int64_t begin = 0; begin < p.x.rows; begin += slots) {
      pool_.ParallelFor(std::min(slots, p.x.rows - begin), [&](int64_t slot) {
        const auto n = static_cast<size_t>(rows);
        body(static_cast<size_t>(begin + slot), p.y.row(begin + slot),
             std::span(adjusted_).subspan(static_cast<size_t>(slot) * n, n));
      });
    }
  };
  // out = what the logits of row blocks that are known so well are at least (sign -1) or most (1).
  const auto bound = [&](size_t t, const float* y, RowBlock known, float sign,
                         std::span<float> out) {
    const float* bounds =
        known == RowBlock::kInt6 ? p.shortlist.high_bits_error_bounds : p.shortlist.error_bounds;
    kernels_.add_scaled(y, bounds, sign * norms_[t], rows, out.data());
    if (known == RowBlock::kInt8By8) {
      kernels_.add_scaled(out.data(), p.shortlist.norms, sign * x_low_norm_[t], rows, out.data());
    }
  };
  const auto want_if_most_reaches_least = [&](RowBlock known) {
    for_tokens([&](size_t t, const float* y, std::span<float> most) {
      bound(t, y, known, 1.0f, most);
      AdjustLogits(p.params[t], most);
      WantBlocks(known, most, least_[t]);
    });
  };
  const auto too_many_wanted = [&] {
    return std::ranges::count(blocks_, RowBlock::kWanted) * kMostExact > std::ssize(blocks_);
  };
  // The rows that are surely among the largest, whose exact logits say how large those are.
  least_.resize(static_cast<size_t>(p.x.rows));
  for_tokens([&](size_t t, const float* y, std::span<float> lower) {
    bound(t, y, first, -1.0f, lower);
    const float least = LeastDrawable(kernels_, p.params[t], lower);
    WantBlocks(first, lower, least);
  });
  if (too_many_wanted()) return false;
  ComputeWanted(exact, RowBlock::kExact);
  for_tokens([&](size_t t, const float* y, std::span<float> lower) {
    bound(t, y, first, -1.0f, lower);
    for (const int64_t row : wanted_) {
      std::copy_n(y + row, std::min(kDenseTileRows, rows - row), &lower[static_cast<size_t>(row)]);
    }
    least_[t] = LeastDrawable(kernels_, p.params[t], lower);
  });
  // The others that could be as large.
  want_if_most_reaches_least(first);
  if (first != RowBlock::kInt8) {
    if (std::ranges::count(blocks_, RowBlock::kWanted) * 2 > std::ssize(blocks_)) {
      DenseLinear(int8);
      std::ranges::fill(blocks_, RowBlock::kInt8);
    } else {
      ComputeWanted(int8, RowBlock::kInt8);
    }
    want_if_most_reaches_least(RowBlock::kInt8);
  }
  if (too_many_wanted()) return false;
  ComputeWanted(exact, RowBlock::kExact);
  return true;
}

void CpuOps::ShortlistLinear(const ShortlistLinearParams<float>& p) {
  const DenseMatrix& rounded = p.shortlist.rounded;
  STERNA_CHECK(rounded.rows == p.w.rows && rounded.cols == p.w.cols);
  STERNA_CHECK(p.w.type != DenseType::kI8 && std::ssize(p.params) == p.x.rows);
  const auto draws_from_few = [&](const SampleParams& s) {
    return DrawsFromMostLikely(s, p.w.rows / kMostExact);
  };
  // One row that needs every output has the whole matrix read, so the others may as well use it.
  if (p.x.rows > kernels_.most_shortlist_tokens || !std::ranges::all_of(p.params, draws_from_few) ||
      !ComputeDrawable(p)) {
    return DenseLinear({.x = p.x, .w = p.w, .y = p.y});
  }
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
