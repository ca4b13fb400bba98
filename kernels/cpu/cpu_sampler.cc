#include "kernels/cpu/cpu_sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/check.h"
#include "kernels/philox.h"

namespace sterna::cpu {
namespace {

// Tokens whose weights are added in one run of the vector kernel: short enough that a float sum is
// exact to a few ulp, and that finding the drawn token within one costs nothing.
constexpr int64_t kChunk = 1024;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  int32_t token;
};

// Most likely first, the lower id first among equals.
bool MoreLikely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// The logits of one row with what every step needs of them.
struct Row {
  const CpuKernels& kernels;
  const float* logits;
  int64_t size;
  float largest;

  Row(const CpuKernels& kernels, const float* logits, int64_t size)
      : kernels(kernels), logits(logits), size(size), largest(kernels.largest(logits, size)) {}

  // NaN as -infinity.
  float Logit(int64_t i) const { return logits[i] == logits[i] ? logits[i] : -kInfinity; }
  // exp((logit - largest) * slope), also where both are the same infinity.
  double Weight(float logit, float slope) const {
    return logit == largest ? 1.0 : std::exp((static_cast<double>(logit) - largest) * slope);
  }
  int32_t FirstLargest() const {
    for (int64_t i = 0; i < size; ++i) {
      if (logits[i] == largest) return static_cast<int32_t>(i);
    }
    return 0;  // all NaN
  }
};

// A copy of the logits with bias and penalties applied.
std::vector<float> Adjusted(const float* logits, int64_t size, const SampleParams& params) {
  std::vector<float> adjusted(logits, logits + size);
  for (const auto& [token, bias] : params.logit_bias) {
    STERNA_CHECK(token >= 0 && token < size);
    adjusted[token] += bias;
  }
  for (const TokenCount& count : params.token_counts) {
    STERNA_CHECK(count.token >= 0 && count.token < size);
    float& logit = adjusted[count.token];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -= params.frequency_penalty * static_cast<float>(count.in_output);
    if (count.in_output > 0) logit -= params.presence_penalty;
  }
  return adjusted;
}

// Sums of weights of each kChunk tokens.
std::vector<double> ChunkSums(const Row& row, float slope) {
  std::vector<double> sums;
  for (int64_t begin = 0; begin < row.size; begin += kChunk) {
    const int64_t n = std::min(kChunk, row.size - begin);
    sums.push_back(row.kernels.weight_sum(row.logits + begin, n, row.largest, slope));
  }
  return sums;
}

double Total(const std::vector<double>& sums) {
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

// Draws from the whole vocabulary: finds the chunk by the sums, then the token within it.
int32_t DrawFromAll(const Row& row, float slope, double uniform) {
  const std::vector<double> sums = ChunkSums(row, slope);
  const double target = uniform * Total(sums);
  double passed = 0;
  size_t chunk = 0;
  size_t last = 0;  // the last chunk with any weight, should rounding carry the walk past the end
  for (; chunk < sums.size(); ++chunk) {
    if (sums[chunk] > 0) last = chunk;
    if (passed + sums[chunk] > target) break;
    passed += sums[chunk];
  }
  if (chunk == sums.size()) chunk = last;
  const int64_t begin = static_cast<int64_t>(chunk) * kChunk;
  const int64_t n = std::min(kChunk, row.size - begin);
  float weights[kChunk];
  row.kernels.weights(row.logits + begin, n, row.largest, slope, weights);
  int64_t drawn = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (weights[i] == 0) continue;
    drawn = i;
    passed += weights[i];
    if (passed > target) break;
  }
  return static_cast<int32_t>(begin + drawn);
}

// The k most likely tokens with logits >= cut, in order.
std::vector<Candidate> MostLikely(const Row& row, int64_t k, float cut) {
  std::vector<Candidate> heap;  // the least likely candidate on top
  for (int64_t i = 0; i < row.size; ++i) {
    const Candidate candidate = {row.Logit(i), static_cast<int32_t>(i)};
    if (candidate.logit < cut) continue;
    if (static_cast<int64_t>(heap.size()) == k) {
      if (!MoreLikely(candidate, heap.front())) continue;
      std::pop_heap(heap.begin(), heap.end(), MoreLikely);
      heap.pop_back();
    }
    heap.push_back(candidate);
    std::push_heap(heap.begin(), heap.end(), MoreLikely);
  }
  std::sort_heap(heap.begin(), heap.end(), MoreLikely);
  return heap;
}

// All tokens with logits >= cut, in id order.
std::vector<Candidate> AtLeast(const Row& row, float cut) {
  std::vector<Candidate> found;
  for (int64_t i = 0; i < row.size; ++i) {
    const float logit = row.Logit(i);
    if (logit >= cut) found.push_back({logit, static_cast<int32_t>(i)});
  }
  return found;
}

// Cuts `ranked` to the shortest run whose weight reaches top_p of `total`. False when all of it
// does not.
bool CutToTopP(const Row& row, float slope, double top_p, double total,
               std::vector<Candidate>& ranked) {
  double sum = 0;
  for (size_t i = 0; i < ranked.size(); ++i) {
    sum += row.Weight(ranked[i].logit, slope);
    if (sum >= top_p * total) {
      ranked.resize(i + 1);
      return true;
    }
  }
  return false;
}

// top_p over all tokens with logits >= cut: ranks only as many of the most likely as it takes.
std::vector<Candidate> TopP(const Row& row, const SampleParams& params, float slope, float cut) {
  double total = 0;
  if (cut == -kInfinity) {
    total = Total(ChunkSums(row, slope));
  } else {
    for (const Candidate& c : AtLeast(row, cut)) total += row.Weight(c.logit, slope);
  }
  for (float depth = 4.0f;; depth *= 4.0f) {
    const float reach = row.largest - depth * params.temperature;
    const bool everything = !(reach > cut) || depth > 1e6f;
    std::vector<Candidate> ranked = AtLeast(row, everything ? cut : reach);
    std::sort(ranked.begin(), ranked.end(), MoreLikely);
    if (CutToTopP(row, slope, params.top_p, total, ranked) || everything) return ranked;
  }
}

// The tokens that min_p, top_k and top_p leave.
std::vector<Candidate> Filter(const Row& row, const SampleParams& params, float slope) {
  float cut = -kInfinity;
  if (params.min_p > 0 && std::isfinite(row.largest)) {
    cut = std::min(row.largest, row.largest + params.temperature * std::log(params.min_p));
  }
  if (params.top_k > 0 && params.top_k < row.size) {
    std::vector<Candidate> ranked = MostLikely(row, params.top_k, cut);
    double total = 0;
    for (const Candidate& c : ranked) total += row.Weight(c.logit, slope);
    if (params.top_p < 1.0f) CutToTopP(row, slope, params.top_p, total, ranked);
    return ranked;
  }
  return params.top_p < 1.0f ? TopP(row, params, slope, cut) : AtLeast(row, cut);
}

// The first of `kept`, in id order, at which the running weight passes `uniform` of the total.
int32_t DrawFrom(const Row& row, float slope, double uniform, std::vector<Candidate> kept) {
  std::sort(kept.begin(), kept.end(),
            [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  double total = 0;
  for (const Candidate& c : kept) total += row.Weight(c.logit, slope);
  const double target = uniform * total;
  double sum = 0;
  int32_t drawn = kept[0].token;
  for (const Candidate& c : kept) {
    const double weight = row.Weight(c.logit, slope);
    if (weight == 0) continue;
    drawn = c.token;
    sum += weight;
    if (sum > target) break;
  }
  return drawn;
}

int32_t Choose(const Row& row, const SampleParams& params) {
  if (params.temperature == 0) return row.FirstLargest();
  const float slope = 1.0f / params.temperature;
  const double uniform = PhiloxUniform(params.seed, params.position);
  const bool filtered =
      (params.top_k > 0 && params.top_k < row.size) || params.top_p < 1.0f || params.min_p > 0;
  // The rare row without a finite largest logit takes the path that needs no sums over all.
  if (!filtered && std::isfinite(row.largest)) return DrawFromAll(row, slope, uniform);
  return DrawFrom(row, slope, uniform, Filter(row, params, slope));
}

void FillLogprobs(const Row& row, const SampleParams& params, SampleResult& result) {
  const double log_total = std::log(Total(ChunkSums(row, 1.0f)));
  auto logprob = [&](float logit) {
    const double below = logit == row.largest ? 0.0 : static_cast<double>(logit) - row.largest;
    return static_cast<float>(below - log_total);
  };
  result.logprob = logprob(row.Logit(result.token));
  const int64_t count = std::min<int64_t>(params.num_logprobs, row.size);
  if (count == 0) return;
  for (const Candidate& c : MostLikely(row, count, -kInfinity)) {
    result.top.push_back({c.token, logprob(c.logit)});
  }
}

}  // namespace

SampleResult SampleRow(const CpuKernels& kernels, const float* logits, int64_t vocabulary,
                       const SampleParams& params) {
  STERNA_CHECK(vocabulary > 0);
  const Row own(kernels, logits, vocabulary);
  SampleResult result;
  if (params.logit_bias.empty() && params.token_counts.empty()) {
    result.token = Choose(own, params);
  } else {
    const std::vector<float> adjusted = Adjusted(logits, vocabulary, params);
    result.token = Choose(Row(kernels, adjusted.data(), vocabulary), params);
  }
  if (params.num_logprobs >= 0) FillLogprobs(own, params, result);
  return result;
}

}  // namespace sterna::cpu
