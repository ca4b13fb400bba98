// Dense products, written once over the vector type of vector_math.h.
#ifndef STERNA_KERNELS_CPU_VECTOR_DENSE_H_
#define STERNA_KERNELS_CPU_VECTOR_DENSE_H_

#include <cstdint>
#include <utility>

#include "kernels/cpu/int8_lines.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_activations.h"
#include "kernels/cpu/prefetch.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/dense_format.h"

namespace sterna::cpu {
namespace {

template <typename V>
struct VectorDense : VectorMath<V> {
  using Math = VectorMath<V>;
  using Math::kLanes;
  using Math::LoadUpTo;
  using Math::StoreUpTo;
  using typename Math::Reg;
  using IntReg = typename V::IntReg;

  // The first line of the tiles that hold `row`; offset[r]: from there to the row that is r
  // registers further, which may be in another row block.
  template <int kRegs>
  static const uint8_t* TileRows(const DenseTask& task, int64_t row, int64_t (&offset)[kRegs]) {
    const int64_t block = task.col_blocks * kDenseTileBytes;
    for (int r = 0; r < kRegs; ++r) {
      const int64_t in_block = row % kDenseTileRows + r * kLanes;
      offset[r] = in_block / kDenseTileRows * block + in_block % kDenseTileRows * 4;
    }
    return static_cast<const uint8_t*>(task.w) + row / kDenseTileRows * block;
  }

  // Row blocks that a tile of kRegs registers reads.
  template <int kRegs>
  static constexpr int64_t kStreams =
      kRegs * kLanes > kDenseTileRows ? kRegs* kLanes / kDenseTileRows : 1;

  // kTokens x kRegs registers of sums, whose lanes are rows, from `row` on. A sum takes the columns
  // in order, so it is the same in every tile shape; the tile gives the processor independent
  // chains to overlap.
  template <int kTokens, int kRegs>
  static void TilesTile(const DenseTask& task, int64_t token, int64_t row) {
    const int64_t cols = task.cols;
    const float* x = task.x + token * cols;
    int64_t offset[kRegs];
    const uint8_t* w = TileRows(task, row, offset);
    Reg acc[kTokens][kRegs];
    for (int t = 0; t < kTokens; ++t) {
      for (int r = 0; r < kRegs; ++r) acc[t][r] = V::Zero();
    }
    const int64_t block = task.col_blocks * kDenseTileBytes;
    int64_t col = 0;
    for (; col < cols; col += 2, w += kDenseLineBytes) {
      const int64_t ahead =
          PrefetchDistance(block - col / 2 * kDenseLineBytes, kStreams<kRegs>, block);
      Reg even[kRegs], odd[kRegs];
      for (int r = 0; r < kRegs; ++r) {
        V::LoadPairs(reinterpret_cast<const uint16_t*>(w + offset[r]), even[r], odd[r]);
        __builtin_prefetch(w + offset[r] + ahead);
      }
      const bool pair = col + 1 < cols;
      for (int t = 0; t < kTokens; ++t) {
        const Reg x0 = V::Set(x[t * cols + col]);
        const Reg x1 = V::Set(pair ? x[t * cols + col + 1] : 0.0f);
        for (int r = 0; r < kRegs; ++r) {
          acc[t][r] = V::Fma(odd[r], x1, V::Fma(even[r], x0, acc[t][r]));
        }
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      float* y = task.y + (token + t) * task.rows;
      for (int r = 0; r < kRegs; ++r) {
        const int64_t first = row + r * kLanes;
        StoreUpTo(y + first, task.rows - first, acc[t][r]);
      }
    }
  }

  template <int kTokens>
  static void TilesRows(const DenseTask& task, int64_t token, int64_t first, int64_t count) {
    constexpr int kFit = V::kDenseRegs / kTokens;
    constexpr int kRegs = kFit >= 6 ? 6 : kFit >= 3 ? 3 : kFit >= 2 ? 2 : 1;
    int64_t row = first;
    for (; row + kRegs * kLanes <= first + count; row += kRegs * kLanes) {
      TilesTile<kTokens, kRegs>(task, token, row);
    }
    for (; row < first + count; row += kLanes) TilesTile<kTokens, 1>(task, token, row);
  }

  // Adds columns 4 * kJ .. 4 * kJ + 3 of kRegs registers of rows; x points at column 0.
  template <int kJ, bool kLow, int kParts, int kTokens, int kRegs, int kChains>
  [[gnu::always_inline]] static void AddInt8Columns(
      const Int8Lines<V, kLow> (&lines)[kRegs], const int8_t* x, int64_t part_bytes,
      IntReg (&acc)[kTokens][kParts][kRegs][kChains]) {
    IntReg weights[kRegs];
    for (int r = 0; r < kRegs; ++r) {
      weights[r] = V::ByteWeights(lines[r].template Codes<kJ>());
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int p = 0; p < kParts; ++p) {
        const IntReg four = V::Broadcast4(x + t * kDenseLineBytes + p * part_bytes + 4 * kJ);
        for (int r = 0; r < kRegs; ++r) {
          IntReg& sum = acc[t][p][r][kJ % kChains];
          sum = V::AddByteProducts(sum, weights[r], four);
        }
      }
    }
  }

