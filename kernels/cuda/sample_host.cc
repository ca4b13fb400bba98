#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "base/check.h"
#include "kernels/cuda/sample.h"
#include "kernels/philox.h"

namespace sterna::cuda {
namespace {

bool Penalises(const SampleParams& p) {
  return !p.token_counts.empty() && (p.repetition_penalty != 1.0f || p.presence_penalty != 0.0f ||
                                     p.frequency_penalty != 0.0f);
}

// What a row asks for besides its entries.
SampleRow StagedRow(const SampleParams& p) {
  STERNA_CHECK(p.temperature >= 0 && p.num_logprobs <= kMostTopLogprobs);
  STERNA_CHECK(p.top_p >= 0 && p.top_p <= 1 && p.min_p >= 0 && p.min_p <= 1);
  const double temperature = p.temperature;
  const bool draws = temperature > 0 && p.target < 0;
  SampleRow row = {};
  row.exponent_scale = draws ? std::numbers::log2e / temperature : 0;
  row.min_p_depth = draws && p.min_p > 0 ? temperature * std::log(static_cast<double>(p.min_p))
                                         : -std::numeric_limits<double>::infinity();
  // The uniform is on a grid of 2^-53.
  row.uniform = static_cast<uint64_t>(PhiloxUniform(p.seed, p.position) * 0x1p53) << 11;
  row.bucket_scale = draws ? static_cast<float>(kSampleBucketsPerNat / temperature) : 0;
  row.repetition_penalty = p.repetition_penalty;
  row.presence_penalty = p.presence_penalty;
  row.frequency_penalty = p.frequency_penalty;
  row.top_p = p.top_p;
  row.top_k = std::max(p.top_k, 0);
  row.num_logprobs = std::max(p.num_logprobs, -1);
  row.draws = draws;
  row.drawn_row = -1;
  row.target = std::max(p.target, -1);
  return row;
}

}  // namespace

size_t SampleStagingBytes(std::span<const SampleParams> params) {
  size_t entries = 0;
  for (const SampleParams& p : params) {
    entries += p.logit_bias.size() + (Penalises(p) ? p.token_counts.size() : 0);
  }
  return params.size() * sizeof(SampleRow) + entries * sizeof(SampleEntry);
}

SampleWork StageSampleParams(std::span<const SampleParams> params, int32_t vocabulary,
                             std::span<uint8_t> staging) {
  STERNA_CHECK(staging.size() == SampleStagingBytes(params));
  STERNA_CHECK(staging.size() <= std::numeric_limits<uint32_t>::max());
  SampleWork work;
  size_t next = params.size() * sizeof(SampleRow);
  auto append_entry = [&](const SampleEntry& entry) {
    std::memcpy(&staging[next], &entry, sizeof(entry));
    next += sizeof(entry);
  };
  auto append = [&](int32_t token, uint32_t value) {
    STERNA_CHECK(token >= 0 && token < vocabulary);
    append_entry({token, value});
  };
  for (size_t r = 0; r < params.size(); ++r) {
    const SampleParams& p = params[r];
    STERNA_CHECK(p.target < vocabulary);
    SampleRow row = StagedRow(p);
    row.bias_offset_bytes = static_cast<uint32_t>(next);
    row.bias_entries = static_cast<uint32_t>(p.logit_bias.size());
    for (const auto& [token, bias] : p.logit_bias) append(token, std::bit_cast<uint32_t>(bias));
    row.counts_offset_bytes = static_cast<uint32_t>(next);
    if (Penalises(p)) {
      row.counts_entries = static_cast<uint32_t>(p.token_counts.size());
      std::span<const TokenCount> counts = p.token_counts;
      if (IsDrawnToken(counts.back().token)) {
        row.drawn_row = static_cast<int32_t>(RowOfDrawnToken(counts.back().token));
        counts = counts.first(counts.size() - 1);
      }
      for (const TokenCount& count : counts) {
        append(count.token, static_cast<uint32_t>(count.in_output));
      }
      if (row.drawn_row >= 0) append_entry({.token = -1, .value = 0});
    }
    std::memcpy(&staging[r * sizeof(SampleRow)], &row, sizeof(row));
    work.bias |= row.bias_entries > 0;
    work.penalties |= row.counts_entries > 0;
    work.draws |= row.draws != 0;
    work.cuts |= row.draws != 0 && (row.top_k > 0 || row.top_p < 1.0f);
    work.logprobs |= row.num_logprobs >= 0;
  }
  return work;
}

size_t SampleResultBytes(int64_t rows, bool logprobs) {
  const size_t tokens = logprobs ? 1 + kMostTopLogprobs : 1;
  return static_cast<size_t>(rows) * tokens * sizeof(SampleToken);
}

void ReadSampleResults(std::span<const uint8_t> buffer, std::span<const SampleParams> params,
                       int32_t vocabulary, std::span<SampleResult> results) {
  STERNA_CHECK(results.size() == params.size());
  auto at = [&](size_t i) {
    STERNA_CHECK((i + 1) * sizeof(SampleToken) <= buffer.size());
    SampleToken token;
    std::memcpy(&token, &buffer[i * sizeof(token)], sizeof(token));
    return token;
  };
  for (size_t r = 0; r < params.size(); ++r) {
    const SampleToken chosen = at(r);
    results[r] = {.token = chosen.token, .logprob = chosen.logprob, .top = {}};
    const int32_t count = std::min(params[r].num_logprobs, vocabulary);
    for (int32_t i = 0; i < count; ++i) {
      const SampleToken top = at(params.size() + r * kMostTopLogprobs + static_cast<size_t>(i));
      results[r].top.push_back({top.token, top.logprob});
    }
  }
}

}  // namespace sterna::cuda
