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

// Tokens whose largest logit is looked at before each of them is.
constexpr int64_t kScan = 256;

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
    for (int64_t begin = 0; begin < size; begin += kScan) {
      const int64_t end = std::min(begin + kScan, size);
      if (kernels.largest(logits + begin, end - begin) != largest) continue;
      for (int64_t i = begin; i < end; ++i) {
        if (Logit(i) == largest) return static_cast<int32_t>(i);
      }
    }
    return 0;
  }
};

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
  for (int64_t begin = 0; begin < row.size; begin += kScan) {
    const int64_t end = std::min(begin + kScan, row.size);
    const bool full = std::ssize(heap) == k;
    // Ids only grow, so an equal logit comes too late.
    if (full && !(row.kernels.largest(row.logits + begin, end - begin) > heap.front().logit)) {
      continue;
    }
    for (int64_t i = begin; i < end; ++i) {
      const Candidate candidate = {row.Logit(i), static_cast<int32_t>(i)};
      if (candidate.logit < cut) continue;
      if (std::ssize(heap) == k) {
        if (!(candidate.logit > heap.front().logit)) continue;
        std::pop_heap(heap.begin(), heap.end(), MoreLikely);
        heap.pop_back();
      }
      heap.push_back(candidate);
      std::push_heap(heap.begin(), heap.end(), MoreLikely);
    }
  }
  std::sort_heap(heap.begin(), heap.end(), MoreLikely);
  return heap;
}

// The last of the shortest run of `ranked` whose weight, added to `sum`, reaches `target`; of all
// of them where none does.
Candidate LastToReach(const Row& row, float slope, const std::vector<Candidate>& ranked, double sum,
                      double target) {
  for (const Candidate& c : ranked) {
    sum += row.Weight(c.logit, slope);
    if (sum >= target) return c;
  }
  return ranked.back();
}

// The least likely token that top_p keeps of those with logits >= cut. A histogram over the logits
// finds the bucket in which the run ends, and only that bucket is sorted.
Candidate LeastOfTopP(const Row& row, double top_p, float slope, float cut) {
  constexpr int kBuckets = 4096;
  constexpr float kBucketsPerUnit = 64.0f;  // the last bucket starts at a weight of exp(-64)
  const float per_logit = slope * kBucketsPerUnit;
  auto bucket = [&](float logit) {
    if (logit == row.largest) return 0;
    const float depth = (row.largest - logit) * per_logit;
    return depth < kBuckets - 1 ? static_cast<int>(depth) : kBuckets - 1;
  };
  std::vector<double> mass(kBuckets);
  float weights[kChunk];
  for (int64_t begin = 0; begin < row.size; begin += kChunk) {
    const int64_t n = std::min(kChunk, row.size - begin);
    row.kernels.weights(row.logits + begin, n, row.largest, slope, weights);
    for (int64_t i = 0; i < n; ++i) {
      const float logit = row.Logit(begin + i);
      if (logit >= cut) mass[bucket(logit)] += weights[i];
    }
  }
  const double target = top_p * Total(mass);
  double above = 0;  // mass of the buckets before `last`
  int last = 0;
  while (last < kBuckets - 1 && above + mass[last] < target) above += mass[last++];
  while (mass[last] == 0) --last;  // rounding carried the walk into empty buckets
  std::vector<Candidate> ranked;
  for (int64_t i = 0; i < row.size; ++i) {
    const float logit = row.Logit(i);
    if (logit >= cut && bucket(logit) == last) ranked.push_back({logit, static_cast<int32_t>(i)});
  }
  std::sort(ranked.begin(), ranked.end(), MoreLikely);
  return LastToReach(row, slope, ranked, above, target);
}

// The least logit that min_p keeps.
float MinPCut(const Row& row, const SampleParams& params) {
  if (params.min_p <= 0 || !std::isfinite(row.largest)) return -kInfinity;
  return std::min(row.largest, row.largest + params.temperature * std::log(params.min_p));
}