  // As TilesTile, for int8 (kLow) and int6: an integer sum for each output and part of activations,
  // exact in any order, so in as many registers as keep the processor busy where a tile has few.
  template <bool kLow, int kParts, int kTokens, int kRegs, int kChains>
  static void Int8Tile(const DenseTask& task, int64_t token, int64_t row) {
    using Packed = PackedActivations<kInt8Parts>;
    const int64_t in_group = token % kPackedGroup;
    const int64_t group_tokens = Packed::GroupTokens(token - in_group, task.tokens);
    const auto* x = static_cast<const int8_t*>(task.packed_x) +
                    Packed::GroupOffset(token, task.col_blocks) + in_group * kDenseLineBytes;
    const int64_t part_bytes = group_tokens * kDenseLineBytes;
    const int64_t block_bytes = Packed::BlockBytes(group_tokens);
    const int64_t high_bytes = task.col_blocks * kInt8HighTileBytes;
    const int64_t low_bytes = kLow ? task.col_blocks * kInt8LowTileBytes : 0;
    const uint8_t *high[kRegs], *low[kRegs];
    for (int r = 0; r < kRegs; ++r) {
      const int64_t first = row + r * kLanes;
      const int64_t lane = first % kDenseTileRows * 4;
      high[r] = static_cast<const uint8_t*>(task.w) + first / kDenseTileRows * high_bytes + lane;
      low[r] = kLow ? task.w_low + first / kDenseTileRows * low_bytes + lane : nullptr;
    }
    IntReg acc[kTokens][kParts][kRegs][kChains];
    for (int t = 0; t < kTokens; ++t) {
      for (int p = 0; p < kParts; ++p) {
        const int32_t sum = task.x_sum[(token + t) * kInt8Parts + p];
        for (int r = 0; r < kRegs; ++r) {
          acc[t][p][r][0] = V::ByteSumStart(sum);
          for (int c = 1; c < kChains; ++c) acc[t][p][r][c] = V::IntZero();
        }
      }
    }
    for (int64_t b = 0; b < task.col_blocks; ++b, x += block_bytes) {
      const int64_t high_ahead =
          PrefetchDistance(high_bytes - b * kInt8HighTileBytes, kStreams<kRegs>, high_bytes);
      const int64_t low_ahead =
          PrefetchDistance(low_bytes - b * kInt8LowTileBytes, kStreams<kRegs>, low_bytes);
#pragma GCC unroll 1
      for (int64_t col = 0; col < kDenseLineBytes; col += kInt8GroupCols) {
        Int8Lines<V, kLow> lines[kRegs];
        for (int r = 0; r < kRegs; ++r) {
          lines[r] = Int8Lines<V, kLow>::Load(high[r], low[r]);
          for (int64_t j = 0; j < kInt8HighLines; ++j, high[r] += kDenseLineBytes) {
            __builtin_prefetch(high[r] + high_ahead);
          }
          if constexpr (kLow) {
            __builtin_prefetch(low[r] + low_ahead);
            low[r] += kDenseLineBytes;
          }
        }
        AddInt8Columns<0, kLow, kParts>(lines, x + col, part_bytes, acc);
        AddInt8Columns<1, kLow, kParts>(lines, x + col, part_bytes, acc);
        AddInt8Columns<2, kLow, kParts>(lines, x + col, part_bytes, acc);
        AddInt8Columns<3, kLow, kParts>(lines, x + col, part_bytes, acc);
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      const Reg x_scale = V::Set(task.x_scale[token + t]);
      const int32_t* x_sum = task.x_sum + (token + t) * kInt8Parts;
      const float x_total = 256.0f * static_cast<float>(x_sum[0]) + static_cast<float>(x_sum[1]);
      for (int r = 0; r < kRegs; ++r) {
        const int64_t first = row + r * kLanes;
        const auto part_sum = [&](int p) __attribute__((always_inline)) {
          IntReg sum = acc[t][p][r][0];
          for (int c = 1; c < kChains; ++c) sum = V::IntAdd(sum, acc[t][p][r][c]);
          return V::ToFloat(sum);
        };
        Reg sum = V::Mul(part_sum(0), V::Set(256.0f));
        if constexpr (kParts == 2) sum = V::Add(sum, part_sum(1));
        if constexpr (!kLow) sum = V::Sub(sum, V::Set(kInt6Excess * x_total));
        const Reg scale = V::Mul(x_scale, LoadUpTo(task.w_scale + first, task.rows - first));
        StoreUpTo(task.y + (token + t) * task.rows + first, task.rows - first, V::Mul(sum, scale));
      }
    }
  }

  template <bool kLow, int kParts, int kTokens>
  static void Int8Rows(const DenseTask& task, int64_t token, int64_t first, int64_t count) {
    // A register of rows takes its sums and four lines; four registers are spare beside kDenseRegs.
    constexpr int kFit = (V::kDenseRegs + 4) / (kTokens * kParts + 4);
    constexpr int kRegs = kFit >= 3 ? 3 : kFit >= 2 ? 2 : 1;
    // One or two tokens wait for memory, and read it as was found best (cpu_tune.cc).
    constexpr bool kWaits = V::kChoosesStreams && kTokens <= 2;
    int64_t row = first;
    if (!kWaits || task.weight_streams > 1) {
      for (; row + kRegs * kLanes <= first + count; row += kRegs * kLanes) {
        Int8Tile<kLow, kParts, kTokens, kRegs, 1>(task, token, row);
      }
    }
    for (; row < first + count; row += kLanes) {
      Int8Tile<kLow, kParts, kTokens, 1, kWaits ? 2 : 1>(task, token, row);
    }
  }

  // kRows x kTokens dot products of f32 weights, each with one accumulator.
  template <int kTokens, int kRows>
  static void DotsTile(const DenseTask& task, int64_t token, int64_t row) {
    const int64_t cols = task.cols;
    const float* x = task.x + token * cols;
    const float* w = static_cast<const float*>(task.w) + row * cols;
    Reg acc[kRows][kTokens];
    for (int r = 0; r < kRows; ++r) {
      for (int t = 0; t < kTokens; ++t) acc[r][t] = V::Zero();
    }
    const auto step = [&](int64_t i, int64_t n) __attribute__((always_inline)) {
      Reg weights[kRows];
      for (int r = 0; r < kRows; ++r) {
        weights[r] = LoadUpTo(w + r * cols + i, n);
        __builtin_prefetch(w + (r + kRows) * cols + i);  // the next tile's
      }
      for (int t = 0; t < kTokens; ++t) {
        const Reg value = V::Keep(LoadUpTo(x + t * cols + i, n));
        for (int r = 0; r < kRows; ++r) acc[r][t] = V::Fma(weights[r], value, acc[r][t]);
      }
    };
    int64_t i = 0;
    for (; i + kLanes <= cols; i += kLanes) step(i, kLanes);
    if (i < cols) step(i, cols - i);
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

  template <int kTokens>
  static void DotsRows(const DenseTask& task, int64_t token, int64_t first, int64_t count) {
    constexpr int kFit = V::kDenseRegs / kTokens;
    constexpr int kRows = kFit < 1 ? 1 : kFit > 4 ? 4 : kFit;
    int64_t row = first;
    for (; row + kRows <= first + count; row += kRows) DotsTile<kTokens, kRows>(task, token, row);
    for (; row < first + count; ++row) DotsTile<kTokens, 1>(task, token, row);
  }

  using RowsFn = void (*)(const DenseTask& task, int64_t token, int64_t first, int64_t count);

  // Tokens of an int8 tile, which has kParts sums for each: as many as registers hold, as they
  // share the unpacking; a divisor of kPackedGroup, as a tile stays within a group.
  template <int kParts>
  static constexpr int kInt8Tokens =
      static_cast<int>(V::kDenseRegs >= kPackedGroup ? kPackedGroup : kPackedGroup / 2) / kParts;

  template <bool kLow, int kParts, typename Tokens>
  struct Int8Tiles;
  template <bool kLow, int kParts, int... kTokensLessOne>
  struct Int8Tiles<kLow, kParts, std::integer_sequence<int, kTokensLessOne...>> {
    static constexpr RowsFn kRows[] = {Int8Rows<kLow, kParts, kTokensLessOne + 1>...};
  };

  template <bool kLow, int kParts>
  static void Int8Linear(const DenseTask& task, int64_t first, int64_t count) {
    constexpr int kTile = kInt8Tokens<kParts>;
    using Tiles = Int8Tiles<kLow, kParts, std::make_integer_sequence<int, kTile>>;
    for (int64_t token = 0; token < task.tokens; token += kTile) {
      const int64_t left = task.tokens - token;
      Tiles::kRows[(left < kTile ? left : kTile) - 1](task, token, first, count);
    }
  }

  static void Linear(const DenseTask& task, int64_t first, int64_t count) {
    if (task.type == DenseType::kI6) return Int8Linear<false, kInt8Parts>(task, first, count);
    if (task.type == DenseType::kI8) {
      return task.x_parts == 1 ? Int8Linear<true, 1>(task, first, count)
                               : Int8Linear<true, kInt8Parts>(task, first, count);
    }
    static constexpr RowsFn kTiles[kTokenTile] = {TilesRows<1>, TilesRows<2>, TilesRows<3>,
                                                  TilesRows<4>, TilesRows<5>, TilesRows<6>,
                                                  TilesRows<7>, TilesRows<8>};
    static constexpr RowsFn kDots[kTokenTile] = {DotsRows<1>, DotsRows<2>, DotsRows<3>,
                                                 DotsRows<4>, DotsRows<5>, DotsRows<6>,
                                                 DotsRows<7>, DotsRows<8>};
    const RowsFn* rows = task.type == DenseType::kBf16 ? kTiles : kDots;
    for (int64_t token = 0; token < task.tokens; token += kTokenTile) {
      const int64_t left = task.tokens - token;
      rows[(left < kTokenTile ? left : kTokenTile) - 1](task, token, first, count);
    }
  }

  static int64_t PackBytes(const DenseTask& /*task*/) { return 0; }
  static void Pack(const DenseTask& /*task*/, void* /*packed*/) {}
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_VECTOR_DENSE_H_
