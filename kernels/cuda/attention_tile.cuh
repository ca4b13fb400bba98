// What attention does to one tile of K and V in shared memory, for the rows of one block: the
// arithmetic that decides results' bits, whoever calls it.
//
// For a row: s = q . k * scale * log2(e) for each position, -infinity for those it does not see;
//   m' = max(m, s);  p = 2^(s - m');  l = l * 2^(m - m') + sum of p;  o = o * 2^(m - m') + p . V.
// Products are those of tensor cores, f16 with f32 sums; K and V, halves or int8, are exact in f16.
// Each tile's p is rounded to f16 (V's scale in it): 11 bits of a weight, whose errors average out.
// q is not: an error of 2^-11 of a score of 50 is 2% of its weight, and large scores come from a
// few channels that do not average. So q is taken in two f16 parts, 22 bits, after a power of two
// has brought its row's largest magnitude to 2^14 .. 2^15, where both parts are normal numbers.
// That is three products for each two, which decoding has time for while it waits for memory.
#ifndef STERNA_KERNELS_CUDA_ATTENTION_TILE_CUH_
#define STERNA_KERNELS_CUDA_ATTENTION_TILE_CUH_

#include <cmath>
#include <cstdint>

#include "kernels/cuda/attention_plan.cuh"
#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {

// How the cache's elements are stored, and become operands. Matrix products are of 16 dims or
// positions and 8 outputs; which dim is which column of the operands is the element's choice.
struct F16Element {
  static constexpr int kBytes = 2;
  static constexpr bool kScaled = false;  // with a scale for each vector
  static constexpr float kUnscaleValues = 1.0f;

  // Column of q's operand that `dim` is.
  __device__ static int QueryColumn(int dim) { return dim; }
  // The operands of 16 positions, from the row of K on, and dims 16 `k` ..: b[n] for positions 8n.
  __device__ static void LoadKeys(const uint8_t* rows, int stride, int k, uint32_t (&b)[2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint32_t r[4];
    LoadMatrices(r, rows + (lane / 16 * 8 + lane % 8) * stride + (2 * k + lane / 8 % 2) * 16);
    b[0][0] = r[0];
    b[0][1] = r[1];
    b[1][0] = r[2];
    b[1][1] = r[3];
  }
  // The operands of 32 positions, from the row of V on, and dims 16 `group` ..: b[k][n] for
  // positions 16k and outputs n.
  __device__ static void LoadValues(const uint8_t* rows, int stride, int group,
                                    uint32_t (&b)[2][2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      uint32_t r[4];
      LoadMatricesTransposed(r,
                             rows + (k * 16 + lane % 16) * stride + (2 * group + lane / 16) * 16);
      b[k][0][0] = r[0];
      b[k][0][1] = r[1];
      b[k][1][0] = r[2];
      b[k][1][1] = r[3];
    }
  }
  // This lane's outputs of 16 dims are two pairs of neighbours: where a pair begins, and which of
  // the products' outputs n and columns i they are.
  __device__ static int PairDim(int pair, int lane) { return pair * 8 + lane % 4 * 2; }
  __device__ static constexpr int OutputOf(int pair, int /*which*/) { return pair; }
  __device__ static constexpr int ColumnOf(int /*pair*/, int which) { return which; }
};

struct I8Element {
  static constexpr int kBytes = 1;
  static constexpr bool kScaled = true;
  // V's scale times a weight, as f16: so that scales up to 511, values up to 65000 as in an f16
  // cache, do not overflow and the smallest of them, 1e-5 / 127, is not lost.
  static constexpr float kScaleValues = 128.0f;
  static constexpr float kUnscaleValues = 1.0f / kScaleValues;

  // Four bytes that lie together make two operands of two: the even ones and the odd ones.
  __device__ static int QueryColumn(int dim) { return dim / 16 * 16 + dim % 2 * 8 + dim % 16 / 2; }
  __device__ static void LoadKeys(const uint8_t* rows, int stride, int k, uint32_t (&b)[2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint8_t* const four = rows + (n * 8 + lane / 4) * stride + k * 16 + lane % 4 * 4;
      UnpackI8(*reinterpret_cast<const uint32_t*>(four), b[n][0], b[n][1]);
    }
  }
  // Transposed as elements of 16 bits, which are two dims of one position.
  __device__ static void LoadValues(const uint8_t* rows, int stride, int group,
                                    uint32_t (&b)[2][2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint32_t r[4];
    LoadMatricesTransposed(r, rows + lane * stride + group * 16);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        UnpackI8(r[2 * k + half], b[k][0][half], b[k][1][half]);
      }
    }
  }
  __device__ static int PairDim(int pair, int lane) { return lane % 4 * 4 + pair * 2; }
  __device__ static constexpr int OutputOf(int /*pair*/, int which) { return which; }
  __device__ static constexpr int ColumnOf(int pair, int /*which*/) { return pair; }
};

