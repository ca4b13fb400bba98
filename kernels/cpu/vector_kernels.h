// The float kernels and the table of an instruction set, written once over the vector type of
// vector_math.h; attention is in vector_attention.h, dense products are in vector_dense.h.
//
// Sums run in an order fixed by the number of elements: lane l of accumulator a takes the vectors
// a, a + 4, a + 8, ... and one tree adds up the rest.
#ifndef STERNA_KERNELS_CPU_VECTOR_KERNELS_H_
#define STERNA_KERNELS_CPU_VECTOR_KERNELS_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vector_attention.h"
#include "kernels/cpu/vector_dense.h"
#include "kernels/cpu/vector_math.h"

namespace sterna::cpu {
namespace {

constexpr float kMinAbsmax = 1e-5f;
// kLargestHalf of half_float.h, whose inline functions must not be compiled here (kernel_table.h).
constexpr float kHighestHalf = 65504.0f;

template <typename V>
struct VectorKernels : VectorMath<V> {
  using Math = VectorMath<V>;
  using typename Math::Reg;
  using IntReg = typename V::IntReg;
  using Math::Exp;
  using Math::kLanes;
  using Math::LoadUpTo;
  using Math::StoreUpTo;

  static float SumOfSquares(const float* x, int64_t n) {
    Reg a = V::Zero(), b = V::Zero(), c = V::Zero(), d = V::Zero();
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      const Reg x0 = V::Load(x + i), x1 = V::Load(x + i + kLanes);
      const Reg x2 = V::Load(x + i + 2 * kLanes), x3 = V::Load(x + i + 3 * kLanes);
      a = V::Fma(x0, x0, a);
      b = V::Fma(x1, x1, b);
      c = V::Fma(x2, x2, c);
      d = V::Fma(x3, x3, d);
    }
    for (; i < n; i += kLanes) {
      const Reg v = LoadUpTo(x + i, n - i);
      a = V::Fma(v, v, a);
    }
    return V::Sum(V::Add(V::Add(a, b), V::Add(c, d)));
  }

  static float InverseRms(const float* x, float eps, int64_t n) {
    return 1.0f / __builtin_sqrtf(SumOfSquares(x, n) / static_cast<float>(n) + eps);
  }

  static void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* y) {
    const Reg inverse = V::Set(InverseRms(x, eps, n));
    for (int64_t i = 0; i < n; i += kLanes) {
      const Reg v = V::Mul(LoadUpTo(x + i, n - i), inverse);
      StoreUpTo(y + i, n - i, V::Mul(v, LoadUpTo(weight + i, n - i)));
    }
  }

  // Quantises values of columns begin .. end-1, `value(i, n)` giving those from i on.
  template <typename Value>
  static void QuantizeGroup(Value value, int64_t begin, int64_t end, int8_t* q, float* scale,
                            int32_t* sum) {
    Reg a = V::Zero(), b = V::Zero(), c = V::Zero(), d = V::Zero();
    int64_t i = begin;
    for (; i + 4 * kLanes <= end; i += 4 * kLanes) {
      a = V::Max(V::Abs(value(i, kLanes)), a);
      b = V::Max(V::Abs(value(i + kLanes, kLanes)), b);
      c = V::Max(V::Abs(value(i + 2 * kLanes, kLanes)), c);
      d = V::Max(V::Abs(value(i + 3 * kLanes, kLanes)), d);
    }
    for (; i < end; i += kLanes) a = V::Max(V::Abs(value(i, end - i)), a);
    const float largest = V::Largest(V::Max(V::Max(a, b), V::Max(c, d)));
    const float s = 127.0f / (largest > kMinAbsmax ? largest : kMinAbsmax);
    const Reg factor = V::Set(s);
    IntReg total = V::IntZero();
    for (i = begin; i < end; i += kLanes) {
      const int64_t n = end - i < kLanes ? end - i : kLanes;
      total = V::QuantizeN(V::Mul(value(i, end - i), factor), n, q + i, total);
    }
    *scale = s;
    *sum = V::IntSum(total);
  }

  // The normed values are computed twice rather than kept: a row stays in the first-level cache.
  static void NormQuantize(const float* x, const float* weight, float eps,
                           const QuantizedRow& out) {
    const Reg inverse = V::Set(weight == nullptr ? 1.0f : InverseRms(x, eps, out.cols));
    auto normed = [&](int64_t i, int64_t n) {
      return V::Mul(V::Mul(LoadUpTo(x + i, n), inverse), LoadUpTo(weight + i, n));
    };
    auto plain = [&](int64_t i, int64_t n) { return LoadUpTo(x + i, n); };
    int64_t group = 0;
    for (int64_t begin = 0; begin < out.cols; begin += out.group_size, ++group) {
      const int64_t end = begin + out.group_size < out.cols ? begin + out.group_size : out.cols;
      if (weight != nullptr) {
        QuantizeGroup(normed, begin, end, out.q, out.scale + group, out.sum + group);
      } else {
        QuantizeGroup(plain, begin, end, out.q, out.scale + group, out.sum + group);
      }
    }
    for (int64_t i = out.cols; i < out.stride; ++i) out.q[i] = 0;
  }

