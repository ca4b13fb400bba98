// MakeRandomWeights and what makes a head of a dense matrix.
#include "engine/model/weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "engine/model/shapes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/engine/model/weights_testing.h"

namespace sterna {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

ModelConfig SmallConfig() {
  ModelConfig config = *ShapePreset("2b-4t");
  config.hidden_size = 70;
  config.ffn_size = 37;
  config.num_layers = 3;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 6;
  config.vocab_size = 13;
  config.attention_bias = true;
  config.linear_rms_norm = true;
  return config;
}

TEST(RandomWeightsTest, HaveTheConfigsShapesAndAreDeterministic) {
  const ModelConfig config = SmallConfig();
  const ModelWeights a = MakeRandomWeights(config, 1, /*sub_norms=*/true);
  const ModelWeights b = MakeRandomWeights(config, 1, /*sub_norms=*/true);
  const ModelWeights c = MakeRandomWeights(config, 2, /*sub_norms=*/false);
  ASSERT_EQ(a.layers.size(), 3u);
  const LayerWeights& layer = a.layers[1];
  EXPECT_EQ(layer.q.w.rows(), 36);
  EXPECT_EQ(layer.k.w.rows(), 12);
  EXPECT_EQ(layer.o.w.cols(), 36);
  EXPECT_EQ(layer.down.w.rows(), 70);
  EXPECT_EQ(layer.down.w.cols(), 37);
  EXPECT_EQ(layer.q.bias.size(), 36);
  EXPECT_TRUE(layer.gate.bias.empty());
  EXPECT_EQ(layer.down.in_norm.size(), 37);
  EXPECT_EQ(layer.attn_sub_norm.size(), 36);
  EXPECT_TRUE(c.layers[0].attn_sub_norm.empty());
  EXPECT_EQ(a.head.data, a.embedding.data);
  for (size_t i = 0; i < 7; ++i) {
    const TernaryMatrix& w = a.layers[2].linears()[i]->w;
    const auto bytes = static_cast<size_t>(w.packed_bytes());
    EXPECT_EQ(std::memcmp(w.packed(), b.layers[2].linears()[i]->w.packed(), bytes), 0);
    EXPECT_NE(std::memcmp(w.packed(), c.layers[2].linears()[i]->w.packed(), bytes), 0);
    EXPECT_NE(std::memcmp(w.packed(), a.layers[1].linears()[i]->w.packed(), bytes), 0);
  }
  EXPECT_EQ(
      std::memcmp(a.embedding.data, b.embedding.data, static_cast<size_t>(a.embedding.bytes())), 0);
}

TEST(RandomWeightsTest, FamilyEIsTernaryThroughout) {
  ModelConfig config = *ShapePreset("bonsai-1.7b");
  EXPECT_TRUE(config.qk_norm);
  EXPECT_EQ(config.scale_group_size, 128);
  config.hidden_size = 200;
  config.ffn_size = 130;
  config.num_layers = 1;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.vocab_size = 37;
  const int64_t layer_parameters = 2 * 200 * 16 * (4 + 2) + 3 * 200 * 130;
  const auto bytes = [](int64_t rows, int64_t cols) {
    return TernaryPackedBytes(rows, cols) + RoundUp(rows, 16) * CeilDiv(cols, 128) * 4;
  };
  const int64_t layer_bytes =
      bytes(64, 200) + 2 * bytes(32, 200) + bytes(200, 64) + 2 * bytes(130, 200) + bytes(200, 130);
  for (const bool tied : {true, false}) {
    config.tie_embeddings = tied;
    const ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/false);
    EXPECT_EQ(weights.embedding.rows + weights.head.rows, 0);
    ASSERT_NE(weights.ternary_head(), nullptr);
    EXPECT_EQ(weights.ternary_head() == &weights.ternary_embedding, tied);
    EXPECT_EQ(weights.ternary_head()->rows(), 37);
    EXPECT_EQ(weights.ternary_head()->group_size(), 128);
    if (!tied) {
      EXPECT_NE(std::memcmp(weights.ternary_head()->packed(), weights.ternary_embedding.packed(),
                            static_cast<size_t>(weights.ternary_head()->packed_bytes())),
                0);
    }
    EXPECT_EQ(weights.head_dtype(), "ternary");
    EXPECT_EQ(weights.head_bytes(), bytes(37, 200));
    EXPECT_EQ(weights.dense_bytes(), 0);
    EXPECT_EQ(weights.ternary_bytes(), layer_bytes + (tied ? 1 : 2) * bytes(37, 200));
    EXPECT_EQ(weights.step_bytes(1), layer_bytes + bytes(37, 200));
    EXPECT_EQ(weights.num_parameters(),
              layer_parameters + (tied ? 1 : 2) * 37 * 200 + 3 * 200 + 2 * 16);
  }
}

