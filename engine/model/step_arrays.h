// The arrays of a StepBatch where ops read them: brought to the device in one copy a step, each to
// an address that stays the same from step to step, so that a device can record a step and run it
// again.
//
// Lifetime: the ops must outlive it. Thread contract: the engine thread alone.
#ifndef STERNA_ENGINE_MODEL_STEP_ARRAYS_H_
#define STERNA_ENGINE_MODEL_STEP_ARRAYS_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/schedule/step_batch.h"
#include "kernels/ops.h"

namespace sterna {

template <typename F>
class StepArrays {
 public:
  // All in the device's memory; valid until the next Upload.
  struct View {
    std::span<const int32_t> token_ids;  // [T], as are the next three; see StepBatch
    std::span<const int32_t> positions;
    std::span<const int32_t> slots;
    std::span<const int32_t> sequence;
    std::span<const int32_t> logit_rows;       // [R]
    std::span<const int32_t> logit_positions;  // [R]: of the tokens that logit_rows names
    std::span<const int32_t> logit_sequence;   // [R]: of the same
    Mat<const int32_t> block_tables;           // [num_sequences, max_blocks]
  };

  // Room for steps within `limits`, in memory of `ops`.
  static StatusOr<StepArrays> Create(const StepLimits& limits, Ops<F>* ops);

  // The batch, which must be within the limits, on the device.
  View Upload(const StepBatch& batch);

 private:
  StepArrays(const StepLimits& limits, Ops<F>* ops, DeviceArray<int32_t> device)
      : limits_(limits),
        ops_(ops),
        staging_(static_cast<size_t>(device.size())),
        device_(std::move(device)) {}

  StepLimits limits_;
  Ops<F>* ops_;
  // In this order: the arrays of tokens, those of rows of logits, block tables. The last is the
  // only large one, and ends the copy where the step's tables end.
  std::vector<int32_t> staging_;
  DeviceArray<int32_t> device_;
};

extern template class StepArrays<float>;
extern template class StepArrays<double>;

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_STEP_ARRAYS_H_
