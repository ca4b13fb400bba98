// Paged attention, written once over the vector type of vector_math.h.
#ifndef STERNA_KERNELS_CPU_VECTOR_ATTENTION_H_
#define STERNA_KERNELS_CPU_VECTOR_ATTENTION_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/tensor.h"

namespace sterna::cpu {
namespace {

template <typename V>
struct VectorAttention : VectorMath<V> {
  using Math = VectorMath<V>;
  using Math::Exp;
  using Math::kLanes;
  using Math::LoadUpTo;
  using Math::LoadWide;
  using Math::StoreUpTo;
  using typename Math::Reg;

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
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_VECTOR_ATTENTION_H_