TEST(CheckTernaryHeadTest, RefusesWhatIsForDenseHeads) {
  EXPECT_TRUE(CheckTernaryHead({}).ok());
  EXPECT_TRUE(CheckTernaryHead({.shortlist = ShortlistUse::kAuto}).ok());
  const Status int8 = CheckTernaryHead({.type = HeadType::kInt8});
  EXPECT_EQ(int8.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(int8.message(), HasSubstr("int8 is of no use to this model's output head"));
  const Status shortlist = CheckTernaryHead({.shortlist = ShortlistUse::kOn});
  EXPECT_THAT(shortlist.message(), HasSubstr("a shortlist is of no use"));
}

TEST(RandomWeightsTest, Int8HeadIsTheOtherOneRounded) {
  for (const bool tied : {true, false}) {
    ModelConfig config = SmallConfig();
    config.tie_embeddings = tied;
    const ModelWeights a = MakeRandomWeights(config, 1, /*sub_norms=*/false);
    const ModelWeights b =
        MakeRandomWeights(config, 1, /*sub_norms=*/false, {.type = HeadType::kInt8});
    EXPECT_EQ(a.num_parameters(), b.num_parameters());
    ASSERT_EQ(b.head.type, DenseType::kI8);
    testing::ExpectHeadRounded(a, b);
  }
}

// Every exact row lies within its bound of the rounded one, for the worst x.
void ExpectShortlist(const ModelWeights& weights) {
  const DenseShortlist& shortlist = weights.shortlist;
  ASSERT_FALSE(shortlist.empty());
  ASSERT_EQ(shortlist.rounded.rows, weights.head.rows);
  ASSERT_EQ(shortlist.rounded.cols, weights.head.cols);
  std::vector<float> exact(static_cast<size_t>(weights.head.cols)), rounded(exact);
  for (const auto& [matrix, bounds] :
       {std::pair(shortlist.rounded, shortlist.error_bounds),
        std::pair(shortlist.rounded.HighBits(), shortlist.high_bits_error_bounds)}) {
    for (int64_t row = 0; row < weights.head.rows; ++row) {
      weights.head.CopyRow(row, exact.data());
      matrix.CopyRow(row, rounded.data());
      double error = 0;
      for (size_t i = 0; i < exact.size(); ++i) error += std::pow(exact[i] - rounded[i], 2);
      EXPECT_GE(bounds[row], std::sqrt(error));
      EXPECT_LE(bounds[row], 1.2 * std::sqrt(error));
    }
  }
}

TEST(RandomWeightsTest, ShortlistLiesBesideTheHead) {
  for (const bool tied : {true, false}) {
    ModelConfig config = SmallConfig();
    config.tie_embeddings = tied;
    const ModelWeights without = MakeRandomWeights(config, 1, /*sub_norms=*/false);
    const ModelWeights with =
        MakeRandomWeights(config, 1, /*sub_norms=*/false, {.shortlist = ShortlistUse::kOn});
    EXPECT_TRUE(without.shortlist.empty());
    ExpectShortlist(with);
    EXPECT_EQ(with.head.type, DenseType::kBf16);
    EXPECT_EQ(with.head.data == with.embedding.data, tied);
    EXPECT_EQ(with.dense_bytes(), without.dense_bytes() + with.shortlist.bytes());
    const int64_t many = with.step_bytes(kMostHighBitsRows + 1);
    EXPECT_EQ(many, with.ternary_bytes() + with.shortlist.bytes() - 8 * with.head.rows);
    EXPECT_EQ(many - with.step_bytes(kMostHighBitsRows),
              with.shortlist.rounded.data_bytes() - with.shortlist.rounded.low_bits_offset());
    EXPECT_EQ(without.step_bytes(1), without.ternary_bytes() + without.head.bytes());
    EXPECT_EQ(with.num_parameters(), without.num_parameters());
  }
}

TEST(AddShortlistTest, OnlyWhereItIsOfUse) {
  ThreadPool pool(2);
  const ModelConfig config = SmallConfig();
  ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/false);
  ASSERT_TRUE(AddShortlist({.shortlist = ShortlistUse::kAuto}, pool, weights).ok());
  EXPECT_TRUE(weights.shortlist.empty()) << "a head of a few KiB stays in the caches";
  const std::vector<uint16_t> large(static_cast<size_t>(kShortlistFromBytes / 2));
  weights.head = {.type = DenseType::kBf16,
                  .data = large.data(),
                  .rows = kShortlistFromBytes / 128,
                  .cols = 64};
  ASSERT_TRUE(AddShortlist({.shortlist = ShortlistUse::kAuto}, pool, weights).ok());
  EXPECT_FALSE(weights.shortlist.empty());

  ModelWeights int8 = MakeRandomWeights(config, 1, /*sub_norms=*/false, {.type = HeadType::kInt8});
  EXPECT_TRUE(AddShortlist({.shortlist = ShortlistUse::kAuto}, pool, int8).ok());
  EXPECT_TRUE(int8.shortlist.empty());
  std::vector<uint16_t> wide(size_t{600} * (kMaxDenseInt8Cols + 1));
  weights.shortlist = {};
  weights.head = {
      .type = DenseType::kBf16, .data = wide.data(), .rows = 600, .cols = kMaxDenseInt8Cols + 1};
  ASSERT_TRUE(AddShortlist({.shortlist = ShortlistUse::kAuto}, pool, weights).ok());
  EXPECT_TRUE(weights.shortlist.empty()) << "more columns than int8 sums can hold";
  EXPECT_EQ(AddShortlist({.shortlist = ShortlistUse::kOn}, pool, weights).code(),
            absl::StatusCode::kInvalidArgument);
  const Status status = AddShortlist({.shortlist = ShortlistUse::kOn}, pool, int8);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("int8"));
}