// The least likely token that min_p, top_k and top_p keep: they keep those more likely, too.
Candidate LeastKept(const Row& row, const SampleParams& params, float slope) {
  const float cut = MinPCut(row, params);
  if (params.top_k > 0 && params.top_k < row.size) {
    const std::vector<Candidate> ranked = MostLikely(row, params.top_k, cut);
    if (params.top_p >= 1.0f) return ranked.back();
    double total = 0;
    for (const Candidate& c : ranked) total += row.Weight(c.logit, slope);
    return LastToReach(row, slope, ranked, 0, params.top_p * total);
  }
  if (params.top_p < 1.0f) return LeastOfTopP(row, params.top_p, slope, cut);
  return {cut, std::numeric_limits<int32_t>::max()};
}

// Draws from the tokens that are at least as likely as `least`.
int32_t DrawDownTo(const Row& row, float slope, double uniform, const Candidate& least) {
  struct Weighted {
    int32_t token;
    double weight;
  };
  std::vector<Weighted> kept;
  double total = 0;
  for (int64_t i = 0; i < row.size; ++i) {
    const Candidate candidate = {row.Logit(i), static_cast<int32_t>(i)};
    if (MoreLikely(least, candidate)) continue;
    const double weight = row.Weight(candidate.logit, slope);
    if (weight == 0) continue;
    kept.push_back({candidate.token, weight});
    total += weight;
  }
  const double target = uniform * total;
  double sum = 0;
  for (const Weighted& candidate : kept) {
    sum += candidate.weight;
    if (sum > target) return candidate.token;
  }
  return kept.back().token;
}

int32_t Choose(const Row& row, const SampleParams& params) {
  if (params.temperature == 0) return row.FirstLargest();
  const float slope = 1.0f / params.temperature;
  const double uniform = PhiloxUniform(params.seed, params.position);
  const bool filtered =
      (params.top_k > 0 && params.top_k < row.size) || params.top_p < 1.0f || params.min_p > 0;
  // The rare row without a finite largest logit takes the path that needs no sums over all.
  if (!filtered && std::isfinite(row.largest)) return DrawFromAll(row, slope, uniform);
  return DrawDownTo(row, slope, uniform, LeastKept(row, params, slope));
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

void AdjustLogits(const SampleParams& params, std::span<float> logits) {
  for (const auto& [token, bias] : params.logit_bias) {
    STERNA_CHECK(token >= 0 && token < std::ssize(logits));
    logits[static_cast<size_t>(token)] += bias;
  }
  for (const TokenCount& count : params.token_counts) {
    STERNA_CHECK(count.token >= 0 && count.token < std::ssize(logits));
    float& logit = logits[static_cast<size_t>(count.token)];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -= params.frequency_penalty * static_cast<float>(count.in_output);
    if (count.in_output > 0) logit -= params.presence_penalty;
  }
}

bool DrawsFromMostLikely(const SampleParams& params, int64_t many) {
  if (params.num_logprobs >= 0) return false;
  return params.temperature == 0 || (params.top_k > 0 && params.top_k < many) || params.min_p > 0;
}

float LeastDrawable(const CpuKernels& kernels, const SampleParams& params, std::span<float> lower) {
  AdjustLogits(params, lower);
  const Row row(kernels, lower.data(), std::ssize(lower));
  if (params.temperature == 0) return row.largest;
  const float cut = MinPCut(row, params);
  if (params.top_k <= 0 || params.top_k >= row.size) return cut;
  return std::max(cut, MostLikely(row, params.top_k, -kInfinity).back().logit);
}

SampleResult SampleRow(const CpuKernels& kernels, const float* logits, int64_t vocabulary,
                       const SampleParams& params) {
  STERNA_CHECK(vocabulary > 0);
  const Row own(kernels, logits, vocabulary);
  STERNA_CHECK(params.target < vocabulary);
  SampleResult result;
  if (params.target >= 0) {
    result.token = params.target;
  } else if (params.logit_bias.empty() && params.token_counts.empty()) {
    result.token = Choose(own, params);
  } else {
    std::vector<float> adjusted(logits, logits + vocabulary);
    AdjustLogits(params, adjusted);
    result.token = Choose(Row(kernels, adjusted.data(), vocabulary), params);
  }
  if (params.num_logprobs >= 0) FillLogprobs(own, params, result);
  return result;
}

}  // namespace sterna::cpu
