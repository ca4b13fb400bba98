// Paged attention, written once over the vector type of vector_math.h.
#ifndef STERNA_KERNELS_CPU_VECTOR_ATTENTION_H_
#define STERNA_KERNELS_CPU_VECTOR_ATTENTION_H_

#include <cstddef>
#include <cstdint>
#include <type_traits>

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
  // A span's numbers for one query.
  using SpanRow = float[kSpanTokens];

  // scores[h][j .. j+3] = q[h] . k[0 .. 3]: kQueries queries share the loading of four rows of k.
  template <int kQueries, typename E>
  static void FourScores(const float* const* q, const E* k, int64_t hd, int64_t j,
                         SpanRow* scores) {
    Reg acc[kQueries][4];
    for (int h = 0; h < kQueries; ++h) {
      for (int r = 0; r < 4; ++r) acc[h][r] = V::Zero();
    }
    const auto step = [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      Reg rows[4];
      for (int r = 0; r < 4; ++r) rows[r] = LoadWide(k + r * hd + i, n);
      for (int h = 0; h < kQueries; ++h) {
        const Reg x = LoadUpTo(q[h] + i, n);
        for (int r = 0; r < 4; ++r) acc[h][r] = V::Fma(x, rows[r], acc[h][r]);
      }
    };
    int64_t i = 0;
    for (; i + kLanes <= hd; i += kLanes) step(i, kLanes);
    if (i < hd) step(i, hd - i);
    for (int h = 0; h < kQueries; ++h) {
      V::Sum4(acc[h][0], acc[h][1], acc[h][2], acc[h][3], scores[h] + j);
    }
  }

  // o[h] = o[h] * keep[h] + sum of weights[h][j] * v[j] over j = begin .. end-1, in order of j; row
  // j is row j % kKvBlockTokens of blocks[j / kKvBlockTokens].
  template <int kQueries, typename E>
  static void AddValues(const E* const* blocks, const SpanRow* weights, int64_t begin, int64_t end,
                        const float* keep, int64_t hd, float* const* o) {
    // kRegs registers of columns from i on, `n` of them there.
    const auto columns = [&]<int kRegs>(int64_t i, int64_t n) __attribute__((always_inline)) {
      Reg acc[kQueries][kRegs];
      for (int h = 0; h < kQueries; ++h) {
        for (int r = 0; r < kRegs; ++r) {
          const float* p = o[h] + i + r * kLanes;
          acc[h][r] = V::Mul(LoadUpTo(p, n - r * kLanes), V::Set(keep[h]));
        }
      }
      for (int64_t j = begin; j < end; ++j) {
        const E* v = blocks[j / kKvBlockTokens] + j % kKvBlockTokens * hd + i;
        Reg value[kRegs];
        for (int r = 0; r < kRegs; ++r) {
          value[r] = LoadWide(v + r * kLanes, n - r * kLanes);
        }
        for (int h = 0; h < kQueries; ++h) {
          const Reg weight = V::Set(weights[h][j]);
          for (int r = 0; r < kRegs; ++r) acc[h][r] = V::Fma(weight, value[r], acc[h][r]);
        }
      }
      for (int h = 0; h < kQueries; ++h) {
        for (int r = 0; r < kRegs; ++r) {
          StoreUpTo(o[h] + i + r * kLanes, n - r * kLanes, acc[h][r]);
        }
      }
    };
    int64_t i = 0;
    for (; i + 4 * kLanes <= hd; i += 4 * kLanes) columns.template operator()<4>(i, 4 * kLanes);
    for (; i < hd; i += kLanes) columns.template operator()<1>(i, hd - i);
  }

  // The running state of one query's softmax: o holds sum of weight * v, both relative to
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

  // Calls body<n>(h) for queries first .. last-1, as many together as registers allow.
  template <typename Body>
  static void ForQueries(int64_t first, int64_t last, const Body& body) {
    int64_t h = first;
    if constexpr (V::kQueryTile == 4) {
      for (; h + 4 <= last; h += 4) body.template operator()<4>(h);
    }
    for (; h + 2 <= last; h += 2) body.template operator()<2>(h);
    if (h < last) body.template operator()<1>(h);
  }

  // numbers[i] *= the scale of row i of `block`, if there are scales, for its first `rows` rows.
  template <typename E>
  static void TimesScales(const E* block, int64_t scale_offset, int64_t rows, float* numbers) {
    if constexpr (std::is_same_v<E, int8_t>) {
      const float* scales = reinterpret_cast<const float*>(block + scale_offset);
      for (int64_t i = 0; i < rows; i += kLanes) {
        const int64_t n = rows - i;
        StoreUpTo(numbers + i, n, V::Mul(LoadUpTo(numbers + i, n), LoadUpTo(scales + i, n)));
      }
    }
  }

  // Asks for a block of K or V: the hardware does not know where the next one is.
  static void PrefetchBlock(const std::byte* block, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(block + i);
  }

  // Spans in order of position, cut at multiples of kSpanBlocks blocks whatever is attended. All
  // queries do one part of a span before the next: K and V are in the first-level cache for all but
  // the first, and queries do not wait for one another. What a query computes, and in which order,
  // does not depend on the others.
  template <typename E>
  static void Attend(const AttentionTask& task, int64_t head, int64_t heads) {
    const int64_t hd = task.head_dim;
    const int64_t queries = task.tokens * heads;  // token by token
    const float* q[kAttentionQueries];
    float* o[kAttentionQueries];
    Softmax state[kAttentionQueries];
    SpanRow weights[kAttentionQueries];
    int64_t last_of[kAttentionQueries];
    for (int64_t h = 0, t = 0; t < task.tokens; ++t) {
      for (int64_t i = 0; i < heads; ++i, ++h) {
        const int64_t offset = t * task.token_stride + (head + i) * hd;
        q[h] = task.q + offset;
        o[h] = task.o + offset;
        for (int64_t col = 0; col < hd; ++col) o[h][col] = 0.0f;
        state[h] = {-__builtin_inff(), 0.0f};
        last_of[h] = task.last + t;
      }
    }
    const int64_t last_block = last_of[queries - 1] / kKvBlockTokens;
    for (int64_t span = task.first / kKvBlockTokens / kSpanBlocks * kSpanBlocks; span <= last_block;
         span += kSpanBlocks) {
      // Positions are relative to the span from here on.
      const int64_t start = span * kKvBlockTokens;
      const int64_t begin = task.first > start ? task.first - start : 0;
      const auto end_of = [&](int64_t h) {
        const int64_t end = last_of[h] - start + 1;
        return end < kSpanTokens ? end : kSpanTokens;
      };
      // Earlier tokens may end before the span.
      const int64_t active = task.last >= start ? 0 : (start - task.last) * heads;
      const int64_t end = end_of(queries - 1);
      const E* values[kSpanBlocks];
      for (int64_t b = begin / kKvBlockTokens; b * kKvBlockTokens < end; ++b) {
        const int64_t offset = task.block_table[span + b] * task.block_stride;
        const E* keys = reinterpret_cast<const E*>(task.k + offset);
        values[b] = reinterpret_cast<const E*>(task.v + offset);
        PrefetchBlock(task.v + offset, task.block_bytes);
        if (span + b < last_block) {
          PrefetchBlock(task.k + task.block_table[span + b + 1] * task.block_stride,
                        task.block_bytes);
        }
        // Four scores at once, though some may not be attended: a block is whole in memory.
        const int64_t from = b * kKvBlockTokens;
        const int64_t to = end - from < kKvBlockTokens ? end - from : kKvBlockTokens;
        ForQueries(active, queries, [&]<int kQueries>(int64_t h) {
          for (int64_t j = 0; j < to; j += 4) {
            FourScores<kQueries>(q + h, keys + j * hd, hd, from + j, weights + h);
          }
          for (int64_t i = h; i < h + kQueries; ++i) {
            TimesScales(keys, task.scale_offset, to, weights[i] + from);
          }
        });
      }
      float keep[kAttentionQueries];
      for (int64_t h = active; h < queries; ++h) {
        const int64_t last = end_of(h);
        keep[h] = Weigh(weights[h], task.scale, begin, last, state[h]);
        for (int64_t b = begin / kKvBlockTokens; b * kKvBlockTokens < last; ++b) {
          const int64_t from = b * kKvBlockTokens;
          const int64_t to = last - from < kKvBlockTokens ? last - from : kKvBlockTokens;
          TimesScales(values[b], task.scale_offset, to, weights[h] + from);
        }
      }
      ForQueries(active, queries, [&]<int kQueries>(int64_t h) {
        const int64_t common = end_of(h);
        AddValues<kQueries>(values, weights + h, begin, common, keep + h, hd, o + h);
        constexpr float kAll = 1.0f;
        for (int64_t later = h + 1; later < h + kQueries; ++later) {
          if (end_of(later) == common) continue;
          AddValues<1>(values, weights + later, common, end_of(later), &kAll, hd, o + later);
        }
      });
    }
    for (int64_t h = 0; h < queries; ++h) {
      const Reg inverse = V::Set(1.0f / state[h].total);
      for (int64_t i = 0; i < hd; i += kLanes) {
        float* p = o[h] + i;
        StoreUpTo(p, hd - i, V::Mul(LoadUpTo(p, hd - i), inverse));
      }
    }
  }

  static void Attention(const AttentionTask& task) {
    const int64_t most = kAttentionQueries / task.tokens;
    for (int64_t head = 0; head < task.heads; head += most) {
      const int64_t heads = task.heads - head < most ? task.heads - head : most;
      switch (task.kv_type) {
        case KvType::kFull:
          Attend<float>(task, head, heads);
          break;
        case KvType::kF16:
          Attend<F16>(task, head, heads);
          break;
        case KvType::kI8:
          Attend<int8_t>(task, head, heads);
          break;
        case KvType::kBf16:
        case KvType::kF8:
          break;  // CpuOps refuses them
      }
    }
  }
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_VECTOR_ATTENTION_H_
