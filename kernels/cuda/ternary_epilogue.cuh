// From the exact sums of a ternary product to its outputs: one code for all kernels, as all must
// give the same bits.
//
// A lane has sums as MmaU8S8 has D: of rows `row` and `row` + 8 of a matrix and, in each of kTiles
// tiles of eight tokens, of two neighbours, those of the first tile being `token` and `token` + 1.
// What outputs are made of is loaded for several tiles before the first of them is stored: a store
// could otherwise hold up every load after it, as it may be to the same place.
#ifndef STERNA_KERNELS_CUDA_TERNARY_EPILOGUE_CUH_
#define STERNA_KERNELS_CUDA_TERNARY_EPILOGUE_CUH_

#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/ternary_linear.h"

namespace sterna::cuda {

// Tiles whose outputs are made together.
template <int kTokenTiles>
inline constexpr int kTilesTogether = kTokenTiles < 4 ? kTokenTiles : 4;

// Calls body(n, i, row, token) for the outputs of a lane.
template <int kTiles, typename Body>
__device__ __forceinline__ void ForLane(int row, int token, const Body& body) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) body(n, i, row + i / 2 * 8, token + n * 8 + i % 2);
  }
}

// What the tokens of a lane bring along; harmless numbers for those that are not there.
template <int kTiles>
struct TokenScales {
  float s[kTiles][2];
  int32_t sum[kTiles][2];

  __device__ __forceinline__ TokenScales(const TernaryLinearArgs& p, int token, int group) {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int t = token + n * 8 + i;
        s[n][i] = t < p.tokens ? p.s[t * p.num_groups + group] : 1.0f;
        sum[n][i] = t < p.tokens ? p.sum[t * p.num_groups + group] : 0;
      }
    }
  }
};

// The scales of a lane's two rows.
struct RowScales {
  float of[2];

  __device__ __forceinline__ RowScales(const TernaryLinearArgs& p, const TernaryWeights& w, int row,
                                       int group)
      : of{w.scale, w.scale} {
    if (w.scales == nullptr) return;
    // Scales are padded to whole row blocks; of a block that is not there, those of the last.
    const int last = (w.rows + 15) / 16 - 1;
    const int block = row / 16 < last ? row / 16 : last;
    const float* scales = w.scales + (block * p.num_groups + group) * 16 + row % 8;
    of[0] = scales[0];
    of[1] = scales[8];
  }
};

// The values of sums that one scale covers.
template <int kTiles>
__device__ __forceinline__ void ToValues(const TokenScales<kTiles>& tokens, const RowScales& rows,
                                         const int32_t (&sums)[kTiles][4],
                                         float (&values)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[n][i] = static_cast<float>(sums[n][i] - tokens.sum[n][i % 2]) *
                     (rows.of[i / 2] / tokens.s[n][i % 2]);
    }
  }
}

// values += those of the sums of one group of several, which begin anew.
template <int kTiles>
__device__ __forceinline__ void AddGroup(const TokenScales<kTiles>& tokens, const RowScales& rows,
                                         int32_t (&sums)[kTiles][4], float (&values)[kTiles][4]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      values[n][i] += static_cast<float>(sums[n][i] - tokens.sum[n][i % 2]) *
                      (rows.of[i / 2] * (1.0f / tokens.s[n][i % 2]));
      sums[n][i] = 0;
    }
  }
}

template <int kTiles>
__device__ __forceinline__ void AddBias(const TernaryWeights& w, int row,
                                        float (&values)[kTiles][4]) {
  if (w.bias == nullptr) return;
  const float bias[2] = {row < w.rows ? w.bias[row] : 0.0f,
                         row + 8 < w.rows ? w.bias[row + 8] : 0.0f};
  ForLane<kTiles>(0, 0, [&](int n, int i, int, int) { values[n][i] += bias[i / 2]; });
}

template <int kTiles>
__device__ __forceinline__ void Activate(Epilogue epilogue, float (&values)[kTiles][4]) {
  if (epilogue == Epilogue::kSilu) {
    ForLane<kTiles>(0, 0, [&](int n, int i, int, int) {
      values[n][i] = values[n][i] / (1.0f + expf(-values[n][i]));
    });
  } else if (epilogue == Epilogue::kReluSquared) {
    ForLane<kTiles>(0, 0, [&](int n, int i, int, int) {
      values[n][i] = values[n][i] > 0.0f ? values[n][i] * values[n][i] : 0.0f;
    });
  }
}

// Where (row, token) of an output goes; not to be followed where it is not there.
__device__ __forceinline__ float* PlaceOf(const TernaryOutput& output, int row, int token) {
  return output.y + static_cast<int64_t>(token) * output.w.rows + row;
}

// Makes outputs of values; both are a lane's.
template <int kTiles>
__device__ __forceinline__ void StoreOutputs(const TernaryLinearArgs& p, int output_number, int row,
                                             int token, float (&values)[kTiles][4]) {
  const TernaryOutput& output = p.outputs[output_number];
  const auto there = [&](int r, int t) { return r < output.w.rows && t < p.tokens; };
  AddBias<kTiles>(output.w, row, values);
  Activate<kTiles>(p.epilogue, values);
  if (p.epilogue == Epilogue::kAccumulate || p.epilogue == Epilogue::kMultiply) {
    float before[kTiles][4];
    ForLane<kTiles>(row, token, [&](int n, int i, int r, int t) {
      before[n][i] = there(r, t) ? *PlaceOf(output, r, t) : 0.0f;
    });
    const bool add = p.epilogue == Epilogue::kAccumulate;
    ForLane<kTiles>(0, 0, [&](int n, int i, int, int) {
      values[n][i] = add ? before[n][i] + values[n][i] : before[n][i] * values[n][i];
    });
  }
  ForLane<kTiles>(row, token, [&](int n, int i, int r, int t) {
    if (there(r, t)) *PlaceOf(output, r, t) = values[n][i];
  });
}

// The same of a gate's values and those that go through it.
template <int kTiles>
__device__ __forceinline__ void StoreGated(const TernaryLinearArgs& p, int row, int token,
                                           float (&gate)[kTiles][4], float (&up)[kTiles][4]) {
  const TernaryOutput& output = p.outputs[0];
  AddBias<kTiles>(output.w, row, gate);
  AddBias<kTiles>(p.outputs[1].w, row, up);
  Activate<kTiles>(p.epilogue, gate);
  ForLane<kTiles>(row, token, [&](int n, int i, int r, int t) {
    if (r < output.w.rows && t < p.tokens) *PlaceOf(output, r, t) = gate[n][i] * up[n][i];
  });
}

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_TERNARY_EPILOGUE_CUH_
