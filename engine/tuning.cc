#include "engine/tuning.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/clock.h"
#include "engine/cache/block_table.h"
#include "engine/cache/kv_cache.h"

namespace sterna {

std::vector<Tuning> TuneOps(const ModelWeights& weights, Ops<float>* ops) {
  constexpr size_t kLayers = 4;
  std::vector<const TernaryMatrix*> samples;
  for (const LayerWeights& layer : weights.layers) {
    if (samples.size() < kLayers) samples.push_back(&layer.gate.w);
  }
  return ops->Tune(samples);
}

StatusOr<double> MeasurePromptRate(const ModelConfig& config, const ModelWeights& weights,
                                   Ops<float>* ops) {
  constexpr int64_t kLayers = 2;
  constexpr int kRuns = 4;  // the first has caches and buffers to fill
  const int64_t tokens = std::min(kProbeTokens, config.max_positions);
  ModelConfig first_layers = config;
  first_layers.num_layers = std::min(config.num_layers, kLayers);
  Model<float> model(&first_layers, &weights, ops, tokens, /*max_logit_rows=*/1);
  const int64_t blocks = BlockTable::BlocksFor(tokens);
  KvCache<float> cache(first_layers, KvType::kF16, blocks);
  StepBatch batch;
  batch.num_sequences = 1;
  batch.max_blocks = blocks;
  for (int32_t block = 0; block < blocks; ++block) batch.block_tables.push_back(block);
  for (int32_t i = 0; i < tokens; ++i) {
    batch.token_ids.push_back(static_cast<int32_t>(i % config.vocab_size));
    batch.positions.push_back(i);
    batch.slots.push_back(i);
    batch.sequence.push_back(0);
  }
  int64_t best_ns = std::numeric_limits<int64_t>::max();
  for (int run = 0; run < kRuns; ++run) {
    const int64_t start_ns = Clock::Steady().NowNs();
    STERNA_RETURN_IF_ERROR(model.Forward(batch, cache).status());
    best_ns = std::min(best_ns, Clock::Steady().NowNs() - start_ns);
  }
  const double whole_ns = static_cast<double>(std::max<int64_t>(best_ns, 1)) *
                          static_cast<double>(config.num_layers) /
                          static_cast<double>(first_layers.num_layers);
  return static_cast<double>(tokens) * 1e9 / whole_ns;
}

int64_t ChooseStepTokens(double tokens_per_second, double seconds, int64_t max_sequences) {
  constexpr int64_t kMostChunks = kMostStepTokens / kProbeTokens;
  const double chunks = std::floor(tokens_per_second * seconds / kProbeTokens);
  return max_sequences +
         static_cast<int64_t>(std::clamp(chunks, 1.0, static_cast<double>(kMostChunks))) *
             kProbeTokens;
}

}  // namespace sterna