// Sizes for elements E and heads of up to kHd dims. Rows in shared memory lie at odd numbers of 16
// bytes: the eight that a warp reads at once lie in different banks.
template <typename E, int kHd_>
struct HeadTile {
  using Element = E;
  static constexpr int kHd = kHd_;
  static constexpr int kGroups = kHd / 16;
  static constexpr int kQueryStride = kHd * 2 + 16;
  static constexpr int kChunks = kHd * E::kBytes / 16;  // of a row
  static constexpr int kStride = kChunks * 16 + 16;
  static_assert(kHd % 32 == 0, "");
  // A buffer holds a tile of K or of V; one of K also both's scales.
  static constexpr int kScalesAt = kAttentionTile * kStride;
  static constexpr int kBufferBytes = kScalesAt + (E::kScaled ? 2 * kAttentionTile * 4 : 0);
  // As many as leave room for two blocks on an SM of sm_90, and for one of sm_80.
  static constexpr int kBuffers = kHd * E::kBytes > 256 ? 2 : 4;
  // On an SM, for which the compiler leaves registers.
  static constexpr int kBlocks = kHd > 128 ? 2 : 3;
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

// q . k of the warp's part of a tile; `queries`: both parts of q, the second kRows rows behind.
template <typename P>
__device__ __forceinline__ void MultiplyKeys(const uint8_t* queries, const uint8_t* keys,
                                             Scores<P>& s) {
  using T = typename P::Tile;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const uint8_t* const high =
      queries + (P::FirstRow() + lane % 16) * T::kQueryStride + lane / 16 * 16;
  const uint8_t* const low = high + P::kRows * T::kQueryStride;
#pragma unroll
  for (int i = 0; i < P::kScoreGroups; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) s[i][j / 4][j % 4] = 0.0f;
  }
  // Not unrolled: operands that are loaded far ahead take registers that there are not.
#pragma unroll 1
  for (int k = 0; k < T::kGroups; ++k) {
    uint32_t a[2][4];
    LoadMatrices(a[0], high + k * 32);
    LoadMatrices(a[1], low + k * 32);
#pragma unroll
    for (int i = 0; i < P::kScoreGroups; ++i) {
      uint32_t b[2][2];
      P::Element::LoadKeys(keys + P::ScoreGroup(i) * 16 * T::kStride, T::kStride, k, b);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
#pragma unroll
        for (int n = 0; n < 2; ++n) MmaF16(s[i][n], a[part], b[n][0], b[n][1]);
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

// Turns the scores of 16 positions into weights 2^(s - base) as an operand of V's product. Returns
// each row's sum over this lane's positions.
template <typename P>
__device__ __forceinline__ void Weigh(const float (&base)[2], int group, const uint8_t* keys,
                                      float (&s)[2][4], uint32_t (&weights)[4], float (&sum)[2]) {
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
  for (int n = 0; n < 2; ++n) {
    weights[2 * n] = PackF16(s[n][0], s[n][1]);
    weights[2 * n + 1] = PackF16(s[n][2], s[n][3]);
  }
}

// o = o * keep + weights . values, for the warp's dims.
template <typename P>
__device__ __forceinline__ void AddValues(const uint32_t (&weights)[4][4], const float (&keep)[2],
                                          const uint8_t* values, Outputs<P>& o) {
  using T = typename P::Tile;
#pragma unroll
  for (int i = 0; i < P::kValueGroups; ++i) {
    if (!P::HasValueGroup(i)) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) o[i][j / 4][j % 4] *= keep[j % 4 / 2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[2][2][2];
      P::Element::LoadValues(values + half * 32 * T::kStride, T::kStride, P::ValueGroup(i), b);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          MmaF16(o[i][n], weights[half * 2 + k], b[k][n][0], b[k][n][1]);
        }
      }
    }
  }
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ATTENTION_TILE_CUH_
