// What CpuOps decides by measurement: from how many tokens on AMX takes less time than VNNI. The
// speed of AMX differs between machines and moments, on some by more than two, VNNI's does not.
#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <vector>

#include "base/clock.h"
#include "kernels/cpu/cpu_ops.h"

namespace sterna::cpu {
namespace {

constexpr int kRuns = 3;

// The least time of a product of `tokens` tokens with `samples`, in turn.
int64_t MeasureNs(CpuOps& ops, std::span<const TernaryMatrix* const> samples, int64_t tokens) {
  int64_t best_ns = std::numeric_limits<int64_t>::max();
  for (int run = 0; run < kRuns; ++run) {
    int64_t ns = 0;
    for (const TernaryMatrix* w : samples) {
      const int64_t stride = RoundUp(w->cols(), kTernaryBlockCols);
      std::vector<int8_t> q(static_cast<size_t>(tokens * stride));
      std::vector<float> scale(static_cast<size_t>(tokens * w->num_groups()), 1.0f);
      std::vector<int32_t> sum(scale.size());
      std::vector<float> y(static_cast<size_t>(tokens * w->rows()));
      const QuantizedMat<float> x = {.q = q.data(),
                                     .stride = stride,
                                     .scale = scale.data(),
                                     .sum = sum.data(),
                                     .rows = tokens,
                                     .cols = w->cols(),
                                     .group_size = w->group_size()};
      const int64_t start_ns = Clock::Steady().NowNs();
      ops.TernaryLinear({.q = x, .w = w, .y = {y.data(), tokens, w->rows()}});
      ns += Clock::Steady().NowNs() - start_ns;
    }
    best_ns = std::min(best_ns, ns);
  }
  return best_ns;
}

}  // namespace

std::vector<Tuning> CpuOps::Tune(std::span<const TernaryMatrix* const> samples) {
  if (!kernels_.amx || samples.empty()) return {};
  // Of the places where AMX could take over, the one with the least time for all counts together:
  // one measurement that went wrong does not decide.
  constexpr std::array<int64_t, 7> kTokens = {2, 3, 4, 5, 6, 8, 12};
  std::array<int64_t, kTokens.size()> gain_ns{};
  for (size_t i = 0; i < kTokens.size(); ++i) {
    amx_from_tokens_ = kTokens[i] + 1;
    gain_ns[i] = MeasureNs(*this, samples, kTokens[i]);
    amx_from_tokens_ = kTokens[i];
    gain_ns[i] -= MeasureNs(*this, samples, kTokens[i]);
  }
  amx_from_tokens_ = kAmxTileTokens + 1;
  int64_t most_gain_ns = 0, sum_ns = 0;
  for (size_t i = kTokens.size(); i-- > 0;) {
    sum_ns += gain_ns[i];
    if (sum_ns > most_gain_ns) {
      most_gain_ns = sum_ns;
      amx_from_tokens_ = kTokens[i];
    }
  }
  return {{.name = "amx_from_tokens", .value = static_cast<double>(amx_from_tokens_)}};
}

}  // namespace sterna::cpu
