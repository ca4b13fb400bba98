#include "engine/tuning.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "engine/cache/block_table.h"
#include "engine/cache/kv_cache.h"

namespace sterna {

StatusOr<HeadOptions> HeadFor(HeadOptions head, const Ops<float>& ops) {
  const bool int8 = head.type == HeadType::kInt8;
  if (!int8 && ops.max_shortlist_rows() > 0) return head;
  if (head.shortlist == ShortlistUse::kOn) {
    return absl::InvalidArgumentError(
        absl::StrCat("a shortlist is of no use to ",
                     int8 ? "a head that is int8 itself" : ops.Name() + ", which never reads it"));
  }
  head.shortlist = ShortlistUse::kOff;
  return head;
}

std::vector<Tuning> TuneOps(const ModelWeights& weights, Ops<float>* ops) {
  // More than the caches hold of a model that is, and a few hundredths of a second to read.
  constexpr int64_t kEnoughBytes = int64_t{128} << 20;
  std::vector<const TernaryMatrix*> samples;
  int64_t bytes = 0;
  for (const LayerWeights& layer : weights.layers) {
    if (bytes >= kEnoughBytes) break;
    samples.push_back(&layer.gate.w);
    bytes += layer.gate.w.packed_bytes();
  }
  return ops->Tune(samples);
}

StatusOr<double> MeasurePromptRate(const ModelConfig& config, const ModelWeights& weights,
                                   Ops<float>* ops) {
  constexpr int64_t kFirstTokens = 8;
  constexpr int64_t kEnoughNs = 10'000'000;
  // Of a prompt without its end the last layer computes q, k and v alone: this part of a layer.
  const LayerWeights& layer = weights.layers.front();
  const auto packed_bytes = [](std::initializer_list<const TernaryLinearWeights*> linears) {
    int64_t bytes = 0;
    for (const TernaryLinearWeights* linear : linears) bytes += linear->w.packed_bytes();
    return static_cast<double>(bytes);
  };
  const double qkv_bytes = packed_bytes({&layer.q, &layer.k, &layer.v});
  const double last_layer =
      qkv_bytes / (qkv_bytes + packed_bytes({&layer.o, &layer.gate, &layer.up, &layer.down}));
  const int64_t most = std::min(kProbeTokens, config.max_positions);
  ModelConfig first_layers = config;
  first_layers.num_layers = std::min<int64_t>(2, config.num_layers);
  STERNA_ASSIGN_OR_RETURN(
      Model<float> model,
      Model<float>::Create(
          &first_layers, &weights, ops,
          {.tokens = most, .logit_rows = 1, .sequences = 1, .context_tokens = most}));
  const int64_t blocks = BlockTable::BlocksFor(most);
  STERNA_ASSIGN_OR_RETURN(KvCache<float> cache,
                          KvCache<float>::Create(first_layers, KvType::kF16, blocks, *ops));
  StepBatch batch;
  batch.num_sequences = 1;
  batch.max_blocks = blocks;
  for (int32_t block = 0; block < blocks; ++block) batch.block_tables.push_back(block);
  const auto measure_ns = [&](int64_t tokens) -> StatusOr<int64_t> {
    for (auto i = static_cast<int32_t>(batch.num_tokens()); i < tokens; ++i) {
      batch.token_ids.push_back(static_cast<int32_t>(i % config.vocab_size));
      batch.positions.push_back(i);
      batch.slots.push_back(i);
      batch.sequence.push_back(0);
    }
    const int64_t start_ns = Clock::Steady().NowNs();
    model.Forward(batch, cache);
    STERNA_RETURN_IF_ERROR(ops->Finish());
    return std::max<int64_t>(Clock::Steady().NowNs() - start_ns, 1);
  };
  // More tokens until they take long enough; small models get there with all, and are measured
  // again, as the first run of a size has caches and buffers to fill.
  int64_t tokens = std::min(kFirstTokens, most);
  STERNA_ASSIGN_OR_RETURN(int64_t ns, measure_ns(tokens));
  while (tokens < most && ns < kEnoughNs) {
    tokens = std::min(2 * tokens, most);
    STERNA_ASSIGN_OR_RETURN(ns, measure_ns(tokens));
  }
  for (int run = 0; run < 2 && ns < 2 * kEnoughNs; ++run) {
    STERNA_ASSIGN_OR_RETURN(const int64_t again_ns, measure_ns(tokens));
    ns = std::min(ns, again_ns);
  }
  const auto layers = [&](const ModelConfig& c) {
    return static_cast<double>(c.num_layers - 1) + last_layer;
  };
  const double model_ns = static_cast<double>(ns) * layers(config) / layers(first_layers);
  return static_cast<double>(tokens) * 1e9 / model_ns;
}

int64_t ChoosePromptTokens(double tokens_per_second, double seconds) {
  constexpr int64_t kMostChunks = kMostPromptTokens / kProbeTokens;
  const double chunks = std::floor(tokens_per_second * seconds / kProbeTokens);
  return static_cast<int64_t>(std::clamp(chunks, 1.0, static_cast<double>(kMostChunks))) *
         kProbeTokens;
}

}  // namespace sterna
