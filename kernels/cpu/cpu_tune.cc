// What CpuOps decides by measurement:
//   - From how many tokens on AMX takes less time than VNNI. The speed of AMX differs between
//     machines and moments, on some by more than two, VNNI's does not.
//   - Whether a core reads weights in one stream or in several. One takes 0.8 to 0.9 of the time of
//     four on AMD's Zen 4; on Intel's Sapphire Rapids one did not saturate memory.
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

// The time of a product of `tokens` tokens with each of `samples`.
int64_t MeasureOnceNs(CpuOps& ops, std::span<const TernaryMatrix* const> samples, int64_t tokens) {
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
  return ns;
}

// The least of a few.
int64_t MeasureNs(CpuOps& ops, std::span<const TernaryMatrix* const> samples, int64_t tokens) {
  int64_t best_ns = std::numeric_limits<int64_t>::max();
  for (int run = 0; run < kRuns; ++run) {
    best_ns = std::min(best_ns, MeasureOnceNs(ops, samples, tokens));
  }
  return best_ns;
}

}  // namespace

void CpuOps::ChooseWeightStreams(std::span<const TernaryMatrix* const> samples) {
  constexpr std::array<int64_t, 2> kStreams = {1, kMostWeightStreams};
  std::array<int64_t, 2> best_ns;
  best_ns.fill(std::numeric_limits<int64_t>::max());
  for (int run = 0; run < kRuns; ++run) {
    for (size_t i = 0; i < kStreams.size(); ++i) {
      weight_streams_ = kStreams[i];
      best_ns[i] = std::min(best_ns[i], MeasureOnceNs(*this, samples, /*tokens=*/1));
    }
  }
  weight_streams_ = kStreams[best_ns[0] < best_ns[1] ? 0 : 1];
}

void CpuOps::ChooseAmxFromTokens(std::span<const TernaryMatrix* const> samples) {
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
}

std::vector<Tuning> CpuOps::Tune(std::span<const TernaryMatrix* const> samples) {
  // Weights are read from memory where they are more than the caches hold, so all that can be had
  // are read; what AMX computes takes longer, and does not depend on where they come from.
  constexpr size_t kAmxSamples = 2;
  std::vector<Tuning> tuning;
  if (samples.empty()) return tuning;
  if (kernels_.chooses_streams) {
    ChooseWeightStreams(samples);
    tuning.push_back({.name = "weight_streams", .value = static_cast<double>(weight_streams_)});
  }
  if (kernels_.amx) {
    ChooseAmxFromTokens(samples.first(std::min(kAmxSamples, samples.size())));
    tuning.push_back({.name = "amx_from_tokens", .value = static_cast<double>(amx_from_tokens_)});
  }
  return tuning;
}

}  // namespace sterna::cpu
