#include "kernels/reference/reference_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "kernels/philox.h"

namespace sterna {
namespace {

constexpr double kLowest = -std::numeric_limits<double>::infinity();

template <typename F>
std::vector<double> WithoutNan(const F* logits, int64_t vocabulary) {
  std::vector<double> values(logits, logits + vocabulary);
  for (double& value : values) {
    if (std::isnan(value)) value = kLowest;
  }
  return values;
}

// Token ids, most likely first, the lower id first among equals.
std::vector<int32_t> Ranked(const std::vector<double>& logits) {
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return ids;
}

// exp(logit - largest), also where both are the same infinity.
double Weight(double logit, double largest, double temperature) {
  return logit == largest ? 1.0 : std::exp((logit - largest) / temperature);
}

void ApplyBiasAndPenalties(const SampleParams& params, std::vector<double>& logits) {
  const int64_t vocabulary = static_cast<int64_t>(logits.size());
  for (const auto& [token, bias] : params.logit_bias) {
    STERNA_CHECK(token >= 0 && token < vocabulary);
    logits[token] += bias;
  }
  for (const TokenCount& count : params.token_counts) {
    STERNA_CHECK(count.token >= 0 && count.token < vocabulary);
    double& logit = logits[count.token];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -= static_cast<double>(params.frequency_penalty) * count.in_output;
    if (count.in_output > 0) logit -= params.presence_penalty;
  }
  for (double& logit : logits) {
    if (std::isnan(logit)) logit = kLowest;
  }
}

// The tokens that min_p, top_k and top_p leave, most likely first, out of all in `ranked`.
std::vector<int32_t> Filter(const SampleParams& params, const std::vector<double>& logits,
                            std::vector<int32_t> ranked) {
  const double largest = logits[ranked[0]];
  auto weight = [&](int32_t id) { return Weight(logits[id], largest, params.temperature); };
  size_t kept = 0;
  while (kept < ranked.size() && weight(ranked[kept]) >= params.min_p) ++kept;
  kept = std::max<size_t>(kept, 1);
  if (params.top_k > 0) kept = std::min<size_t>(kept, params.top_k);
  if (params.top_p < 1.0f) {
    double total = 0;
    for (size_t i = 0; i < kept; ++i) total += weight(ranked[i]);
    double sum = 0;
    for (size_t i = 0; i < kept; ++i) {
      sum += weight(ranked[i]);
      if (sum >= params.top_p * total) {
        kept = i + 1;
        break;
      }
    }
  }
  ranked.resize(kept);
  return ranked;
}

// The first of `kept`, in id order, at which the running probability passes the uniform number.
int32_t Draw(const SampleParams& params, const std::vector<double>& logits,
             std::vector<int32_t> kept) {
  const double largest = logits[kept[0]];
  auto weight = [&](int32_t id) { return Weight(logits[id], largest, params.temperature); };
  std::sort(kept.begin(), kept.end());
  double total = 0;
  for (int32_t id : kept) total += weight(id);
  const double target = PhiloxUniform(params.seed, params.position) * total;
  double sum = 0;
  int32_t drawn = kept[0];
  for (int32_t id : kept) {
    const double w = weight(id);
    if (w == 0) continue;
    drawn = id;
    sum += w;
    if (sum > target) break;
  }
  return drawn;
}

void FillLogprobs(const SampleParams& params, const std::vector<double>& logits,
                  SampleResult& result) {
  const std::vector<int32_t> ranked = Ranked(logits);
  const double largest = logits[ranked[0]];
  double total = 0;
  for (double logit : logits) total += Weight(logit, largest, 1.0);
  auto logprob = [&](int32_t id) {
    const double below = logits[id] == largest ? 0.0 : logits[id] - largest;
    return static_cast<float>(below - std::log(total));
  };
  result.logprob = logprob(result.token);
  const size_t count = std::min<size_t>(params.num_logprobs, ranked.size());
  for (size_t i = 0; i < count; ++i) result.top.push_back({ranked[i], logprob(ranked[i])});
}

}  // namespace

template <typename F>
SampleResult ReferenceSampleRow(const F* logits, int64_t vocabulary, const SampleParams& params) {
  STERNA_CHECK(vocabulary > 0);
  STERNA_CHECK(params.target < vocabulary);
  const std::vector<double> own = WithoutNan(logits, vocabulary);
  std::vector<double> adjusted = own;
  ApplyBiasAndPenalties(params, adjusted);
  const std::vector<int32_t> ranked = Ranked(adjusted);
  SampleResult result;
  if (params.target >= 0) {
    result.token = params.target;
  } else {
    result.token = params.temperature == 0
                       ? ranked[0]
                       : Draw(params, adjusted, Filter(params, adjusted, ranked));
  }
  if (params.num_logprobs >= 0) FillLogprobs(params, own, result);
  return result;
}

template SampleResult ReferenceSampleRow<float>(const float*, int64_t, const SampleParams&);
template SampleResult ReferenceSampleRow<double>(const double*, int64_t, const SampleParams&);

}  // namespace sterna
