// The ternary products of CpuOps.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"

namespace sterna::cpu {
namespace {

// As kFloatsPerNanosecond.
constexpr int64_t kWeightBytesPerNanosecond = 8;
// Runs of a few pairs of row blocks: with many tokens such a panel stays in the second-level cache
// while all tokens pass over it.
constexpr int64_t kPanelBlocks = 4;
constexpr int64_t kPanelRows = kPanelBlocks * kTernaryBlockRows;

TernaryTask MakeTask(const TernaryLinearParams<float>& p) {
  const TernaryMatrix& w = *p.w;
  CheckQuantized(p.q, p.y.rows, w.cols());
  STERNA_CHECK(w.layout() == TernaryLayout::kBlocks16x64);
  STERNA_CHECK(p.q.num_groups() == w.num_groups() && p.y.cols == w.rows());
  STERNA_CHECK(p.bias.empty() || std::ssize(p.bias) == w.rows());
  return {.packed = w.packed(),
          .rows = w.rows(),
          .col_blocks = w.col_blocks(),
          .group_col_blocks = CeilDiv(w.group_size(), kTernaryBlockCols),
          .num_groups = w.num_groups(),
          .w_scale = w.scales().data(),
          .one_scale = w.granularity() == ScaleGranularity::kTensor,
          .bias = p.bias.empty() ? nullptr : p.bias.data(),
          .q = p.q.q,
          .q_stride = p.q.stride,
          .q_tiles = nullptr,
          .s = p.q.scale,
          .inverse_s = nullptr,
          .sum = p.q.sum,
          .tokens = p.y.rows,
          .y = p.y.data,
          .y_stride = p.y.cols,
          .accumulate = p.accumulate,
          .amx_from_tokens = 0,
          .weight_streams = kMostWeightStreams};
}

// Writes tile `tile` of those that TernaryTask::q_tiles describes.
void PackTile(const TernaryTask& task, int64_t tile, int8_t* tiles) {
  const int64_t token = tile / task.col_blocks * kAmxTileTokens;
  const int64_t block = tile % task.col_blocks;
  const int64_t tokens = std::min(kAmxTileTokens, task.tokens - token);
  const int8_t* q = task.q + token * task.q_stride + block * kTernaryBlockCols;
  int8_t* out = tiles + token * task.q_stride + block * tokens * kTernaryBlockCols;
  for (int64_t t = 0; t < tokens; ++t) {
    std::memcpy(out + t * kTernaryBlockCols, q + t * task.q_stride, kTernaryBlockCols);
  }
}

// The part of a product for `rows` rows from `row`, a multiple of kTernaryBlockRows, and `tokens`
// tokens from `token`, both multiples of kAmxTileTokens unless they are the last. Its outputs go to
// y [tokens, kPanelRows].
TernaryTask PartOf(TernaryTask task, int64_t row, int64_t rows, int64_t token, int64_t tokens,
                   float* y) {
  task.y_stride = 0;  // y has only this part
  task = FromToken(task, token);
  task.packed += row * task.col_blocks * (kTernaryBlockBytes / kTernaryBlockRows);
  task.rows = rows;
  if (!task.one_scale) task.w_scale += row * task.num_groups;
  if (task.bias != nullptr) task.bias += row;
  task.tokens = tokens;
  task.y = y;
  task.y_stride = kPanelRows;
  return task;
}

}  // namespace

void CpuOps::PrepareProducts(std::span<const TernaryLinearParams<float>> all) {
  if (products_.size() < all.size()) products_.resize(all.size());
  for (size_t i = 0; i < all.size(); ++i) {
    PreparedProduct& product = products_[i];
    TernaryTask& task = product.task;
    task = MakeTask(all[i]);
    task.amx_from_tokens = amx_from_tokens_;
    task.weight_streams = weight_streams_;
    product.tensor_scale = static_cast<float>(all[i].w->tensor_scale());
    if (task.one_scale) task.w_scale = &product.tensor_scale;
    if (task.num_groups > 1) {
      product.inverse_s.resize(static_cast<size_t>(task.tokens * task.num_groups));
      for (size_t s = 0; s < product.inverse_s.size(); ++s) product.inverse_s[s] = 1 / task.s[s];
      task.inverse_s = product.inverse_s.data();
    }
    if (!kernels_.amx || task.tokens < amx_from_tokens_) continue;
    const bool shared = i > 0 && all[i].q.q == all[i - 1].q.q &&
                        all[i].q.rows == all[i - 1].q.rows && all[i].q.cols == all[i - 1].q.cols;
    if (shared) {
      task.q_tiles = products_[i - 1].task.q_tiles;
      continue;
    }
    const auto bytes = static_cast<size_t>(task.tokens * task.q_stride);
    if (product.q_tiles.size() < bytes) product.q_tiles = AlignedBuffer<int8_t>(bytes);
    task.q_tiles = product.q_tiles.data();
    ForRuns(CeilDiv(task.tokens, kAmxTileTokens) * task.col_blocks,
            kAmxTileTokens * kTernaryBlockCols / kWeightBytesPerNanosecond,
            [&](int64_t first, int64_t count) {
              for (int64_t tile = first; tile < first + count; ++tile) {
                PackTile(task, tile, product.q_tiles.data());
              }
            });
  }
}

void CpuOps::TernaryLinears(std::span<const TernaryLinearParams<float>> all) {
  PrepareProducts(all);
  int64_t panels = 0, cost = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const TernaryMatrix& w = *all[i].w;
    products_[i].first_panel = panels;
    panels += CeilDiv(w.row_blocks(), kPanelBlocks);
    cost += std::max<int64_t>(all[i].y.rows / 4, 1) * w.packed_bytes() / kWeightBytesPerNanosecond;
  }
  ForPanels(panels, cost / std::max<int64_t>(panels, 1), [&](int64_t first, int64_t count) {
    size_t i = all.size() - 1;
    while (products_[i].first_panel > first) --i;
    for (int64_t panel = first; panel < first + count; ++panel) {
      if (i + 1 < all.size() && products_[i + 1].first_panel == panel) ++i;
      const int64_t block = (panel - products_[i].first_panel) * kPanelBlocks;
      const int64_t blocks = CeilDiv(products_[i].task.rows, kTernaryBlockRows);
      kernels_.ternary_linear(products_[i].task, block, std::min(kPanelBlocks, blocks - block));
    }
  });
}