// Such a row could win whatever the rounded one says, so it must never be left out; its neighbours
// keep their bounds.
TEST(AddShortlistTest, ARowWithoutBoundHasInfinity) {
  ThreadPool pool(2);
  ModelWeights weights;
  constexpr int64_t kRows = 40, kCols = 70;
  std::vector<float> head(kRows * kCols);
  for (size_t i = 0; i < head.size(); ++i) head[i] = static_cast<float>(i % 11) - 5.0f;
  head[3 * kCols] = std::numeric_limits<float>::infinity();
  head[17 * kCols + 69] = std::numeric_limits<float>::quiet_NaN();
  head[20 * kCols + 5] = 1e20f;
  weights.head = {.type = DenseType::kF32, .data = head.data(), .rows = kRows, .cols = kCols};
  ASSERT_TRUE(AddShortlist({.shortlist = ShortlistUse::kOn}, pool, weights).ok());
  for (int64_t row = 0; row < kRows; ++row) {
    const float bound = weights.shortlist.error_bounds[row];
    if (row == 3 || row == 17 || row == 20) {
      EXPECT_EQ(bound, std::numeric_limits<float>::infinity()) << row;
      EXPECT_EQ(weights.shortlist.rounded.scales[row], 0.0f) << row;
    } else {
      EXPECT_GT(bound, 0.0f) << row;
      EXPECT_LT(bound, 1.0f) << row;
    }
  }
}

// Rows of zeros, which pad vocabularies, are no reason against the high bits; one weight in each
// row that takes all of its steps is.
TEST(AddShortlistTest, HighBitsOnlyWhereTheyTellEnough) {
  ThreadPool pool(2);
  constexpr int64_t kRows = 64, kCols = 1024;
  const auto has_high_bits = [&](const std::vector<float>& head) {
    ModelWeights weights;
    weights.head = {.type = DenseType::kF32, .data = head.data(), .rows = kRows, .cols = kCols};
    EXPECT_TRUE(AddShortlist({.shortlist = ShortlistUse::kOn}, pool, weights).ok());
    return weights.shortlist.high_bits_error_bounds != nullptr;
  };
  std::vector<float> head(kRows * kCols);
  for (size_t i = 0; i < head.size(); ++i) head[i] = static_cast<float>(i * i % 101) - 50.0f;
  EXPECT_TRUE(has_high_bits(head));
  std::fill_n(head.begin(), kRows / 2 * kCols, 0.0f);
  EXPECT_TRUE(has_high_bits(head));
  for (int64_t row = 0; row < kRows; ++row) head[row * kCols + row] = 2000.0f;
  EXPECT_FALSE(has_high_bits(head));
}

