#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/cpu/cpu_sampler.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/topology.h"
#include "kernels/devices.h"

namespace sterna {
namespace cpu {
namespace {

constexpr int kMaxThreads = 1024;

QuantizedRow RowOf(const QuantizedMat<float>& m, int64_t row) {
  const int64_t groups = m.num_groups();
  return {.q = m.q + row * m.stride,
          .stride = m.stride,
          .cols = m.cols,
          .group_size = m.group_size,
          .scale = m.scale + row * groups,
          .sum = m.sum + row * groups};
}

void Rotate(const CpuKernels& kernels, float* head, std::span<const float> norm, float eps,
            const float* cos, const float* sin, int64_t head_dim) {
  if (!norm.empty()) kernels.rms_norm(head, norm.data(), eps, head_dim, head);
  kernels.rotate(head, cos, sin, head_dim / 2);
}

}  // namespace

void CheckQuantized(const QuantizedMat<float>& m, int64_t rows, int64_t cols) {
  STERNA_CHECK(m.rows == rows && m.cols == cols);
  STERNA_CHECK(m.stride == RoundUp(cols, kTernaryBlockCols) && m.group_size > 0);
}

void CpuOps::EmbedTokens(const EmbedTokensParams<float>& p) {
  const int64_t cols = p.x.cols;
  const TernaryMatrix* ternary = p.ternary_table;
  STERNA_CHECK(std::ssize(p.token_ids) == p.x.rows);
  STERNA_CHECK((ternary != nullptr ? ternary->cols() : p.table.cols) == cols);
  ForRuns(p.x.rows, cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      const int64_t token = p.token_ids[t];
      if (ternary != nullptr) {
        ternary->CopyRow(token, p.x.row(t));
        continue;
      }
      STERNA_CHECK(token >= 0 && token < p.table.rows);
      p.table.CopyRow(token, p.x.row(t));
    }
  });
}

void CpuOps::RmsNorm(const RmsNormParams<float>& p) {
  STERNA_CHECK(std::ssize(p.weight) == p.x.cols);
  STERNA_CHECK(p.y.rows == p.x.rows && p.y.cols == p.x.cols);
  ForRuns(p.x.rows, p.x.cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      kernels_.rms_norm(p.x.row(t), p.weight.data(), p.eps, p.x.cols, p.y.row(t));
    }
  });
}

void CpuOps::RmsNormQuantize(const RmsNormQuantizeParams<float>& p) {
  STERNA_CHECK(p.weight.empty() || std::ssize(p.weight) == p.x.cols);
  CheckQuantized(p.out, p.x.rows, p.x.cols);
  const float* weight = p.weight.empty() ? nullptr : p.weight.data();
  ForRuns(p.x.rows, p.x.cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      kernels_.norm_quantize(p.x.row(t), weight, p.eps, RowOf(p.out, t));
    }
  });
}

void CpuOps::RotaryTable(const RotaryTableParams<float>& p) {
  const int64_t half = p.cos.cols;
  STERNA_CHECK(std::ssize(p.positions) == p.cos.rows && std::ssize(p.inv_freq) == half);
  STERNA_CHECK(p.sin.rows == p.cos.rows && p.sin.cols == half);
  constexpr int64_t kSinCosNanoseconds = 40;
  ForRuns(p.cos.rows, half * kSinCosNanoseconds, [&](int64_t first, int64_t count) {
    for (int64_t t = first; t < first + count; ++t) {
      for (int64_t i = 0; i < half; ++i) {
        // In double: a float angle at position 100,000 is off by 0.004 radians.
        const double angle = p.positions[t] * p.inv_freq[i];
        p.cos.row(t)[i] = static_cast<float>(std::cos(angle) * p.factor);
        p.sin.row(t)[i] = static_cast<float>(std::sin(angle) * p.factor);
      }
    }
  });
}

