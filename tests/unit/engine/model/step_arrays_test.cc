#include "engine/model/step_arrays.h"

#include <vector>

#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "tests/testing/separate_memory_ops.h"

namespace sterna {
namespace {

using testing::SeparateMemoryOps;

constexpr StepLimits kLimits = {
    .tokens = 70, .logit_rows = 3, .sequences = 3, .context_tokens = 5 * kKvBlockTokens};

// Two sequences; the second has `tokens` - 1 of the tokens.
StepBatch Batch(int32_t tokens, int64_t max_blocks) {
  StepBatch batch;
  batch.num_sequences = 2;
  batch.max_blocks = max_blocks;
  for (int32_t i = 0; i < 2 * max_blocks; ++i) batch.block_tables.push_back(100 + i);
  for (int32_t t = 0; t < tokens; ++t) {
    batch.token_ids.push_back(1000 + t);
    batch.positions.push_back(2000 + t);
    batch.slots.push_back(3000 + t);
    batch.sequence.push_back(t == 0 ? 0 : 1);
  }
  batch.logit_rows = {0, tokens - 1};
  return batch;
}

class StepArraysTest : public ::testing::Test {
 protected:
  std::vector<int32_t> Read(std::span<const int32_t> device) {
    std::vector<int32_t> host(device.size());
    EXPECT_TRUE(
        ops_.CopyToHost(host.data(), device.data(), static_cast<int64_t>(device.size_bytes()))
            .ok());
    return host;
  }

  SeparateMemoryOps<float> ops_{CreateReferenceOps<float>()};
  StatusOr<StepArrays<float>> arrays_ = StepArrays<float>::Create(kLimits, &ops_);
};

TEST_F(StepArraysTest, TheWholeBatchInOneCopyAtTheSameAddresses) {
  ASSERT_TRUE(arrays_.ok()) << arrays_.status();
  std::vector<const int32_t*> addresses;
  for (const auto& [tokens, max_blocks] : {std::pair(70, 5), {2, 1}, {70, 3}}) {
    const StepBatch batch = Batch(tokens, max_blocks);
    const int64_t copies = ops_.copies_to_device();
    const StepArrays<float>::View view = arrays_->Upload(batch);
    EXPECT_EQ(ops_.copies_to_device(), copies + 1);
    EXPECT_EQ(Read(view.token_ids), batch.token_ids);
    EXPECT_EQ(Read(view.positions), batch.positions);
    EXPECT_EQ(Read(view.slots), batch.slots);
    EXPECT_EQ(Read(view.sequence), batch.sequence);
    EXPECT_EQ(Read(view.logit_rows), batch.logit_rows);
    EXPECT_EQ(Read(view.logit_positions), (std::vector<int32_t>{2000, 2000 + tokens - 1}));
    EXPECT_EQ(Read(view.logit_sequence), (std::vector<int32_t>{0, 1}));
    EXPECT_EQ(view.block_tables.rows, 2);
    EXPECT_EQ(view.block_tables.cols, max_blocks);
    EXPECT_EQ(Read({view.block_tables.data, batch.block_tables.size()}), batch.block_tables);
    const std::vector<const int32_t*> here = {
        view.token_ids.data(),      view.positions.data(),  view.slots.data(),
        view.sequence.data(),       view.logit_rows.data(), view.logit_positions.data(),
        view.logit_sequence.data(), view.block_tables.data};
    if (addresses.empty()) addresses = here;
    EXPECT_EQ(here, addresses);
  }
}

TEST_F(StepArraysTest, StepsOfAnySizeWithinTheLimits) {
  ASSERT_TRUE(arrays_.ok()) << arrays_.status();
  StepBatch batch = Batch(1, 5);
  batch.logit_rows.clear();
  EXPECT_TRUE(arrays_->Upload(batch).logit_rows.empty());
  EXPECT_DEATH(arrays_->Upload(Batch(71, 1)), "check failed");
  batch = Batch(3, 5);
  batch.block_tables.resize(16);
  EXPECT_DEATH(arrays_->Upload(batch), "check failed");
}

}  // namespace
}  // namespace sterna
