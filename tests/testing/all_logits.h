// Logits at every position of one token sequence, through the paged cache, on any device.
#ifndef STERNA_TESTS_TESTING_ALL_LOGITS_H_
#define STERNA_TESTS_TESTING_ALL_LOGITS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"
#include "engine/cache/kv_cache.h"
#include "engine/model/model.h"

namespace sterna::testing {

// [tokens, vocabulary], with weights placed for `ops`. Physical blocks are in reverse order, so
// that block tables matter.
template <typename F>
std::vector<F> AllLogits(const ModelConfig& config, const ModelWeights& weights, Ops<F>& ops,
                         std::span<const int32_t> tokens, KvType kv_type = KvType::kFull) {
  constexpr int64_t kChunk = 32;
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t num_blocks = (count + kKvBlockTokens - 1) / kKvBlockTokens;
  StatusOr<Model<F>> model = Model<F>::Create(
      &config, &weights, &ops,
      {.tokens = kChunk, .logit_rows = kChunk, .sequences = 1, .context_tokens = count});
  StatusOr<KvCache<F>> cache = KvCache<F>::Create(config, kv_type, num_blocks, ops);
  STERNA_CHECK(model.ok() && cache.ok());
  std::vector<F> all;
  for (int64_t start = 0; start < count; start += kChunk) {
    StepBatch batch;
    batch.num_sequences = 1;
    batch.max_blocks = num_blocks;
    for (int64_t b = 0; b < num_blocks; ++b) {
      batch.block_tables.push_back(static_cast<int32_t>(num_blocks - 1 - b));
    }
    for (int64_t p = start; p < std::min(count, start + kChunk); ++p) {
      batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()));
      batch.token_ids.push_back(tokens[p]);
      batch.positions.push_back(static_cast<int32_t>(p));
      batch.slots.push_back(static_cast<int32_t>(
          batch.block_tables[p / kKvBlockTokens] * kKvBlockTokens + p % kKvBlockTokens));
      batch.sequence.push_back(0);
    }
    const Mat<const F> logits = model->Forward(batch, *cache);
    const int64_t computed = logits.rows * logits.cols;
    all.resize(all.size() + static_cast<size_t>(computed));
    STERNA_CHECK(ops.CopyToHost(all.data() + std::ssize(all) - computed, logits.data,
                                computed * static_cast<int64_t>(sizeof(F)))
                     .ok());
  }
  return all;
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_ALL_LOGITS_H_