  static void SiluGate(const float* gate, const float* up, int64_t n, float* h) {
    const Reg one = V::Set(1.0f);
    for (int64_t i = 0; i < n; i += kLanes) {
      const Reg g = LoadUpTo(gate + i, n - i);
      const Reg silu = V::Div(g, V::Add(one, Exp(V::Sub(V::Zero(), g))));
      StoreUpTo(h + i, n - i, V::Mul(silu, LoadUpTo(up + i, n - i)));
    }
  }

  static void ReluSquaredGate(const float* gate, const float* up, int64_t n, float* h) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const Reg relu = V::Max(V::Zero(), LoadUpTo(gate + i, n - i));  // this order keeps a NaN
      StoreUpTo(h + i, n - i, V::Mul(V::Mul(relu, relu), LoadUpTo(up + i, n - i)));
    }
  }

  static void Rotate(float* head, const float* cos, const float* sin, int64_t half) {
    for (int64_t i = 0; i < half; i += kLanes) {
      const int64_t n = half - i;
      const Reg a = LoadUpTo(head + i, n), b = LoadUpTo(head + half + i, n);
      const Reg c = LoadUpTo(cos + i, n), s = LoadUpTo(sin + i, n);
      StoreUpTo(head + i, n, V::Sub(V::Mul(a, c), V::Mul(b, s)));
      StoreUpTo(head + half + i, n, V::Add(V::Mul(b, c), V::Mul(a, s)));
    }
  }

  static void NarrowF16(const float* x, int64_t n, F16* y) {
    const Reg highest = V::Set(kHighestHalf), lowest = V::Set(-kHighestHalf);
    for (int64_t i = 0; i < n; i += kLanes) {
      const int64_t count = n - i < kLanes ? n - i : kLanes;
      // In this order NaN stays.
      V::StoreF16N(y + i, count, V::Max(lowest, V::Min(highest, LoadUpTo(x + i, count))));
    }
  }

  static float LargestOf(const float* x, int64_t n) {
    const Reg lowest = V::Set(-__builtin_inff());
    Reg largest = lowest;
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) largest = V::Max(V::Load(x + i), largest);
    float result = V::Largest(largest);
    for (; i < n; ++i) {
      if (x[i] > result) result = x[i];
    }
    return result;
  }

  static Reg SampleWeight(Reg x, Reg largest, Reg slope) {
    const Reg logit = V::SelectEqual(x, x, x, V::Set(-__builtin_inff()));
    const Reg weight = Exp(V::Mul(V::Sub(logit, largest), slope));
    return V::SelectEqual(logit, largest, V::Set(1.0f), weight);
  }

  static float WeightSum(const float* x, int64_t n, float largest, float slope) {
    const Reg top = V::Set(largest), steep = V::Set(slope);
    Reg sum = V::Zero();
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      sum = V::Add(sum, SampleWeight(V::Load(x + i), top, steep));
    }
    if (i < n) {
      float last[kLanes] = {};
      V::StoreN(last, n - i, SampleWeight(V::LoadN(x + i, n - i), top, steep));
      sum = V::Add(sum, V::Load(last));
    }
    return V::Sum(sum);
  }

  static void Weights(const float* x, int64_t n, float largest, float slope, float* out) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const Reg weight = SampleWeight(LoadUpTo(x + i, n - i), V::Set(largest), V::Set(slope));
      StoreUpTo(out + i, n - i, weight);
    }
  }

  static void AddScaled(const float* x, const float* a, float scale, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const Reg scaled = V::Mul(V::Set(scale), LoadUpTo(a + i, n - i));
      StoreUpTo(y + i, n - i, V::Add(LoadUpTo(x + i, n - i), scaled));
    }
  }

  // The table of this instruction set.
  static constexpr CpuKernels Table(const char* name,
                                    void (*ternary_linear)(const TernaryTask&, int64_t, int64_t)) {
    return {name,
            ternary_linear,
            VectorDense<V>::Linear,
            VectorDense<V>::PackBytes,
            VectorDense<V>::Pack,
            NarrowF16,
            RmsNorm,
            NormQuantize,
            SiluGate,
            ReluSquaredGate,
            Rotate,
            VectorAttention<V>::Attention,
            LargestOf,
            WeightSum,
            Weights,
            AddScaled,
            V::kMostShortlistTokens,
            V::kChoosesStreams,
            /*amx=*/false};
  }
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_VECTOR_KERNELS_H_
