// The float kernels, written once over a vector type `V` that each instruction set's file defines
// (the list of what V provides is at VectorKernels below).
//
// Everything is in an unnamed namespace on purpose, although this is a header: each of the files
// that include it must get its own copy with internal linkage (kernel_table.h says why).
//
// Sums run in an order fixed by the number of elements: lane l of accumulator a takes the vectors
// a, a + 4, a + 8, ... and one tree adds up the rest.
#ifndef STERNA_KERNELS_CPU_VECTOR_KERNELS_H_
#define STERNA_KERNELS_CPU_VECTOR_KERNELS_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/tensor.h"

namespace sterna::cpu {
namespace {

constexpr float kMinAbsmax = 1e-5f;
constexpr float kHighestHalf = 65504.0f;
constexpr float kLog2E = 1.44269504f;
// ln 2 in two parts, the first with few enough bits that n * kLn2High is exact for |n| < 256.
constexpr float kLn2High = 0.693359375f;
constexpr float kLn2Low = -2.12194440e-4f;
// Below this exp() is taken as zero, above as its value here: both still normal floats.
constexpr float kExpLowest = -87.0f;
constexpr float kExpHighest = 88.0f;

// What V must provide, all static (Reg: a register of kLanes floats, IntReg: of int32):
//   Zero, Set(float), Load, LoadN(p, n) with zeros past n, Store, StoreN, LoadBf16, LoadBf16N,
//   LoadF16, LoadF16N, StoreF16N(p, n, x), rounding half to even what is no larger than a half can
//   be Add, Sub, Mul, Div, Fma(a, b, c) = a * b + c, Max and Min (the second operand where either
//   is NaN), Abs, Sum and Largest over lanes Round (half to even), TimesPow2(x, n) = x * 2^n,
//   SelectLess(a, b, x, y) = a < b ? x : y, SelectEqual IntZero, QuantizeN(x, n, q, sum): stores n
//   lanes rounded to int8, adds them to sum; IntSum Keep(x): x, in a register; else the compiler
//   reads memory anew at every use Sum4(a, b, c, d, out): the sums over lanes of four registers, in
//   out[0 .. 3] kDenseRegs: accumulators DenseLinear may keep in registers
template <typename V>
struct VectorKernels {
  using Reg = typename V::Reg;
  using IntReg = typename V::IntReg;
  static constexpr int kLanes = V::kLanes;

  static Reg LoadUpTo(const float* p, int64_t n) {
    return n >= kLanes ? V::Load(p) : V::LoadN(p, n);
  }
  static void StoreUpTo(float* p, int64_t n, Reg x) {
    if (n >= kLanes) {
      V::Store(p, x);
    } else {
      V::StoreN(p, n, x);
    }
  }

