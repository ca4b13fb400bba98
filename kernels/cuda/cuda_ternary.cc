// Ternary weights and products of the CUDA backend.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/fragment_format.h"
#include "kernels/cuda/ternary_linear.h"

namespace sterna::cuda {
namespace {

TernaryLinearArgs ArgsOf(const QuantizedMat<float>& q) {
  return {.q = q.q,
          .s = q.scale,
          .sum = q.sum,
          .q_stride = static_cast<int32_t>(q.stride),
          .tokens = static_cast<int32_t>(q.rows),
          .cols = static_cast<int32_t>(q.cols),
          .num_groups = static_cast<int32_t>(q.num_groups()),
          .group_cols = static_cast<int32_t>(q.group_size),
          .outputs = {},
          .num_outputs = 0,
          .gated = false,
          .epilogue = Epilogue::kStore,
          .workspace = nullptr};
}

void AddOutput(const QuantizedMat<float>& q, const TernaryMatrix& w, std::span<const float> bias,
               const Mat<float>& y, TernaryLinearArgs& args) {
  STERNA_CHECK(w.layout() == TernaryLayout::kFragments16x128);
  STERNA_CHECK(q.cols == w.cols() && q.num_groups() == w.num_groups());
  STERNA_CHECK(y.rows == q.rows && y.cols == w.rows());
  STERNA_CHECK(bias.empty() || std::ssize(bias) == w.rows());
  STERNA_CHECK(args.num_outputs < kMostTernaryOutputs);
  args.outputs[args.num_outputs++] = {
      .w = {.packed = reinterpret_cast<const uint4*>(w.packed()),
            .scales = w.granularity() == ScaleGranularity::kTensor ? nullptr : w.scales().data(),
            .scale = static_cast<float>(w.tensor_scale()),
            .bias = bias.empty() ? nullptr : bias.data(),
            .rows = static_cast<int32_t>(w.rows())},
      .y = y.data};
}

Epilogue EpilogueOf(Activation activation) {
  return activation == Activation::kSilu ? Epilogue::kSilu : Epilogue::kReluSquared;
}

// As metrics and measurements show it.
std::string NameOf(const TernaryPlan& plan, const TernaryLinearArgs& args) {
  if (plan.path == TernaryPath::kWgmma) return absl::StrCat("wgmma_", kWgmmaBlockTokens);
  std::string name = absl::StrCat("mma_", MmaTileTokens(args));
  if (plan.row_blocks == 2 && !args.gated) name += "_tall";
  if (plan.split > 1) absl::StrAppend(&name, "_split_", plan.split);
  return name;
}

// Whether two products can share a launch.
bool SameInput(const QuantizedMat<float>& a, const QuantizedMat<float>& b) {
  return a.q == b.q && a.scale == b.scale && a.group_size == b.group_size && a.cols == b.cols;
}

}  // namespace

StatusOr<TernaryMatrix> CudaOps::Place(TernaryMatrix host) {
  STERNA_ASSIGN_OR_RETURN(DeviceMemory packed,
                          Allocate(FragmentPackedBytes(host.rows(), host.cols())));
  const int64_t block_bytes = CeilDiv(host.cols(), kFragmentCols) * kFragmentBytes;
  // A few megabytes at a time, so that a model's packing costs no second copy of its matrices.
  const int64_t blocks_at_once = std::max<int64_t>(1, (int64_t{4} << 20) / block_bytes);
  AlignedBuffer<uint8_t> staging(
      static_cast<size_t>(std::min(blocks_at_once, host.row_blocks()) * block_bytes));
  for (int64_t first = 0; first < host.row_blocks(); first += blocks_at_once) {
    const int64_t blocks = std::min(blocks_at_once, host.row_blocks() - first);
    PackFragments(host, first, blocks, staging.data());
    CopyToDevice(static_cast<uint8_t*>(packed.data()) + first * block_bytes, staging.data(),
                 blocks * block_bytes);
  }
  DeviceMemory scales;
  if (host.granularity() != ScaleGranularity::kTensor) {
    const auto bytes = static_cast<int64_t>(host.scales().size_bytes());
    STERNA_ASSIGN_OR_RETURN(scales, Allocate(bytes));
    CopyToDevice(scales.data(), host.scales().data(), bytes);
  }
  return TernaryMatrix::Placed(host, TernaryLayout::kFragments16x128, std::move(packed),
                               std::move(scales));
}

TernaryPlan CudaOps::PlanOf(const TernaryLinearArgs& args) const {
  DeviceTraits traits = device_->traits();
  traits.wgmma = traits.wgmma && options_.ternary_wgmma.value_or(true);
  TernaryPlan plan = ChooseTernaryPlan(traits, args);
  if (traits.wgmma && options_.ternary_wgmma) plan = {.path = TernaryPath::kWgmma};
  if (plan.path == TernaryPath::kWgmma) return plan;
  if (options_.ternary_row_blocks > 0 && !args.gated) {
    plan.row_blocks = std::min(options_.ternary_row_blocks, 2);
  }
  if (options_.ternary_split > 0 && args.num_groups == 1) {
    plan.split = static_cast<int32_t>(std::min<int64_t>(options_.ternary_split, MmaStages(args)));
    // As many tiles as would take more counters than there are keep any device busy.
    if (MmaTiles(args, plan) > kMostMmaCounters / 2) plan.split = 1;
  }
  return plan;
}

void CudaOps::Launch(TernaryLinearArgs args) {
  const TernaryPlan plan = PlanOf(args);
  if (!Ensure(ternary_scratch_, MmaWorkspaceBytes(args, plan))) return;
  args.workspace = ternary_scratch_.data();
  device_->Do("a ternary product", [&] {
    return LaunchTernaryLinear(args, plan, device_->traits(), device_->stream());
  });
}

void CudaOps::TernaryLinear(const TernaryLinearParams<float>& p) {
  TernaryLinearArgs args = ArgsOf(p.q);
  AddOutput(p.q, *p.w, p.bias, p.y, args);
  args.epilogue = p.accumulate ? Epilogue::kAccumulate : Epilogue::kStore;
  Launch(args);
}

void CudaOps::TernaryLinears(std::span<const TernaryLinearParams<float>> all) {
  const auto shares_launch = [&](const TernaryLinearParams<float>& p) {
    return SameInput(p.q, all[0].q) && p.accumulate == all[0].accumulate;
  };
  if (all.size() > kMostTernaryOutputs || !std::ranges::all_of(all, shares_launch)) {
    for (const TernaryLinearParams<float>& p : all) TernaryLinear(p);
    return;
  }
  TernaryLinearArgs args = ArgsOf(all[0].q);
  for (const TernaryLinearParams<float>& p : all) AddOutput(p.q, *p.w, p.bias, p.y, args);
  args.epilogue = all[0].accumulate ? Epilogue::kAccumulate : Epilogue::kStore;
  Launch(args);
}

void CudaOps::GatedLinear(const GatedLinearParams<float>& p) {
  TernaryLinearArgs gate = ArgsOf(p.gate.q);
  AddOutput(p.gate.q, *p.gate.w, p.gate.bias, p.h, gate);
  gate.epilogue = EpilogueOf(p.activation);
  if (SameInput(p.gate.q, p.up.q)) {
    AddOutput(p.up.q, *p.up.w, p.up.bias, p.h, gate);
    gate.gated = true;
    Launch(gate);
    return;
  }
  TernaryLinearArgs up = ArgsOf(p.up.q);
  AddOutput(p.up.q, *p.up.w, p.up.bias, p.h, up);
  up.epilogue = Epilogue::kMultiply;
  Launch(gate);
  Launch(up);
}

std::vector<ProductPath> CudaOps::ProductPaths(std::span<const TernaryMatrix* const> matrices,
                                               bool gated) const {
  STERNA_CHECK(!matrices.empty() && matrices.size() <= kMostTernaryOutputs);
  TernaryLinearArgs args = {};
  args.cols = static_cast<int32_t>(matrices[0]->cols());
  args.num_groups = static_cast<int32_t>(matrices[0]->num_groups());
  args.gated = gated;
  for (const TernaryMatrix* w : matrices) {
    args.outputs[args.num_outputs++].w.rows = static_cast<int32_t>(w->rows());
  }
  std::vector<ProductPath> paths;
  // No choice changes within eight tokens but after the first of them, nor after this many.
  constexpr int32_t kMostTokens = 65536;
  for (args.tokens = 1; args.tokens <= kMostTokens; args.tokens += 8) {
    const std::string name = NameOf(PlanOf(args), args);
    if (paths.empty() || paths.back().name != name) paths.push_back({args.tokens, name});
  }
  return paths;
}

}  // namespace sterna::cuda
