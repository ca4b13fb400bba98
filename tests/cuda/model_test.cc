// Whole models on the CUDA backend: close to the float64 reference, and the same bits for a
// sequence whatever runs beside it.
#include "engine/model/model.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/cache/kv_cache.h"
#include "engine/model/weights.h"
#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "tests/cuda/device_under_test.h"
#include "tests/testing/all_logits.h"
#include "tests/testing/divergence.h"

namespace sterna {
namespace {

using testing::AllLogits;
using testing::Divergence;

class CudaModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    StatusOr<std::unique_ptr<Ops<float>>> ops = testing::OpenDeviceUnderTest();
    if (absl::IsFailedPrecondition(ops.status())) GTEST_SKIP() << ops.status().message();
    ASSERT_TRUE(ops.ok()) << ops.status();
    ops_ = *std::move(ops);
  }

  std::unique_ptr<Ops<float>> ops_;
};

// K/V in 16 bits or 8, q and the weights of attention in half precision: each a rounding
// that int8 activations turn into whole steps now and then.
struct Drift {
  HeadType head;
  KvType kv_type;
  const char* name;
  double mean_kl;
  double agreement;
};
constexpr Drift kDrifts[] = {
    {HeadType::kAsStored, KvType::kF16, "K/V f16", 5e-3, 0.95},
    {HeadType::kAsStored, KvType::kBf16, "K/V bf16", 1e-2, 0.94},
    {HeadType::kAsStored, KvType::kI8, "K/V int8", 1e-2, 0.94},
    {HeadType::kAsStored, KvType::kF8, "K/V fp8", 4e-2, 0.80},
    {HeadType::kInt8, KvType::kF16, "K/V f16, head int8", 6e-3, 0.95},
};

TEST_F(CudaModelTest, StaysCloseToTheFloat64Reference) {
  const std::unique_ptr<Ops<double>> reference = CreateReferenceOps<double>();
  std::vector<Divergence> divergences(std::size(kDrifts));
  std::mt19937 random(17);
  int models = 0;
  for (const std::string& dir : testing::GoldenModels()) {
    SCOPED_TRACE(dir);
    const StatusOr<Checkpoint> host = LoadCheckpoint(dir);
    ASSERT_TRUE(host.ok()) << host.status();
    if (host->config.head_dim % 8 != 0) continue;  // no head of any known model is so odd
    ++models;
    std::vector<int32_t> tokens(testing::DeviceUnderTestIsSlow() ? 40 : 180);
    for (int32_t& token : tokens) {
      token = static_cast<int32_t>(random() % host->config.vocab_size);
    }
    const std::vector<double> expected =
        AllLogits<double>(host->config, host->weights, *reference, tokens);
    for (size_t i = 0; i < std::size(kDrifts); ++i) {
      const bool ternary_head = host->weights.ternary_head() != nullptr;
      if (ternary_head && kDrifts[i].head == HeadType::kInt8) continue;
      StatusOr<Checkpoint> checkpoint = LoadCheckpoint(dir, {.head = {.type = kDrifts[i].head}});
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      ASSERT_TRUE(PlaceWeights(*ops_, checkpoint->weights).ok());
      const std::vector<float> got = AllLogits<float>(checkpoint->config, checkpoint->weights,
                                                      *ops_, tokens, kDrifts[i].kv_type);
      const std::vector<double> actual(got.begin(), got.end());
      const auto vocab = static_cast<size_t>(host->config.vocab_size);
      for (size_t p = 0; p < tokens.size(); ++p) {
        divergences[i].Add({expected.data() + p * vocab, vocab},
                           {actual.data() + p * vocab, vocab});
      }
    }
  }
  EXPECT_GE(models, 5);
  for (size_t i = 0; i < std::size(kDrifts); ++i) {
    EXPECT_LT(divergences[i].mean_kl(), kDrifts[i].mean_kl) << kDrifts[i].name;
    EXPECT_GE(divergences[i].agreement(), kDrifts[i].agreement) << kDrifts[i].name;
    std::printf("%-20s %lld positions: mean KL %.2e, top-1 agreement %.2f %%\n", kDrifts[i].name,
                static_cast<long long>(divergences[i].positions), divergences[i].mean_kl(),
                100 * divergences[i].agreement());
  }
}

// Sequences through one model, any number of tokens of any of them in a step.
class Sequences {
 public:
  Sequences(const ModelConfig& config, const ModelWeights& weights, Ops<float>& ops,
            std::vector<std::vector<int32_t>> tokens)
      : ops_(ops), tokens_(std::move(tokens)), computed_(tokens_.size()) {
    size_t longest = 0;
    for (const auto& t : tokens_) longest = std::max(longest, t.size());
    max_blocks_ = CeilDiv(static_cast<int64_t>(longest), kKvBlockTokens);
    const auto count = std::ssize(tokens_);
    const auto limit = static_cast<int64_t>(longest) * count;
    StatusOr<Model<float>> model =
        Model<float>::Create(&config, &weights, &ops,
                             {.tokens = limit,
                              .logit_rows = limit,
                              .sequences = count,
                              .context_tokens = static_cast<int64_t>(longest)});
    StatusOr<KvCache<float>> cache =
        KvCache<float>::Create(config, KvType::kF16, count * max_blocks_, ops);
    STERNA_CHECK(model.ok() && cache.ok());
    model_ = std::make_unique<Model<float>>(*std::move(model));
    cache_ = std::make_unique<KvCache<float>>(*std::move(cache));
  }