  // e^x, within 2 ulp for kExpLowest <= x <= kExpHighest; 0 below.
  static Reg Exp(Reg x) {
    const Reg clamped = V::Min(V::Max(x, V::Set(kExpLowest)), V::Set(kExpHighest));
    const Reg n = V::Round(V::Mul(clamped, V::Set(kLog2E)));
    Reg r = V::Fma(n, V::Set(-kLn2High), clamped);
    r = V::Fma(n, V::Set(-kLn2Low), r);
    // Cephes' minimax coefficients for (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2.
    Reg p = V::Set(1.9875691500e-4f);
    p = V::Fma(p, r, V::Set(1.3981999507e-3f));
    p = V::Fma(p, r, V::Set(8.3334519073e-3f));
    p = V::Fma(p, r, V::Set(4.1665795894e-2f));
    p = V::Fma(p, r, V::Set(1.6666665459e-1f));
    p = V::Fma(p, r, V::Set(5.0000001201e-1f));
    p = V::Fma(V::Mul(p, r), r, V::Add(r, V::Set(1.0f)));
    return V::SelectLess(x, V::Set(kExpLowest), V::Zero(), V::TimesPow2(p, n));
  }

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
    Reg absmax = V::Zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      absmax = V::Max(V::Abs(value(i, end - i)), absmax);
    }
    const float largest = V::Largest(absmax);
    const float s = 127.0f / (largest > kMinAbsmax ? largest : kMinAbsmax);
    const Reg factor = V::Set(s);
    IntReg total = V::IntZero();
    for (int64_t i = begin; i < end; i += kLanes) {
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

  static void WidenBf16(const uint16_t* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) {
      StoreUpTo(y + i, n - i, LoadWide(x + i, n - i));
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

  // The first n of kLanes values, whatever they are stored as; zeros past them.
  static Reg LoadWide(const float* p, int64_t n) { return LoadUpTo(p, n); }
  static Reg LoadWide(const uint16_t* p, int64_t n) {
    return n >= kLanes ? V::LoadBf16(p) : V::LoadBf16N(p, n);
  }
  static Reg LoadWide(const F16* p, int64_t n) {
    return n >= kLanes ? V::LoadF16(p) : V::LoadF16N(p, n);
  }

  // kRows x kTokens dot products. Each has one accumulator, so that its sum is the same in every
  // tile shape; the tile gives the processor independent chains to overlap.
  template <typename W, int kTokens, int kRows>
  static void DenseTile(const DenseTask& task, int64_t token, int64_t row) {
    const int64_t cols = task.cols;
    const float* x = task.x + token * cols;
    const W* w = static_cast<const W*>(task.w) + row * cols;
    Reg acc[kRows][kTokens];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) acc[r][t] = V::Zero();
    }
    auto step = [&](auto load_w, auto load_x, int64_t i) __attribute__((always_inline)) {
      Reg weights[kRows];
      for (int r = 0; r < kRows; ++r) {
        weights[r] = load_w(w + r * cols + i);
        __builtin_prefetch(w + (r + kRows) * cols + i);  // the next tile's
      }
      for (int t = 0; t < kTokens; ++t) {
        const Reg value = V::Keep(load_x(x + t * cols + i));
        for (int r = 0; r < kRows; ++r) acc[r][t] = V::Fma(weights[r], value, acc[r][t]);
      }
    };
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) {
      step([](const W* p) { return LoadWide(p, kLanes); },
           [](const float* p) { return V::Load(p); }, i);
    }
    const int64_t rest = cols - i;
    if (rest > 0) {
      step([=](const W* p) { return LoadWide(p, rest); },
           [=](const float* p) { return V::LoadN(p, rest); }, i);
    }
    // Four sums cost little more than one; every sum is made this way, whatever the tile.
    float sums[(kRows * kTokens + 3) / 4 * 4];
    const auto at = [&](int i) {
      return i < kRows * kTokens ? acc[i / kTokens][i % kTokens] : V::Zero();
    };
    for (int i = 0; i < kRows * kTokens; i += 4) {
      V::Sum4(at(i), at(i + 1), at(i + 2), at(i + 3), sums + i);
    }
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) {
        task.y[(token + t) * task.rows + row + r] = sums[r * kTokens + t];
      }
    }
  }

  template <typename W, int kTokens>
  static void DenseRows(const DenseTask& task, int64_t token, int64_t first, int64_t count) {
    constexpr int kFit = V::kDenseRegs / kTokens;
    constexpr int kRows = kFit < 1 ? 1 : kFit > 4 ? 4 : kFit;
    int64_t row = first;
    for (; row + kRows <= first + count; row += kRows) {
      DenseTile<W, kTokens, kRows>(task, token, row);
    }
    for (; row < first + count; ++row) DenseTile<W, kTokens, 1>(task, token, row);
  }

  template <typename W>
  static void DenseTokens(const DenseTask& task, int64_t first, int64_t count) {
    using RowsFn = void (*)(const DenseTask&, int64_t, int64_t, int64_t);
    constexpr RowsFn kByTokens[kTokenTile] = {DenseRows<W, 1>, DenseRows<W, 2>, DenseRows<W, 3>,
                                              DenseRows<W, 4>, DenseRows<W, 5>, DenseRows<W, 6>,
                                              DenseRows<W, 7>, DenseRows<W, 8>};
    for (int64_t token = 0; token < task.tokens; token += kTokenTile) {
      const int64_t left = task.tokens - token;
      kByTokens[(left < kTokenTile ? left : kTokenTile) - 1](task, token, first, count);
    }
  }

  static void DenseLinear(const DenseTask& task, int64_t first, int64_t count) {
    if (task.bf16) {
      DenseTokens<uint16_t>(task, first, count);
    } else {
      DenseTokens<float>(task, first, count);
    }
  }

  // Attention goes through a sequence in spans of this many blocks, which it weighs as one.
  static constexpr int64_t kSpanBlocks = 4;
  static constexpr int64_t kSpanTokens = kSpanBlocks * kKvBlockTokens;
  // A span's numbers for one query head.
  using SpanRow = float[kSpanTokens];

  // scores[h][j .. j+3] = q[h] . k[0 .. 3]: kHeads heads share the loading of four rows of k.
  template <int kHeads, typename E>
  static void FourScores(const float* q, const E* k, int64_t hd, int64_t j, SpanRow* scores) {
    Reg acc[kHeads][4];
    for (int h = 0; h < kHeads; ++h) {
      for (int r = 0; r < 4; ++r) acc[h][r] = V::Zero();
    }
    const auto step = [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      Reg rows[4];
      for (int r = 0; r < 4; ++r) rows[r] = LoadWide(k + r * hd + i, n);
      for (int h = 0; h < kHeads; ++h) {
        const Reg x = LoadUpTo(q + h * hd + i, n);
        for (int r = 0; r < 4; ++r) acc[h][r] = V::Fma(x, rows[r], acc[h][r]);
      }
    };
    int64_t i = 0;
    for (; i + kLanes <= hd; i += kLanes) step(i, kLanes);
    if (i < hd) step(i, hd - i);
    for (int h = 0; h < kHeads; ++h) {
      V::Sum4(acc[h][0], acc[h][1], acc[h][2], acc[h][3], scores[h] + j);
    }
  }

  // o[h] = o[h] * keep[h] + sum of weights[h][j] * v[j] over j = begin .. end-1, in order of j; row
  // j is row j % kKvBlockTokens of blocks[j / kKvBlockTokens].
  template <int kHeads, typename E>
  static void AddValues(const E* const* blocks, const SpanRow* weights, int64_t begin, int64_t end,
                        const float* keep, int64_t hd, float* o) {
    // kRegs registers of columns from i on, `n` of them there.
    const auto columns = [&]<int kRegs>(int64_t i, int64_t n) __attribute__((always_inline)) {
      Reg acc[kHeads][kRegs];
      for (int h = 0; h < kHeads; ++h) {
        for (int r = 0; r < kRegs; ++r) {
          const float* p = o + h * hd + i + r * kLanes;
          acc[h][r] = V::Mul(LoadUpTo(p, n - r * kLanes), V::Set(keep[h]));
        }
      }
      for (int64_t j = begin; j < end; ++j) {
        const E* v = blocks[j / kKvBlockTokens] + j % kKvBlockTokens * hd + i;
        Reg value[kRegs];
        for (int r = 0; r < kRegs; ++r) {
          value[r] = LoadWide(v + r * kLanes, n - r * kLanes);
        }
        for (int h = 0; h < kHeads; ++h) {
          const Reg weight = V::Set(weights[h][j]);
          for (int r = 0; r < kRegs; ++r) acc[h][r] = V::Fma(weight, value[r], acc[h][r]);
        }
      }
      for (int h = 0; h < kHeads; ++h) {
        for (int r = 0; r < kRegs; ++r) {
          StoreUpTo(o + h * hd + i + r * kLanes, n - r * kLanes, acc[h][r]);
        }
      }
    };
    int64_t i = 0;
    for (; i + 4 * kLanes <= hd; i += 4 * kLanes) columns.template operator()<4>(i, 4 * kLanes);
    for (; i < hd; i += kLanes) columns.template operator()<1>(i, hd - i);
  }

  // The running state of one query head's softmax: o holds sum of weight * v, both relative to
  // exp(largest).
  struct Softmax {
    float largest;
    float total;
  };

  // Takes one span into `state`. `scores` holds q . k for positions begin .. end-1 and becomes
  // their weights; returns the factor for what o holds so far.
  static float Weigh(SpanRow& scores, float scale, int64_t begin, int64_t end, Softmax& state) {
    for (int64_t j = 0; j < begin; ++j) scores[j] = -__builtin_inff();
    for (int64_t j = end; j % kLanes != 0; ++j) scores[j] = -__builtin_inff();
    const Reg factor = V::Set(scale);
    Reg most = V::Set(state.largest);
    for (int64_t j = 0; j < end; j += kLanes) {
      most = V::Max(V::Mul(V::Load(scores + j), factor), most);
    }
    const Reg largest = V::Set(V::Largest(most));
    Reg sum = V::Zero();
    for (int64_t j = 0; j < end; j += kLanes) {
      const Reg weight = Exp(V::Sub(V::Mul(V::Load(scores + j), factor), largest));
      V::Store(scores + j, weight);
      sum = V::Add(sum, weight);
    }
    const float keep = V::Largest(Exp(V::Sub(V::Set(state.largest), largest)));
    state.largest = V::Largest(largest);
    state.total = state.total * keep + V::Sum(sum);
    return keep;
  }

  // Calls body<2>(h) for pairs of heads and body<1>(h) for one that is left.
  template <typename Body>
  static void ForHeads(int64_t heads, const Body& body) {
    int64_t h = 0;
    for (; h + 2 <= heads; h += 2) body.template operator()<2>(h);
    if (h < heads) body.template operator()<1>(h);
  }

  // Asks for a block of K or V: the hardware does not know where the next one is.
  template <typename E>
  static void PrefetchBlock(const E* block, int64_t hd) {
    constexpr int64_t kLineElements = 64 / sizeof(E);
    for (int64_t i = 0; i < kKvBlockTokens * hd; i += kLineElements) __builtin_prefetch(block + i);
  }

  // Spans in order of position, cut at multiples of kSpanBlocks blocks whatever is attended. All
  // heads of the group do one part of a span before the next: K and V are in the first-level cache
  // for all but the first, and heads do not wait for one another.
  template <typename E>
  static void Attend(const AttentionTask& task) {
    constexpr int kHeadTile = 16;
    const int64_t hd = task.head_dim;
    const E* k = static_cast<const E*>(task.k);
    const E* v = static_cast<const E*>(task.v);
    const int64_t first_block = task.first / kKvBlockTokens;
    const int64_t last_block = task.last / kKvBlockTokens;
    for (int64_t head = 0; head < task.heads; head += kHeadTile) {
      const int64_t heads = task.heads - head < kHeadTile ? task.heads - head : kHeadTile;
      const float* q = task.q + head * hd;
      float* o = task.o + head * hd;
      Softmax state[kHeadTile];
      SpanRow weights[kHeadTile];
      for (int64_t i = 0; i < heads * hd; ++i) o[i] = 0.0f;
      for (int64_t h = 0; h < heads; ++h) state[h] = {-__builtin_inff(), 0.0f};
      for (int64_t span = first_block / kSpanBlocks * kSpanBlocks; span <= last_block;
           span += kSpanBlocks) {
        // Positions are relative to the span from here on.
        const int64_t start = span * kKvBlockTokens;
        const int64_t begin = task.first > start ? task.first - start : 0;
        const int64_t end =
            task.last - start + 1 < kSpanTokens ? task.last - start + 1 : kSpanTokens;
        const E* values[kSpanBlocks];
        for (int64_t b = begin / kKvBlockTokens; b * kKvBlockTokens < end; ++b) {
          const int64_t offset = task.block_table[span + b] * task.block_stride;
          values[b] = v + offset;
          PrefetchBlock(values[b], hd);
          if (span + b < last_block) {
            PrefetchBlock(k + task.block_table[span + b + 1] * task.block_stride, hd);
          }
          // Four scores at once, though some may not be attended: a block is whole in memory.
          const int64_t from = b * kKvBlockTokens;
          const int64_t to = end - from < kKvBlockTokens ? end - from : kKvBlockTokens;
          ForHeads(heads, [&]<int kHeads>(int64_t h) {
            for (int64_t j = 0; j < to; j += 4) {
              FourScores<kHeads>(q + h * hd, k + offset + j * hd, hd, from + j, weights + h);
            }
          });
        }
        float keep[kHeadTile];
        for (int64_t h = 0; h < heads; ++h) {
          keep[h] = Weigh(weights[h], task.scale, begin, end, state[h]);
        }
        ForHeads(heads, [&]<int kHeads>(int64_t h) {
          AddValues<kHeads>(values, weights + h, begin, end, keep + h, hd, o + h * hd);
        });
      }
      for (int64_t h = 0; h < heads; ++h) {
        const Reg inverse = V::Set(1.0f / state[h].total);
        for (int64_t i = 0; i < hd; i += kLanes) {
          float* p = o + h * hd + i;
          StoreUpTo(p, hd - i, V::Mul(LoadUpTo(p, hd - i), inverse));
        }
      }
    }
  }

  static void Attention(const AttentionTask& task) {
    if (task.f16) {
      Attend<F16>(task);
    } else {
      Attend<float>(task);
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

  // The table of this instruction set.
  static constexpr CpuKernels Table(const char* name,
                                    void (*ternary_linear)(const TernaryTask&, int64_t, int64_t)) {
    return {name,     ternary_linear,  DenseLinear, WidenBf16, NarrowF16, RmsNorm,   NormQuantize,
            SiluGate, ReluSquaredGate, Rotate,      Attention, LargestOf, WeightSum, Weights};
  }
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_VECTOR_KERNELS_H_
