// What attention does to one tile of K and V in shared memory, for the rows of one block: the
// arithmetic that decides results' bits, whoever calls it.
//
// For a row: s = q . k * scale * log2(e) for each position, -infinity for those it does not see;
//   m' = max(m, s);  p = 2^(s - m');  l = l * 2^(m - m') + sum of p;  o = o * 2^(m - m') + p . V.
// Products are those of tensor cores, of f16 or bf16 with f32 sums. K and V are exact in them; q
// and p (V's scale in it) are rounded, in parts where one would be too coarse
// (attention_element.cuh).
#ifndef STERNA_KERNELS_CUDA_ATTENTION_TILE_CUH_
#define STERNA_KERNELS_CUDA_ATTENTION_TILE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/attention_element.cuh"
#include "kernels/cuda/attention_plan.cuh"
#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {

// Sizes for elements E and heads of up to kHd dims. Rows in shared memory lie at odd numbers of 16
// bytes: the eight that a warp reads at once lie in different banks.
template <typename E, int kHd_>
struct HeadTile {
  using Element = E;
  static constexpr int kHd = kHd_;
  static constexpr int kGroups = kHd / 16;
  static constexpr int kQueryStride = kHd * 2 + 16;     // half of what a row of q takes
  static constexpr int kChunks = kHd * E::kBytes / 16;  // of a row
  static constexpr int kStride = kChunks * 16 + 16;
  static_assert(kHd % 32 == 0, "");
  // A buffer holds a tile of K or of V; one of K also both's scales.
  static constexpr int kScalesAt = kAttentionTile * kStride;
  static constexpr int kBufferBytes = kScalesAt + (E::kScaled ? 2 * kAttentionTile * 4 : 0);
  // As many as leave room for two blocks on an SM of sm_90, and for one of sm_80.
  static constexpr int kBuffers = kHd * E::kBytes > 256 ? 2 : 4;
  // On an SM, for which the compiler leaves registers; weights in parts take more of them.
  static constexpr int kBlocks = kHd > (E::kWeightParts > 1 ? 96 : 128) ? 2 : 3;
};

// The part of a block's rows and work that a warp has. kMany: 16 rows of 64, of which it does
// everything. Else all warps have the same 16 rows, and each a fourth of a tile's positions in
// scores and of the dims in outputs.
template <typename Tile_, bool kMany_>
struct WarpPart {
  using Tile = Tile_;
  using Element = typename Tile::Element;
  static constexpr bool kMany = kMany_;
  static constexpr int kRows = kMany ? kManyRows : kFewRows;
  static constexpr int kScoreGroups = kMany ? 4 : 1;  // of 16 positions
  static constexpr int kValueGroups = kMany ? Tile::kGroups : (Tile::kGroups + 3) / 4;

  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ static int FirstRow() { return kMany ? warp() * 16 : 0; }
  __device__ static int ScoreGroup(int i) { return kMany ? i : warp(); }
  __device__ static int ValueGroup(int i) { return kMany ? i : i * 4 + warp(); }
  // With six groups of dims, two of the warps have one.
  __device__ static bool HasValueGroup(int i) {
    return kMany || (i + 1) * 4 <= Tile::kGroups || ValueGroup(i) < Tile::kGroups;
  }
};

template <typename P>
using Scores = float[P::kScoreGroups][2][4];  // of 16 positions: two products' outputs
template <typename P>
using Outputs = float[P::kValueGroups][2][4];  // of 16 dims
// Operands of 16 positions, in parts.
template <typename P>
using Weights = uint32_t[P::Element::kWeightParts][4][4];

// What a row sees; in shared memory.
struct alignas(16) RowView {
  int first;       // position,
  unsigned count;  // and how many; 0: there is no row
  float factor;    // of its scores
};

// The state of a lane's two rows, lane / 4 and that + 8 of the warp's.
struct LaneRows {
  float largest[2];  // m
  float sum[2];      // l, of this lane's positions
};

__device__ __forceinline__ float FourLanesMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(kFullWarp, x, 2));
}
__device__ __forceinline__ float FourLanesSum(float x) {
  x += __shfl_xor_sync(kFullWarp, x, 1);
  return x + __shfl_xor_sync(kFullWarp, x, 2);
}

// q . k of the warp's part of a tile.
template <typename P>
__device__ __forceinline__ void MultiplyKeys(const uint8_t* queries, const uint8_t* keys,
                                             Scores<P>& s) {
  using T = typename P::Tile;
  using E = typename P::Element;
#pragma unroll
  for (int i = 0; i < P::kScoreGroups; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) s[i][j / 4][j % 4] = 0.0f;
  }
  // Not unrolled: operands that are loaded far ahead take registers that there are not.
