// The readable implementation of kernels/ops.h: each op is its definition, in F, one thread.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "base/check.h"
#include "kernels/bfloat16.h"
#include "kernels/devices.h"
#include "kernels/float8.h"
#include "kernels/half_float.h"
#include "kernels/host_memory_ops.h"
#include "kernels/ops.h"
#include "kernels/reference/reference_sampler.h"

namespace sterna {
namespace {

// y = x / sqrt(mean(x^2) + eps) * weight over n values.
template <typename F>
void NormalizeRow(const F* x, const float* weight, F eps, int64_t n, F* y) {
  F sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const F root = std::sqrt(sum / static_cast<F>(n) + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] / root * static_cast<F>(weight[i]);
}

template <typename F>
int8_t RoundToInt8(F value) {
  const F rounded = std::nearbyint(value);
  if (rounded >= F(127)) return 127;
  if (rounded > F(-128)) return static_cast<int8_t>(rounded);
  return -128;  // NaN as well
}

// What brings the largest magnitude of x [n] to `code`.
template <typename F>
F QuantizationScale(const F* x, int64_t n, F code) {
  F absmax = 0;
  for (int64_t i = 0; i < n; ++i) absmax = std::max(absmax, std::abs(x[i]));
  return code / std::max(absmax, F(1e-5));
}

// Quantises x [out.cols] into row `row` of `out`, and zeroes the padding columns.
template <typename F>
void QuantizeRow(const F* x, const QuantizedMat<F>& out, int64_t row) {
  int8_t* q = out.q + row * out.stride;
  std::fill(q + out.cols, q + out.stride, int8_t{0});
  const int64_t groups = out.num_groups();
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t begin = g * out.group_size;
    const int64_t end = std::min(begin + out.group_size, out.cols);
    const F s = QuantizationScale(x + begin, end - begin, F(127));
    int32_t sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      q[i] = RoundToInt8(x[i] * s);
      sum += q[i];
    }
    out.scale[row * groups + g] = s;
    out.sum[row * groups + g] = sum;
  }
}

// Stores x [head_dim] as the vector of `head` at `slot` of `data`, kv.k or kv.v.
template <typename F>
void StoreKv(const KvView<F>& kv, const F* x, std::byte* data, int64_t slot, int64_t head) {
  std::byte* to = data + kv.Offset(slot, head);
  switch (kv.type) {
    case KvType::kFull:
      std::copy_n(x, kv.head_dim, reinterpret_cast<F*>(to));
      break;
    case KvType::kF16:
      for (int64_t i = 0; i < kv.head_dim; ++i) {
        reinterpret_cast<uint16_t*>(to)[i] = FloatToHalf(static_cast<float>(x[i]));
      }
      break;
    case KvType::kBf16:
      for (int64_t i = 0; i < kv.head_dim; ++i) {
        reinterpret_cast<uint16_t*>(to)[i] = FloatToBf16(static_cast<float>(x[i]));
      }
      break;
    case KvType::kI8:
    case KvType::kF8: {
      const bool int8 = kv.type == KvType::kI8;
      const F s = QuantizationScale(x, kv.head_dim, int8 ? F(127) : F(kLargestE4m3));
      for (int64_t i = 0; i < kv.head_dim; ++i) {
        to[i] = static_cast<std::byte>(int8 ? RoundToInt8(x[i] * s)
                                            : FloatToE4m3(static_cast<float>(x[i] * s)));
      }
      *reinterpret_cast<float*>(data + kv.ScaleOffset(slot, head)) = static_cast<float>(1 / s);
      break;
    }
  }
}

// The vector of `head` at `slot` of `data`, as numbers, in x [head_dim].
template <typename F>
void LoadKv(const KvView<F>& kv, const std::byte* data, int64_t slot, int64_t head, F* x) {
  const std::byte* from = data + kv.Offset(slot, head);
  switch (kv.type) {
    case KvType::kFull:
      std::copy_n(reinterpret_cast<const F*>(from), kv.head_dim, x);
      break;
    case KvType::kF16:
      for (int64_t i = 0; i < kv.head_dim; ++i) {
        x[i] = HalfToFloat(reinterpret_cast<const uint16_t*>(from)[i]);
      }
      break;
    case KvType::kBf16:
      for (int64_t i = 0; i < kv.head_dim; ++i) {
        x[i] = Bf16ToFloat(reinterpret_cast<const uint16_t*>(from)[i]);
      }
      break;
    case KvType::kI8:
    case KvType::kF8: {
      const F scale = *reinterpret_cast<const float*>(data + kv.ScaleOffset(slot, head));
      for (int64_t i = 0; i < kv.head_dim; ++i) {
        const auto code = static_cast<uint8_t>(from[i]);
        const F number = kv.type == KvType::kI8 ? static_cast<F>(static_cast<int8_t>(code))
                                                : static_cast<F>(E4m3ToFloat(code));
        x[i] = number * scale;
      }
      break;
    }
  }
}

