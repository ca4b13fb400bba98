#include "engine/model/model.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "tests/testing/tiny_model.h"

namespace sterna {
namespace {

constexpr int64_t kBlocks = 4;  // of each of two sequences
constexpr int64_t kMostTokens = 64;

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
      Model<float> model(&config, &weights, ops->get(), kMostTokens, kMostTokens);
      // Two steps of 10 tokens each: the logits of the second.
      const auto logits = [&](std::vector<int32_t> first_rows, std::vector<int32_t> rows) {
        KvCache<float> cache(config, KvType::kFull, 2 * kBlocks);
        EXPECT_TRUE(
            model.Forward(WithLogitsOf(BatchOfTwo(0, 10), std::move(first_rows)), cache).ok());
        const auto result = model.Forward(WithLogitsOf(BatchOfTwo(10, 10), std::move(rows)), cache);
        EXPECT_TRUE(result.ok()) << result.status();
        return std::vector<float>(result->data, result->data + result->rows * result->cols);
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

}  // namespace
}  // namespace sterna