void CpuOps::RopeAppendKv(const RopeAppendKvParams<float>& p) {
  const int64_t hd = p.kv.head_dim;
  const int64_t kv_heads = p.kv.num_kv_heads;
  STERNA_CHECK(Supports(p.kv.type));
  STERNA_CHECK(hd > 0 && hd % 2 == 0 && p.q.cols % hd == 0 && p.cos.cols == hd / 2);
  STERNA_CHECK(p.k.cols == kv_heads * hd && p.v.cols == kv_heads * hd && p.sin.cols == hd / 2);
  STERNA_CHECK(p.q_norm.empty() || std::ssize(p.q_norm) == hd);
  STERNA_CHECK(p.k_norm.empty() || std::ssize(p.k_norm) == hd);
  STERNA_CHECK(p.k.rows == p.q.rows && p.v.rows == p.q.rows && p.cos.rows == p.q.rows &&
               p.sin.rows == p.q.rows && std::ssize(p.slots) == p.q.rows);
  const auto store = [&](const float* x, std::byte* data, int64_t slot, int64_t head) {
    std::byte* to = data + p.kv.Offset(slot, head);
    switch (p.kv.type) {
      case KvType::kFull:
        std::copy_n(x, hd, reinterpret_cast<float*>(to));
        break;
      case KvType::kF16:
        kernels_.narrow_f16(x, hd, reinterpret_cast<F16*>(to));
        break;
      case KvType::kI8: {
        float s;
        int32_t sum;
        kernels_.norm_quantize(x, nullptr, 0.0f,
                               {.q = reinterpret_cast<int8_t*>(to),
                                .stride = hd,
                                .cols = hd,
                                .group_size = hd,
                                .scale = &s,
                                .sum = &sum});
        *reinterpret_cast<float*>(data + p.kv.ScaleOffset(slot, head)) = 1.0f / s;
        break;
      }
      case KvType::kBf16:
      case KvType::kF8:
        break;  // refused above
    }
  };
  ForRuns(p.q.rows, (p.q.cols + 2 * p.k.cols) / kFloatsPerNanosecond,
          [&](int64_t first, int64_t count) {
            for (int64_t t = first; t < first + count; ++t) {
              const float* cos = p.cos.row(t);
              const float* sin = p.sin.row(t);
              for (int64_t i = 0; i < p.q.cols; i += hd) {
                Rotate(kernels_, p.q.row(t) + i, p.q_norm, p.norm_eps, cos, sin, hd);
              }
              const int64_t slot = p.slots[t];
              STERNA_CHECK(slot >= 0 && slot < p.kv.num_blocks * kKvBlockTokens);
              for (int64_t h = 0; h < kv_heads; ++h) {
                float* k = p.k.row(t) + h * hd;
                Rotate(kernels_, k, p.k_norm, p.norm_eps, cos, sin, hd);
                store(k, p.kv.k, slot, h);
                store(p.v.row(t) + h * hd, p.kv.v, slot, h);
              }
            }
          });
}