TEST(MakeInt8TilesTest, RefusesMoreColumnsThanSumsHold) {
  ThreadPool pool(1);
  std::vector<AlignedBuffer<uint8_t>> buffers;
  const auto read_row = [](int64_t, std::span<float> values) {
    std::fill(values.begin(), values.end(), 1.0f);
  };
  EXPECT_TRUE(MakeInt8Tiles(1, 65536, pool, read_row, buffers).ok());
  const Status status = MakeInt8Tiles(1, 65537, pool, read_row, buffers).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("65537"));
}

TEST(RandomWeightsTest, AreUniformAndLeaveThePaddingZero) {
  const ModelWeights weights = MakeRandomWeights(SmallConfig(), 1, /*sub_norms=*/true);
  const TernaryMatrix& w = weights.layers[0].gate.w;  // 37 x 70
  int64_t counts[3] = {};
  for (int64_t r = 0; r < w.rows(); ++r) {
    for (int64_t c = 0; c < w.cols(); ++c) ++counts[w.At(r, c) + 1];
  }
  // 2590 draws: a third each within five standard deviations of 24.
  EXPECT_THAT(counts, Each(::testing::AllOf(::testing::Gt(863 - 120), ::testing::Lt(863 + 120))));
  const int64_t padded_cols = w.col_blocks() * kTernaryBlockCols;
  for (int64_t r = 0; r < w.row_blocks() * kTernaryBlockRows; ++r) {
    for (int64_t c = 0; c < padded_cols; ++c) {
      if (r < w.rows() && c < w.cols()) continue;
      const TernaryCodePosition p = LocateTernaryCode(r, c, w.cols());
      ASSERT_EQ(w.packed()[p.byte] >> p.shift & 3, kTernaryCodeZero) << r << " " << c;
    }
  }
}

TEST(ShapePresetTest, KnownShapesCountTheirParameters) {
  const auto ternary_weights = [](const ModelConfig& c) {
    const int64_t attention = 2 * c.hidden_size * c.head_dim * (c.num_heads + c.num_kv_heads);
    return c.num_layers * (attention + 3 * c.hidden_size * c.ffn_size);
  };
  // The layers' weights, and with embedding and head what the models' names and cards say.
  const auto all_weights = [&](const ModelConfig& c) {
    return ternary_weights(c) + (c.tie_embeddings ? 1 : 2) * c.vocab_size * c.hidden_size;
  };
  EXPECT_THAT(ShapePresetNames(),
              ElementsAre("2b-4t", "llama3-8b", "bitnet-large", "falcon3-1b", "falcon3-3b",
                          "falcon3-7b", "falcon3-10b", "bonsai-1.7b", "bonsai-4b", "bonsai-8b"));
  EXPECT_EQ(ternary_weights(*ShapePreset("2b-4t")), 2'084'044'800);
  EXPECT_EQ(ternary_weights(*ShapePreset("llama3-8b")), 6'979'321'856);
  EXPECT_EQ(ternary_weights(*ShapePreset("bonsai-1.7b")), 1'409'286'144);
  EXPECT_NEAR(all_weights(*ShapePreset("bitnet-large")), 0.729e9, 1e6);
  EXPECT_NEAR(all_weights(*ShapePreset("falcon3-1b")), 1.67e9, 1e7);
  EXPECT_NEAR(all_weights(*ShapePreset("falcon3-3b")), 3.23e9, 1e7);
  EXPECT_NEAR(all_weights(*ShapePreset("falcon3-7b")), 7.46e9, 1e7);
  EXPECT_NEAR(all_weights(*ShapePreset("falcon3-10b")), 10.31e9, 1e7);
  EXPECT_NEAR(all_weights(*ShapePreset("bonsai-1.7b")), 1.72e9, 1e7);
  EXPECT_NEAR(all_weights(*ShapePreset("bonsai-4b")), 4.02e9, 1e7);
  EXPECT_NEAR(all_weights(*ShapePreset("bonsai-8b")), 8.19e9, 1e7);
  const Status status = ShapePreset("7b").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("2b-4t"));
}

}  // namespace
}  // namespace sterna