  // Computes the next counts[i] tokens of sequence i. Returns the logits of the last of each that
  // has any, one after another.
  std::vector<std::vector<float>> Step(const std::vector<int32_t>& counts) {
    StepBatch batch;
    batch.num_sequences = std::ssize(tokens_);
    batch.max_blocks = max_blocks_;
    for (int32_t s = 0; s < std::ssize(tokens_); ++s) {
      const auto i = static_cast<size_t>(s);
      for (int32_t b = 0; b < max_blocks_; ++b) {
        batch.block_tables.push_back(b * static_cast<int32_t>(tokens_.size()) + s);
      }
      for (int32_t n = 0; n < counts[i]; ++n, ++computed_[i]) {
        const int32_t position = computed_[i];
        const int32_t block =
            position / static_cast<int32_t>(kKvBlockTokens) * static_cast<int32_t>(tokens_.size()) +
            s;
        batch.token_ids.push_back(tokens_[i][static_cast<size_t>(position)]);
        batch.positions.push_back(position);
        batch.slots.push_back(block * static_cast<int32_t>(kKvBlockTokens) +
                              position % static_cast<int32_t>(kKvBlockTokens));
        batch.sequence.push_back(s);
      }
      if (counts[i] > 0) batch.logit_rows.push_back(static_cast<int32_t>(batch.num_tokens()) - 1);
    }
    const Mat<const float> logits = model_->Forward(batch, *cache_);
    std::vector<std::vector<float>> rows(static_cast<size_t>(logits.rows));
    for (int64_t r = 0; r < logits.rows; ++r) {
      std::vector<float>& row = rows[static_cast<size_t>(r)];
      row.resize(static_cast<size_t>(logits.cols));
      STERNA_CHECK(ops_.CopyToHost(row.data(), logits.row(r),
                                   logits.cols * static_cast<int64_t>(sizeof(float)))
                       .ok());
    }
    return rows;
  }
  int32_t left(size_t i) const { return static_cast<int32_t>(tokens_[i].size()) - computed_[i]; }

 private:
  Ops<float>& ops_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<int32_t> computed_;
  int64_t max_blocks_;
  std::unique_ptr<Model<float>> model_;
  std::unique_ptr<KvCache<float>> cache_;
};

// One token at a time and alone, which is recorded and run again, against any chunks in any
// company.
TEST_F(CudaModelTest, BitsDoNotDependOnBatchOrChunks) {
  StatusOr<Checkpoint> checkpoint = LoadCheckpoint(testing::GoldenModels().front());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_TRUE(PlaceWeights(*ops_, checkpoint->weights).ok());
  const ModelConfig& config = checkpoint->config;
  std::mt19937 random(3);
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<std::vector<float>>> alone;  // [sequence][position][vocabulary]
  const size_t longest = testing::DeviceUnderTestIsSlow() ? 24 : 400;
  for (const size_t length : {longest, longest / 2, longest / 3 + 1}) {
    std::vector<int32_t> sequence(length);
    for (int32_t& token : sequence) token = static_cast<int32_t>(random() % config.vocab_size);
    Sequences one(config, checkpoint->weights, *ops_, {sequence});
    auto& logits = alone.emplace_back();
    for (size_t p = 0; p < length; ++p) logits.push_back(one.Step({1})[0]);
    tokens.push_back(std::move(sequence));
  }
  for (int run = 0; run < 3; ++run) {
    Sequences together(config, checkpoint->weights, *ops_, tokens);
    std::vector<size_t> done(tokens.size());
    while (done[0] < tokens[0].size() || done[1] < tokens[1].size() || done[2] < tokens[2].size()) {
      std::vector<int32_t> counts;
      for (size_t s = 0; s < tokens.size(); ++s) {
        // Decode steps as well as chunks.
        const int32_t most = run == 0 ? 1 : static_cast<int32_t>(random() % 3 == 0 ? 1 : 9);
        counts.push_back(std::min(together.left(s), static_cast<int32_t>(random() % (most + 1))));
      }
      if (std::ranges::count(counts, 0) == std::ssize(counts)) continue;
      const auto rows = together.Step(counts);
      size_t row = 0;
      for (size_t s = 0; s < tokens.size(); ++s) {
        if (counts[s] == 0) continue;
        done[s] += static_cast<size_t>(counts[s]);
        ASSERT_EQ(rows[row++], alone[s][done[s] - 1]) << "sequence " << s << " run " << run;
      }
    }
  }
}

}  // namespace
}  // namespace sterna
