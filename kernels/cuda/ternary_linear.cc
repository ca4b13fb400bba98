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

TernaryPath ChooseTernaryPath(const DeviceTraits& device, int64_t tokens) {
  // Below, products for half of a box of tokens are thrown away.
  constexpr int64_t kFewestForWgmma = 65;
  return device.wgmma && tokens >= kFewestForWgmma ? TernaryPath::kWgmma : TernaryPath::kMma;
}

cudaError_t LaunchTernaryLinear(const TernaryLinearArgs& p, TernaryPath path, cudaStream_t stream) {
  if (!IsValid(p)) return cudaErrorInvalidValue;
  return path == TernaryPath::kWgmma ? LaunchTernaryWgmma(p, stream) : LaunchTernaryMma(p, stream);
}

}  // namespace sterna::cuda