void CpuOps::GatedLinear(const GatedLinearParams<float>& p) {
  // As many as the largest tile of sums has; their gates and ups stay in the first-level cache.
  constexpr int64_t kTokens = 2 * kAmxTileTokens;
  const Mat<float> nowhere = {nullptr, p.h.rows, p.h.cols};
  PrepareProducts(std::array<TernaryLinearParams<float>, 2>{
      {{.q = p.gate.q, .w = p.gate.w, .bias = p.gate.bias, .y = nowhere},
       {.q = p.up.q, .w = p.up.w, .bias = p.up.bias, .y = nowhere}}});
  const auto activate =
      p.activation == Activation::kSilu ? kernels_.silu_gate : kernels_.relu_squared_gate;
  const int64_t panels = CeilDiv(p.h.cols, kPanelRows);
  const int64_t panel_bytes = TernaryPackedBytes(kPanelRows, p.gate.w->cols());
  const int64_t panel_cost =
      std::max<int64_t>(p.h.rows / 4, 1) * 2 * panel_bytes / kWeightBytesPerNanosecond;
  ForPanels(panels, panel_cost, [&](int64_t first, int64_t count) {
    alignas(kCacheLineBytes) float gate[kTokens * kPanelRows];
    alignas(kCacheLineBytes) float up[kTokens * kPanelRows];
    for (int64_t row = first * kPanelRows; row < (first + count) * kPanelRows; row += kPanelRows) {
      const int64_t rows = std::min(kPanelRows, p.h.cols - row);
      const int64_t blocks = CeilDiv(rows, kTernaryBlockRows);
      for (int64_t token = 0; token < p.h.rows; token += kTokens) {
        const int64_t tokens = std::min(kTokens, p.h.rows - token);
        kernels_.ternary_linear(PartOf(products_[0].task, row, rows, token, tokens, gate), 0,
                                blocks);
        kernels_.ternary_linear(PartOf(products_[1].task, row, rows, token, tokens, up), 0, blocks);
        for (int64_t t = 0; t < tokens; ++t) {
          activate(gate + t * kPanelRows, up + t * kPanelRows, rows, p.h.row(token + t) + row);
        }
      }
    }
  });
}

std::vector<ProductPath> CpuOps::ProductPaths(std::span<const TernaryMatrix* const> /*matrices*/,
                                              bool /*gated*/) const {
  if (!kernels_.amx) return {{.from_tokens = 1, .name = kernels_.name}};
  return {{.from_tokens = 1, .name = "avx512_vnni"},
          {.from_tokens = amx_from_tokens_, .name = kernels_.name}};
}

}  // namespace sterna::cpu