void CpuOps::PagedAttention(const PagedAttentionParams<float>& p) {
  const int64_t hd = p.kv.head_dim;
  const int64_t kv_heads = p.kv.num_kv_heads;
  STERNA_CHECK(Supports(p.kv.type));
  STERNA_CHECK(hd > 0 && kv_heads > 0 && p.q.cols % (hd * kv_heads) == 0);
  STERNA_CHECK(p.o.rows == p.q.rows && p.o.cols == p.q.cols);
  STERNA_CHECK(std::ssize(p.positions) == p.q.rows && std::ssize(p.sequence) == p.q.rows);
  const int64_t group = p.q.cols / hd / kv_heads;
  int64_t attended = 0;
  for (const int32_t position : p.positions) {
    STERNA_CHECK(position >= 0 && position / kKvBlockTokens < p.block_tables.cols);
    attended += position + 1;
  }
  const auto first_of = [&p](int64_t last) {
    return p.window > 0 ? std::max<int64_t>(0, last - p.window + 1) : 0;
  };
  // Consecutive tokens of a prompt read nearly the same keys and values: a run of them does it
  // once.
  const int64_t most = std::max<int64_t>(1, kAttentionQueries / group);
  attention_runs_.clear();
  for (int64_t t = 0; t < p.q.rows; ++t) {
    const int64_t start = attention_runs_.empty() ? 0 : attention_runs_.back();
    const bool goes_on = t > start && t - start < most && p.sequence[t] == p.sequence[start] &&
                         p.positions[t] == p.positions[start] + (t - start) &&
                         first_of(p.positions[t]) == first_of(p.positions[start]);
    if (!goes_on) attention_runs_.push_back(t);
  }
  const auto runs = std::ssize(attention_runs_);
  attention_runs_.push_back(p.q.rows);
  // Heads of a block lie side by side (tensor.h), so one core takes all of a run's where there are
  // runs enough for every core: what its prefetcher reads ahead of one head is the next head's.
  const int64_t heads_per_item = runs >= 2 * pool_.num_threads() ? kv_heads : 1;
  const int64_t cost = attended / std::max<int64_t>(runs, 1) * group * hd * 2 * heads_per_item;
  const int64_t items = runs * kv_heads / heads_per_item;
  ForRuns(items, cost / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t i = first * heads_per_item; i < (first + count) * heads_per_item; ++i) {
      const int64_t t = attention_runs_[static_cast<size_t>(i / kv_heads)];
      const int64_t kv_head = i % kv_heads;
      const AttentionTask task = {
          .q = p.q.row(t) + kv_head * group * hd,
          .tokens = attention_runs_[static_cast<size_t>(i / kv_heads + 1)] - t,
          .token_stride = p.q.cols,
          .heads = group,
          .head_dim = hd,
          .k = p.kv.k + p.kv.BlockOffset(0, kv_head),
          .v = p.kv.v + p.kv.BlockOffset(0, kv_head),
          .kv_type = p.kv.type,
          .block_stride = p.kv.BlockOffset(1, 0),
          .block_bytes = p.kv.HeadBlockBytes(p.kv.type, hd),
          .scale_offset = p.kv.ScaleOffset(0, 0),
          .block_table = p.block_tables.row(p.sequence[t]),
          .first = first_of(p.positions[t]),
          .last = p.positions[t],
          .scale = p.scale,
          .o = p.o.row(t) + kv_head * group * hd};
      kernels_.attention(task);
    }
  });
}

void CpuOps::GatherRows(const GatherRowsParams<float>& p) {
  STERNA_CHECK(std::ssize(p.rows) == p.y.rows && p.x.cols == p.y.cols);
  for (int64_t r = 0; r < p.y.rows; ++r) {
    STERNA_CHECK(p.rows[r] >= 0 && p.rows[r] < p.x.rows);
    std::copy_n(p.x.row(p.rows[r]), p.x.cols, p.y.row(r));
  }
}

void CpuOps::Sample(const SampleOpParams<float>& p) {
  const int64_t rows = p.logits.rows;
  STERNA_CHECK(std::ssize(p.params) == rows && std::ssize(p.results) == rows);
  ForRuns(rows, p.logits.cols / kFloatsPerNanosecond, [&](int64_t first, int64_t count) {
    for (int64_t r = first; r < first + count; ++r) {
      p.results[r] = SampleRow(kernels_, p.logits.row(r), p.logits.cols, p.params[r]);
    }
  });
}

}  // namespace cpu

StatusOr<std::unique_ptr<Ops<float>>> CreateCpuOps(const CpuOptions& options) {
  if (options.num_threads < 0 || options.num_threads > cpu::kMaxThreads) {
    return absl::InvalidArgumentError(absl::StrCat("CPU threads must be 1 to ", cpu::kMaxThreads,
                                                   ", or 0 for one per physical core; got ",
                                                   options.num_threads));
  }
  STERNA_ASSIGN_OR_RETURN(const cpu::CpuKernels* kernels, cpu::ChooseKernels(options.isa));
  const int threads = options.num_threads == 0 ? cpu::UsableCores() : options.num_threads;
  return std::make_unique<cpu::CpuOps>(*kernels, std::min(threads, cpu::kMaxThreads));
}

}  // namespace sterna
