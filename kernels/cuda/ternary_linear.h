// The ternary product on CUDA devices: what the host asks for and the kernels take.
//
// y[t][n] = epilogue(sum over groups g, in order, of (acc - sum[t][g]) * scale): acc the exact
// int32 sum of q * code over the group's columns, scale as TernaryLinearParams of kernels/ops.h
// defines it, so that results are the reference's bit for bit.
#ifndef STERNA_KERNELS_CUDA_TERNARY_LINEAR_H_
#define STERNA_KERNELS_CUDA_TERNARY_LINEAR_H_

#include <cstdint>

#include "kernels/cuda/runtime.h"

namespace sterna::cuda {

// What becomes of a sum, its bias added.
enum class Epilogue : int32_t {
  kStore,
  kAccumulate,   // y += value
  kSilu,         // y = silu(value)
  kReluSquared,  // y = relu(value)^2
  kMultiply,     // y *= value
};

struct TernaryWeights {
  const uint4* packed;  // fragment_format.h
  const float* scales;  // [row blocks][num_groups][16], or null: `scale` for all
  float scale;
  const float* bias;  // [rows] or null
  int32_t rows;
};

struct TernaryOutput {
  TernaryWeights w;
  float* y;  // [tokens][w.rows]
};

inline constexpr int kMostTernaryOutputs = 4;

struct TernaryLinearArgs {
  const int8_t* q;     // [tokens][q_stride], zero from `cols` on; on a boundary of 16 bytes
  const float* s;      // [tokens][num_groups]
  const int32_t* sum;  // [tokens][num_groups]
  int32_t q_stride;    // a multiple of kTernaryBlockCols
  int32_t tokens;
  int32_t cols;
  int32_t num_groups;
  int32_t group_cols;  // a multiple of kTernaryBlockCols where num_groups > 1
  // One launch for all, which have `cols` and groups in common. With `gated`, outputs[0] is the
  // gate and outputs[1] up, of as many rows: outputs[0].y = epilogue(gate) * up.
  TernaryOutput outputs[kMostTernaryOutputs];
  int32_t num_outputs;
  bool gated;
  Epilogue epilogue;
  // Read and written where the plan splits; on a boundary of 16 bytes. MmaWorkspaceBytes of it, of
  // which kMmaCounterBytes are zero before the first launch, and again after each: launches that
  // follow one another on one stream may share it, however large each of them is.
  void* workspace;
};

// What of a device decides which kernels serve it.
struct DeviceTraits {
  bool wgmma = false;  // Hopper's warpgroup products, which nothing newer has
  int32_t multiprocessors = 1;
};

// Which kernel multiplies, and how; all ways give the same bits.
enum class TernaryPath : int32_t { kMma, kWgmma };
struct TernaryPlan {
  TernaryPath path = TernaryPath::kMma;
  // Of kMma alone. A warp multiplies this many row blocks at once, 1 or 2; 2 with `gated`.
  int32_t row_blocks = 1;
  // So many blocks of threads share the columns of each tile of outputs: the last to be done adds
  // up the sums of all. At most MmaStages, and 1 where there are groups: their values are added in
  // order, and a sum for every 128 columns that the others would hand over instead takes as many
  // bytes as the weights do at eight tokens, more at more.
  int32_t split = 1;
};

// By how many multiprocessors of the device would have something to do, and for how long. `args`
// need no more than their shapes.
TernaryPlan ChooseTernaryPlan(const DeviceTraits& device, const TernaryLinearArgs& args);

// cudaErrorInvalidValue where shapes, alignments or the plan are not as above.
cudaError_t LaunchTernaryLinear(const TernaryLinearArgs& args, const TernaryPlan& plan,
                                const DeviceTraits& device, cudaStream_t stream);

// Its two ways, for valid args.
cudaError_t LaunchTernaryMma(const TernaryLinearArgs& args, const TernaryPlan& plan,
                             cudaStream_t stream);
cudaError_t LaunchTernaryWgmma(const TernaryLinearArgs& args, const DeviceTraits& device,
                               cudaStream_t stream);

// The tiles of LaunchTernaryMma: of `MmaTileTokens` tokens by 16 rows for each of MmaRowWarps and
// of a plan's row_blocks. A block of threads goes through its columns in stages of MmaStageCols.
int32_t MmaTileTokens(const TernaryLinearArgs& args);
constexpr int32_t MmaRowWarps(int32_t tile_tokens, bool grouped) {
  return grouped ? 4 : tile_tokens <= 8 ? 1 : 2;
}
constexpr int32_t MmaStageCols(int32_t tile_tokens) { return 128 * 128 / tile_tokens; }
int64_t MmaStages(const TernaryLinearArgs& args);
int64_t MmaRowTiles(const TernaryLinearArgs& args, const TernaryPlan& plan);
int64_t MmaTiles(const TernaryLinearArgs& args, const TernaryPlan& plan);

// Bytes of a workspace: for one launch, and for whatever ChooseTernaryPlan chooses. Its counters
// come first, one for each warp of rows of a tile.
inline constexpr int64_t kMostMmaCounters = 4096;
inline constexpr int64_t kMmaCounterBytes = kMostMmaCounters * 4;
int64_t MmaWorkspaceBytes(const TernaryLinearArgs& args, const TernaryPlan& plan);
int64_t MostMmaWorkspaceBytes(const DeviceTraits& device);

// Blocks of threads that warpgroup products take where each does `rows` rows of an output.
int64_t WgmmaBlocks(const TernaryLinearArgs& args, int64_t rows);
inline constexpr int64_t kWgmmaBlockRows = 256;  // of the largest, for all args
inline constexpr int64_t kWgmmaBlockTokens = 128;

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_TERNARY_LINEAR_H_