template <typename F>
F WeightScale(const TernaryMatrix& w, int64_t row, int64_t group) {
  switch (w.granularity()) {
    case ScaleGranularity::kTensor:
      return static_cast<F>(w.tensor_scale());
    case ScaleGranularity::kRow:
    case ScaleGranularity::kGroup:
      return w.scale(row, group);
  }
  STERNA_CHECK(false);
}

// Rotates the pairs (x[i], x[i + half]) by the angles whose cos and sin [half] are given.
template <typename F>
void RotateHead(F* x, const F* cos, const F* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const F a = x[i];
    const F b = x[i + half];
    x[i] = a * cos[i] - b * sin[i];
    x[i + half] = b * cos[i] + a * sin[i];
  }
}

template <typename F>
F Activate(Activation activation, F gate) {
  switch (activation) {
    case Activation::kSilu:
      return gate / (F(1) + std::exp(-gate));
    case Activation::kReluSquared:
      return gate > 0 ? gate * gate : F(0);
  }
  STERNA_CHECK(false);
}

template <typename F>
class ReferenceOps final : public HostMemoryOps<F> {
 public:
  std::string Name() const override {
    return std::is_same_v<F, double> ? "reference/f64" : "reference/f32";
  }

  void EmbedTokens(const EmbedTokensParams<F>& p) override {
    for (int64_t t = 0; t < p.x.rows; ++t) {
      if (p.ternary_table != nullptr) {
        STERNA_CHECK(p.ternary_table->cols() == p.x.cols);
        p.ternary_table->CopyRow(p.token_ids[t], p.x.row(t));
        continue;
      }
      STERNA_CHECK(p.table.cols == p.x.cols);
      STERNA_CHECK(p.token_ids[t] >= 0 && p.token_ids[t] < p.table.rows);
      p.table.CopyRow(p.token_ids[t], p.x.row(t));
    }
  }

  void RmsNorm(const RmsNormParams<F>& p) override {
    for (int64_t t = 0; t < p.x.rows; ++t) {
      NormalizeRow(p.x.row(t), p.weight.data(), p.eps, p.x.cols, p.y.row(t));
    }
  }

  void RmsNormQuantize(const RmsNormQuantizeParams<F>& p) override {
    std::vector<F> normed(p.x.cols);
    for (int64_t t = 0; t < p.x.rows; ++t) {
      const F* x = p.x.row(t);
      if (!p.weight.empty()) {
        NormalizeRow(x, p.weight.data(), p.eps, p.x.cols, normed.data());
        x = normed.data();
      }
      QuantizeRow(x, p.out, t);
    }
  }

  void TernaryLinear(const TernaryLinearParams<F>& p) override {
    const TernaryMatrix& w = *p.w;
    STERNA_CHECK(p.q.cols == w.cols() && p.q.num_groups() == w.num_groups());
    for (int64_t t = 0; t < p.y.rows; ++t) {
      for (int64_t n = 0; n < p.y.cols; ++n) {
        F value = 0;
        for (int64_t g = 0; g < w.num_groups(); ++g) {
          value += GroupProduct(p.q, w, t, n, g);
        }
        if (!p.bias.empty()) value += p.bias[n];
        p.y.row(t)[n] = p.accumulate ? p.y.row(t)[n] + value : value;
      }
    }
  }

  void DenseLinear(const DenseLinearParams<F>& p) override {
    std::vector<F> row(p.w.cols);
    for (int64_t n = 0; n < p.w.rows; ++n) {
      p.w.CopyRow(n, row.data());
      for (int64_t t = 0; t < p.x.rows; ++t) {
        F sum = 0;
        for (int64_t k = 0; k < p.w.cols; ++k) sum += p.x.row(t)[k] * row[k];
        p.y.row(t)[n] = sum;
      }
    }
  }

  void RotaryTable(const RotaryTableParams<F>& p) override {
    for (int64_t t = 0; t < p.cos.rows; ++t) {
      for (int64_t i = 0; i < p.cos.cols; ++i) {
        // In double whatever F is: a float angle at position 100,000 is off by 0.004 radians.
        const double angle = p.positions[t] * p.inv_freq[i];
        p.cos.row(t)[i] = static_cast<F>(std::cos(angle) * p.factor);
        p.sin.row(t)[i] = static_cast<F>(std::sin(angle) * p.factor);
      }
    }
  }

