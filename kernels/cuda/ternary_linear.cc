#include "kernels/cuda/ternary_linear.h"

#include <algorithm>

#include "kernels/cuda/fragment_format.h"

namespace sterna::cuda {
namespace {

bool IsValid(const TernaryLinearArgs& p) {
  if (p.tokens < 1 || p.cols < 1 || p.num_outputs < 1 || p.num_outputs > kMostTernaryOutputs ||
      p.num_groups < 1 || p.q_stride < p.cols || p.q_stride % kTernaryBlockCols != 0 ||
      reinterpret_cast<uintptr_t>(p.q) % 16 != 0) {
    return false;
  }
  if (p.num_groups > 1 && p.group_cols % kTernaryBlockCols != 0) return false;
  if (p.gated && (p.num_outputs != 2 || p.outputs[0].w.rows != p.outputs[1].w.rows)) return false;
  for (int i = 0; i < p.num_outputs; ++i) {
    if (p.outputs[i].w.rows < 1 || reinterpret_cast<uintptr_t>(p.outputs[i].w.packed) % 16 != 0) {
      return false;
    }
  }
  return true;
}

bool IsValid(const TernaryLinearArgs& p, const TernaryPlan& plan) {
  if (plan.path == TernaryPath::kWgmma) return true;
  if (plan.row_blocks != 2 && (plan.row_blocks != 1 || p.gated)) return false;
  if (plan.split == 1) return true;
  return plan.split > 1 && p.num_groups == 1 && plan.split <= MmaStages(p) &&
         MmaTiles(p, plan) * MmaRowWarps(MmaTileTokens(p), false) <= kMostMmaCounters &&
         p.workspace != nullptr && reinterpret_cast<uintptr_t>(p.workspace) % 16 == 0;
}

// Of the sums that a block hands over.
int64_t TileBytes(const TernaryLinearArgs& p, const TernaryPlan& plan) {
  const int32_t tokens = MmaTileTokens(p);
  return kFragmentRows * plan.row_blocks * MmaRowWarps(tokens, p.num_groups > 1) * tokens * 4;
}

// Bytes that go through the multiprocessor that has most to do, which at these numbers of tokens
// is what takes the time: weights and activations come from the L2 at about 42 bytes a nanosecond
// for each multiprocessor (of an H200: 5.5 TB/s in all). Handing over, which is to write sums,
// tell, be told and read them, is three ways to the L2 and back, about 2.1 microseconds, and the
// sums' own bytes.
int64_t CostOf(const DeviceTraits& device, const TernaryLinearArgs& p, const TernaryPlan& plan) {
  constexpr int64_t kHandOverBytes = 88 << 10;
  const int32_t tokens = MmaTileTokens(p);
  const int64_t rows = kFragmentRows * plan.row_blocks * MmaRowWarps(tokens, false);
  const int64_t cols = std::min<int64_t>(RoundUp(p.cols, kFragmentCols),
                                         CeilDiv(MmaStages(p), plan.split) * MmaStageCols(tokens));
  const int64_t bytes =
      CeilDiv(MmaTiles(p, plan) * plan.split, device.multiprocessors) * cols * (tokens + rows / 4);
  return plan.split == 1 ? bytes : bytes + kHandOverBytes + plan.split * TileBytes(p, plan);
}

// Blocks of every kind fit on a multiprocessor twice.
int64_t BlocksOfWave(const DeviceTraits& device) { return 2 * int64_t{device.multiprocessors}; }

TernaryPlan ChooseMmaPlan(const DeviceTraits& device, const TernaryLinearArgs& p) {
  TernaryPlan plan = {.row_blocks = p.gated ? 2 : 1};
  // All or most of a block's weights are on their way from the beginning with as few tokens: there
  // is nothing to gain that is worth handing over.
  if (p.num_groups > 1 || MmaTileTokens(p) <= 8) return plan;
  // What gains less than an eighth is not worth the doubt.
  int64_t least = CostOf(device, p, plan) * 7 / 8;
  for (int32_t row_blocks = plan.row_blocks; row_blocks <= 2; ++row_blocks) {
    for (int32_t split = 1; split <= MmaStages(p); ++split) {
      const TernaryPlan other = {.row_blocks = row_blocks, .split = split};
      const int64_t blocks = MmaTiles(p, other) * split;
      if (split > 1 && (blocks > BlocksOfWave(device) || blocks > kMostMmaCounters)) break;
      const int64_t cost = CostOf(device, p, other);
      if (cost >= least) continue;
      least = cost;
      plan = other;
    }
  }
  return plan;
}

}  // namespace

int64_t WgmmaBlocks(const TernaryLinearArgs& p, int64_t rows) {
  int64_t blocks = 0;
  // A gate and what goes through it share a block's rows.
  for (int i = 0; i < (p.gated ? 1 : p.num_outputs); ++i) {
    blocks += CeilDiv(p.outputs[i].w.rows, p.gated ? rows / 2 : rows);
  }
  return blocks * CeilDiv(p.tokens, kWgmmaBlockTokens);
}

int32_t MmaTileTokens(const TernaryLinearArgs& p) {
  // Groups' values take as many registers as sums do: no more than 32 tokens, and no kernel of its
  // own for 16, which a compiler takes long over.
  if (p.num_groups > 1) return p.tokens <= 8 ? 8 : 32;
  return p.tokens <= 8 ? 8 : p.tokens <= 16 ? 16 : p.tokens <= 32 ? 32 : 64;
}

int64_t MmaStages(const TernaryLinearArgs& p) {
  return CeilDiv(p.cols, MmaStageCols(MmaTileTokens(p)));
}

int64_t MmaRowTiles(const TernaryLinearArgs& p, const TernaryPlan& plan) {
  const int64_t warps = MmaRowWarps(MmaTileTokens(p), p.num_groups > 1);
  int64_t warp_tiles = 0;
  for (int i = 0; i < (p.gated ? 1 : p.num_outputs); ++i) {
    warp_tiles += CeilDiv(p.outputs[i].w.rows, kFragmentRows * (p.gated ? 1 : plan.row_blocks));
  }
  return CeilDiv(warp_tiles, warps);
}

int64_t MmaTiles(const TernaryLinearArgs& p, const TernaryPlan& plan) {
  return MmaRowTiles(p, plan) * CeilDiv(p.tokens, MmaTileTokens(p));
}

int64_t MmaWorkspaceBytes(const TernaryLinearArgs& p, const TernaryPlan& plan) {
  if (plan.path == TernaryPath::kWgmma || plan.split == 1) return 0;
  return kMmaCounterBytes + MmaTiles(p, plan) * plan.split * TileBytes(p, plan);
}

int64_t MostMmaWorkspaceBytes(const DeviceTraits& device) {
  constexpr int64_t kMostTileBytes = 64 * 64 * 4;
  return kMmaCounterBytes + BlocksOfWave(device) * kMostTileBytes;
}

TernaryPlan ChooseTernaryPlan(const DeviceTraits& device, const TernaryLinearArgs& p) {
  // Few tokens are better served by smaller blocks, and so is a device most of which would idle.
  constexpr int64_t kFewestTokens = 65;
  const bool wgmma = device.wgmma && p.tokens >= kFewestTokens &&
                     2 * WgmmaBlocks(p, kWgmmaBlockRows) >= device.multiprocessors;
  return wgmma ? TernaryPlan{.path = TernaryPath::kWgmma} : ChooseMmaPlan(device, p);
}

cudaError_t LaunchTernaryLinear(const TernaryLinearArgs& p, const TernaryPlan& plan,
                                const DeviceTraits& device, cudaStream_t stream) {
  if (!IsValid(p) || !IsValid(p, plan)) return cudaErrorInvalidValue;
  return plan.path == TernaryPath::kWgmma ? LaunchTernaryWgmma(p, device, stream)
                                          : LaunchTernaryMma(p, plan, stream);
}

}  // namespace sterna::cuda
