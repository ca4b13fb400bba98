#include "engine/model/model.h"

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "tests/testing/tiny_model.h"

namespace sterna {
namespace {

constexpr int64_t kBlocks = 4;  // of each of two sequences
constexpr StepLimits kLimits = {
    .tokens = 64, .logit_rows = 64, .sequences = 2, .context_tokens = kBlocks * kKvBlockTokens};

// `count` tokens of each of two sequences, from position `start` on, and no logits.
StepBatch BatchOfTwo(int32_t start, int32_t count) {
  StepBatch batch;
  batch.num_sequences = 2;
  batch.max_blocks = kBlocks;
  for (int32_t block = 0; block < 2 * kBlocks; ++block) batch.block_tables.push_back(block);
  for (int32_t sequence = 0; sequence < 2; ++sequence) {
    for (int32_t position = start; position < start + count; ++position) {
      batch.token_ids.push_back((sequence * 101 + position * 37) % 256);
      batch.positions.push_back(position);
      batch.slots.push_back(sequence * kBlocks * kKvBlockTokens + position);
      batch.sequence.push_back(sequence);
    }
  }
  return batch;
}

StepBatch WithLogitsOf(StepBatch batch, std::vector<int32_t> rows) {
  batch.logit_rows = std::move(rows);
  return batch;
}

// The last layer leaves out tokens whose logits nobody wants: nobody may notice, neither the others
// of this step nor, through the cache, those of the next.
TEST(ModelTest, LogitsDoNotDependOnWhichOthersAreWanted) {
  std::vector<int32_t> every_row(20);
  for (size_t i = 0; i < every_row.size(); ++i) every_row[i] = static_cast<int32_t>(i);
  for (const std::string& isa : CpuIsaLevels()) {
    auto ops = CreateCpuOps({.num_threads = 2, .isa = isa});
    ASSERT_TRUE(ops.ok()) << ops.status();
    for (const int64_t layers : {1, 3}) {
      ModelConfig config = testing::TinyConfig();
      config.num_layers = layers;
      config.linear_rms_norm = layers == 1;  // with a norm for each linear, too
      const ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/layers == 3);
      auto model = Model<float>::Create(&config, &weights, ops->get(), kLimits);
      ASSERT_TRUE(model.ok()) << model.status();
      // Two steps of 10 tokens each: the logits of the second.
      const auto logits = [&](std::vector<int32_t> first_rows, std::vector<int32_t> rows) {
        auto cache = KvCache<float>::Create(config, KvType::kFull, 2 * kBlocks, **ops);
        model->Forward(WithLogitsOf(BatchOfTwo(0, 10), std::move(first_rows)), *cache);
        const Mat<const float> result =
            model->Forward(WithLogitsOf(BatchOfTwo(10, 10), std::move(rows)), *cache);
        return std::vector<float>(result.data, result.data + result.rows * result.cols);
      };
      const std::vector<float> all = logits(every_row, every_row);
      for (const std::vector<int32_t>& rows :
           std::vector<std::vector<int32_t>>{{}, {9, 19}, {0}, {19, 3, 11}}) {
        const std::vector<float> some = logits({}, rows);
        ASSERT_EQ(std::ssize(some), std::ssize(rows) * config.vocab_size);
        for (size_t i = 0; i < rows.size(); ++i) {
          const auto bytes = static_cast<size_t>(config.vocab_size) * sizeof(float);
          EXPECT_EQ(std::memcmp(some.data() + i * config.vocab_size,
                                all.data() + rows[i] * config.vocab_size, bytes),
                    0)
              << isa << ", " << layers << " layers, row " << rows[i] << " of " << rows.size();
        }
      }
    }
  }
}

// Ops on a device read what a batch says without looking at it.
TEST(ModelDeathTest, ABatchThatNamesWhatIsNotThere) {
  const ModelConfig config = testing::TinyConfig();
  const ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/false);
  const std::unique_ptr<Ops<float>> ops = *CreateCpuOps({.num_threads = 1});
  auto model = Model<float>::Create(&config, &weights, ops.get(), kLimits);
  auto cache = KvCache<float>::Create(config, KvType::kFull, 2 * kBlocks, *ops);
  ASSERT_TRUE(model.ok() && cache.ok());
  const StepBatch good = WithLogitsOf(BatchOfTwo(0, 10), {9});
  model->Forward(good, *cache);
  const auto expect_death = [&](const auto& spoil, const char* what) {
    StepBatch bad = good;
    spoil(bad);
    EXPECT_DEATH(model->Forward(bad, *cache), what);
  };
  expect_death([](StepBatch& b) { b.token_ids[3] = 260; }, "token_ids");
  expect_death([](StepBatch& b) { b.token_ids[3] = -1; }, "token_ids");
  expect_death([](StepBatch& b) { b.positions[3] = kBlocks * kKvBlockTokens; }, "positions");
  expect_death([](StepBatch& b) { b.slots[3] = 2 * kBlocks * kKvBlockTokens; }, "slots");
  expect_death([](StepBatch& b) { b.sequence[3] = 2; }, "sequence");
  expect_death([](StepBatch& b) { b.block_tables[3] = 2 * kBlocks; }, "block_tables");
  expect_death([](StepBatch& b) { b.logit_rows[0] = 20; }, "logit_rows");
  expect_death([](StepBatch& b) { b.slots.pop_back(); }, "slots");
  expect_death([](StepBatch& b) { b.block_tables.pop_back(); }, "block_tables");
  expect_death([](StepBatch& b) { b.max_blocks = kBlocks + 1; }, "max_blocks");
  expect_death([](StepBatch& b) { b.num_sequences = 3; }, "num_sequences");
  expect_death([](StepBatch& b) { b.logit_rows.assign(21, 0); }, "num_logits");
}

}  // namespace
}  // namespace sterna