  void RopeAppendKv(const RopeAppendKvParams<F>& p) override {
    const int64_t hd = p.kv.head_dim;
    auto rotate = [&](F* head, std::span<const float> norm, int64_t t) {
      if (!norm.empty()) NormalizeRow(head, norm.data(), p.norm_eps, hd, head);
      RotateHead(head, p.cos.row(t), p.sin.row(t), hd / 2);
    };
    for (int64_t t = 0; t < p.q.rows; ++t) {
      for (int64_t h = 0; h < p.q.cols / hd; ++h) rotate(p.q.row(t) + h * hd, p.q_norm, t);
      for (int64_t h = 0; h < p.kv.num_kv_heads; ++h) {
        F* k = p.k.row(t) + h * hd;
        rotate(k, p.k_norm, t);
        const int64_t slot = p.slots[t];
        STERNA_CHECK(slot >= 0 && slot < p.kv.num_blocks * kKvBlockTokens);
        StoreKv(p.kv, k, p.kv.k, slot, h);
        StoreKv(p.kv, p.v.row(t) + h * hd, p.kv.v, slot, h);
      }
    }
  }

  void PagedAttention(const PagedAttentionParams<F>& p) override {
    const int64_t heads = p.q.cols / p.kv.head_dim;
    for (int64_t t = 0; t < p.q.rows; ++t) {
      for (int64_t h = 0; h < heads; ++h) AttendHead(p, t, h, h / (heads / p.kv.num_kv_heads));
    }
  }

  void GatedLinear(const GatedLinearParams<F>& p) override {
    const int64_t outputs = p.h.rows * p.h.cols;
    std::vector<F> up(outputs);
    TernaryLinear({.q = p.gate.q, .w = p.gate.w, .bias = p.gate.bias, .y = p.h});
    TernaryLinear(
        {.q = p.up.q, .w = p.up.w, .bias = p.up.bias, .y = {up.data(), p.h.rows, p.h.cols}});
    for (int64_t i = 0; i < outputs; ++i) {
      p.h.data[i] = Activate(p.activation, p.h.data[i]) * up[i];
    }
  }

  void GatherRows(const GatherRowsParams<F>& p) override {
    for (int64_t r = 0; r < p.y.rows; ++r) {
      STERNA_CHECK(p.rows[r] >= 0 && p.rows[r] < p.x.rows);
      std::copy_n(p.x.row(p.rows[r]), p.x.cols, p.y.row(r));
    }
  }

  void Sample(const SampleOpParams<F>& p) override {
    for (int64_t r = 0; r < p.logits.rows; ++r) {
      p.results[r] = ReferenceSampleRow(p.logits.row(r), p.logits.cols, p.params[r]);
    }
  }

  Status Finish() override { return absl::OkStatus(); }

 private:
  // The part of y[t][n] that the columns of group `g` give.
  static F GroupProduct(const QuantizedMat<F>& q, const TernaryMatrix& w, int64_t t, int64_t n,
                        int64_t g) {
    const int64_t begin = g * w.group_size();
    const int64_t end = std::min(begin + w.group_size(), w.cols());
    int32_t acc = 0;
    for (int64_t k = begin; k < end; ++k) acc += q.q[t * q.stride + k] * w.At(n, k);
    const F s = q.scale[t * q.num_groups() + g];
    const F scale = WeightScale<F>(w, n, g);
    return static_cast<F>(acc) * (w.num_groups() == 1 ? scale / s : scale * (1 / s));
  }

  static void AttendHead(const PagedAttentionParams<F>& p, int64_t t, int64_t head,
                         int64_t kv_head) {
    const int64_t hd = p.kv.head_dim;
    const int64_t last = p.positions[t];
    const int64_t first = p.window > 0 ? std::max<int64_t>(0, last - p.window + 1) : 0;
    const int32_t* blocks = p.block_tables.row(p.sequence[t]);
    const F* q = p.q.row(t) + head * hd;
    std::vector<F> x(hd);
    auto load = [&](int64_t position, const std::byte* data) {
      const int64_t block = blocks[position / kKvBlockTokens];
      LoadKv(p.kv, data, block * kKvBlockTokens + position % kKvBlockTokens, kv_head, x.data());
    };
    std::vector<F> weights;
    F largest = -std::numeric_limits<F>::infinity();
    for (int64_t position = first; position <= last; ++position) {
      load(position, p.kv.k);
      F score = 0;
      for (int64_t i = 0; i < hd; ++i) score += q[i] * x[i];
      weights.push_back(score * p.scale);
      largest = std::max(largest, weights.back());
    }
    F total = 0;
    for (F& weight : weights) total += weight = std::exp(weight - largest);
    F* o = p.o.row(t) + head * hd;
    std::fill_n(o, hd, F(0));
    for (int64_t position = first; position <= last; ++position) {
      load(position, p.kv.v);
      const F probability = weights[position - first] / total;
      for (int64_t i = 0; i < hd; ++i) o[i] += probability * x[i];
    }
  }
};

}  // namespace

template <typename F>
std::unique_ptr<Ops<F>> CreateReferenceOps() {
  return std::make_unique<ReferenceOps<F>>();
}

template std::unique_ptr<Ops<float>> CreateReferenceOps<float>();
template std::unique_ptr<Ops<double>> CreateReferenceOps<double>();

}  // namespace sterna