#pragma unroll 1
  for (int k = 0; k < T::kGroups; ++k) {
    uint32_t a[E::kQueryParts][4];
    E::template LoadQuery<P>(queries, k, a);
#pragma unroll
    for (int i = 0; i < P::kScoreGroups; ++i) {
      uint32_t b[2][2];
      E::LoadKeys(keys + P::ScoreGroup(i) * 16 * T::kStride, T::kStride, k, b);
#pragma unroll
      for (int part = 0; part < E::kQueryParts; ++part) {
#pragma unroll
        for (int n = 0; n < 2; ++n) E::Mma(s[i][n], a[part], b[n][0], b[n][1]);
      }
    }
  }
}

// Scores from products: scaled, and -infinity where the row does not see the position. Returns the
// largest of each row among the warp's positions.
template <typename P>
__device__ __forceinline__ void MaskScores(const RowView* views, int tile, const uint8_t* keys,
                                           Scores<P>& s, float (&largest)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const RowView* const own = views + P::FirstRow() + lane / 4;
  const RowView rows[2] = {own[0], own[8]};
  const auto* const scales = reinterpret_cast<const float*>(keys + P::Tile::kScalesAt);
  largest[0] = largest[1] = -INFINITY;
#pragma unroll
  for (int i = 0; i < P::kScoreGroups; ++i) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = j / 2;
        const int in_tile = P::ScoreGroup(i) * 16 + n * 8 + lane % 4 * 2 + j % 2;
        float score = s[i][n][j] * rows[row].factor;
        if constexpr (P::Element::kScaled) score *= scales[in_tile];
        const int position = tile * kAttentionTile + in_tile;
        // Not multiplied by zero: the scale of a place that was never written may be NaN.
        const bool seen = static_cast<unsigned>(position - rows[row].first) < rows[row].count;
        s[i][n][j] = seen ? score : -INFINITY;
        largest[row] = fmaxf(largest[row], s[i][n][j]);
      }
    }
  }
  largest[0] = FourLanesMax(largest[0]);
  largest[1] = FourLanesMax(largest[1]);
}

// Factors that bring what is relative to 2^a and 2^b to their larger; -infinity: there is nothing.
struct Together {
  float largest;
  float keep;  // 2^(a - largest)
  float add;   // 2^(b - largest)
};
__device__ __forceinline__ float FiniteOrZero(float largest) {
  return largest == -INFINITY ? 0.0f : largest;
}
__device__ __forceinline__ Together Join(float a, float b) {
  const float largest = fmaxf(a, b);
  const float base = FiniteOrZero(largest);
  return {largest, exp2f(a - base), exp2f(b - base)};
}
// Zeros keep the sum of a row, all of whose positions are elsewhere, as it is.
__device__ __forceinline__ float JoinSums(const Together& t, float a, float b) {
  return fmaf(a, t.keep, b * t.add);
}

// Turns the scores of 16 positions, tile's group `group` and weights' group `to`, into weights
// 2^(s - base). Returns each row's sum over this lane's positions.
template <typename P>
__device__ __forceinline__ void Weigh(const float (&base)[2], int group, const uint8_t* keys,
                                      int to, float (&s)[2][4], Weights<P>& weights,
                                      float (&sum)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const auto* const scales =
      reinterpret_cast<const float*>(keys + P::Tile::kScalesAt) + kAttentionTile;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) s[n][j] = exp2f(s[n][j] - base[j / 2]);
  }
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    sum[row] = s[0][2 * row] + s[0][2 * row + 1] + (s[1][2 * row] + s[1][2 * row + 1]);
  }
  if constexpr (P::Element::kScaled) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float scale = scales[group * 16 + n * 8 + lane % 4 * 2 + j % 2];
        s[n][j] = s[n][j] == 0.0f ? 0.0f : s[n][j] * (scale * P::Element::kScaleValues);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    uint32_t parts[P::Element::kWeightParts];
    P::Element::PackWeights(s[i / 2][i % 2 * 2], s[i / 2][i % 2 * 2 + 1], parts);
#pragma unroll
    for (int part = 0; part < P::Element::kWeightParts; ++part) weights[part][to][i] = parts[part];
  }
}

// o = o * keep + weights . values, for the warp's dims.
template <typename P>
__device__ __forceinline__ void AddValues(const Weights<P>& weights, const float (&keep)[2],
                                          const uint8_t* values, Outputs<P>& o) {
  using T = typename P::Tile;
  using E = typename P::Element;
#pragma unroll
  for (int i = 0; i < P::kValueGroups; ++i) {
    if (!P::HasValueGroup(i)) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) o[i][j / 4][j % 4] *= keep[j % 4 / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[2][2][2];
      E::LoadValues(values + half * 32 * T::kStride, T::kStride, P::ValueGroup(i), b);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int part = 0; part < E::kWeightParts; ++part) {
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            E::Mma(o[i][n], weights[part][half * 2 + k], b[k][n][0], b[k][n][1]);
          }
        }
      }
    }
  }
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ATTENTION_TILE_CUH_
