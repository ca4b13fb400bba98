// The flat arrays of one forward pass: what Model reads. Built from a StepPlan; plain data.
#ifndef STERNA_ENGINE_SCHEDULE_STEP_BATCH_H_
#define STERNA_ENGINE_SCHEDULE_STEP_BATCH_H_

#include <cstdint>
#include <vector>

namespace sterna {

struct StepBatch {
  // Per token of the step, [T]; tokens of one sequence are neighbours in order of position.
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;  // within the sequence, from 0
  std::vector<int32_t> slots;      // where its K and V go (kernels/tensor.h, KvView)
  std::vector<int32_t> sequence;   // row of block_tables

  // Per sequence: its physical blocks in order, [num_sequences, max_blocks], unused entries 0.
  std::vector<int32_t> block_tables;
  int64_t num_sequences = 0;
  int64_t max_blocks = 0;

  // Tokens (indices into the arrays above) whose logits are wanted, [R].
  std::vector<int32_t> logit_rows;

  int64_t num_tokens() const { return static_cast<int64_t>(token_ids.size()); }
  int64_t num_logits() const { return static_cast<int64_t>(logit_rows.size()); }
};

// The largest step that something has room for.
struct StepLimits {
  int64_t tokens;
  int64_t logit_rows;
  int64_t sequences;
  int64_t context_tokens;  // of one sequence, computed before and in the step

  bool Covers(const StepLimits& other) const {
    return tokens >= other.tokens && logit_rows >= other.logit_rows &&
           sequences >= other.sequences && context_tokens >= other.context_tokens;
  }
};

}  // namespace sterna

#endif  // STERNA_ENGINE_SCHEDULE_STEP_BATCH_H_
