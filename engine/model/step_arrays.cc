#include "engine/model/step_arrays.h"

#include <algorithm>
#include <ranges>

#include "base/check.h"
#include "engine/cache/block_table.h"

namespace sterna {
namespace {

// Every array begins on a multiple of this many elements, 256 bytes.
constexpr int64_t kAlignment = 64;
constexpr int64_t kTokenArrays = 4;
constexpr int64_t kLogitArrays = 3;

int64_t TableRoom(const StepLimits& limits) {
  return limits.sequences * BlockTable::BlocksFor(limits.context_tokens);
}

}  // namespace

template <typename F>
StatusOr<StepArrays<F>> StepArrays<F>::Create(const StepLimits& limits, Ops<F>* ops) {
  const int64_t elements = kTokenArrays * RoundUp(limits.tokens, kAlignment) +
                           kLogitArrays * RoundUp(limits.logit_rows, kAlignment) +
                           TableRoom(limits);
  STERNA_ASSIGN_OR_RETURN(DeviceArray<int32_t> device, AllocateArray<int32_t>(*ops, elements));
  return StepArrays(limits, ops, std::move(device));
}

template <typename F>
typename StepArrays<F>::View StepArrays<F>::Upload(const StepBatch& batch) {
  int64_t begin = 0, end = 0;  // of the array staged last
  const auto stage = [&](const auto& values, int64_t room) {
    STERNA_CHECK(std::ssize(values) <= room);
    begin = RoundUp(begin, kAlignment);
    std::ranges::copy(values, staging_.begin() + begin);
    const std::span<const int32_t> staged(device_.data() + begin, values.size());
    end = begin + std::ssize(values);
    begin += room;
    return staged;
  };
  const auto of_logit_rows = [&](const std::vector<int32_t>& values) {
    return batch.logit_rows |
           std::views::transform([&](int32_t row) { return values[static_cast<size_t>(row)]; });
  };
  View view;
  view.token_ids = stage(batch.token_ids, limits_.tokens);
  view.positions = stage(batch.positions, limits_.tokens);
  view.slots = stage(batch.slots, limits_.tokens);
  view.sequence = stage(batch.sequence, limits_.tokens);
  view.logit_rows = stage(batch.logit_rows, limits_.logit_rows);
  view.logit_positions = stage(of_logit_rows(batch.positions), limits_.logit_rows);
  view.logit_sequence = stage(of_logit_rows(batch.sequence), limits_.logit_rows);
  view.block_tables = {stage(batch.block_tables, TableRoom(limits_)).data(), batch.num_sequences,
                       batch.max_blocks};
  ops_->CopyToDevice(device_.data(), staging_.data(), end * static_cast<int64_t>(sizeof(int32_t)));
  return view;
}

template class StepArrays<float>;
template class StepArrays<double>;

}  // namespace sterna
