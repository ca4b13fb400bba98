#include "kernels/cuda/ternary_linear.h"

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

TernaryPath ChooseTernaryPath(const DeviceTraits& device, const TernaryLinearArgs& p) {
  // Few tokens are better served by smaller blocks, and so is a device most of which would idle.
  constexpr int64_t kFewestTokens = 65;
  const bool wgmma = device.wgmma && p.tokens >= kFewestTokens &&
                     2 * WgmmaBlocks(p, kWgmmaBlockRows) >= device.multiprocessors;
  return wgmma ? TernaryPath::kWgmma : TernaryPath::kMma;
}

cudaError_t LaunchTernaryLinear(const TernaryLinearArgs& p, TernaryPath path,
                                const DeviceTraits& device, cudaStream_t stream) {
  if (!IsValid(p)) return cudaErrorInvalidValue;
  return path == TernaryPath::kWgmma ? LaunchTernaryWgmma(p, device, stream)
                                     : LaunchTernaryMma(p, stream);
}

}  // namespace sterna::cuda
