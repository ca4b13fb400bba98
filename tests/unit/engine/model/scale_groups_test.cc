#include "engine/model/scale_groups.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace sterna {
namespace {

using ::testing::ElementsAreArray;

std::vector<float> ScalesOf(const TernaryMatrix& w) {
  std::vector<float> scales;
  for (int64_t row = 0; row < w.rows(); ++row) {
    for (int64_t group = 0; group < w.num_groups(); ++group) {
      scales.push_back(w.scale(row, group));
    }
  }
  return scales;
}

TernaryMatrix Coarsest(int64_t rows, int64_t cols, int64_t group, std::vector<float> scales) {
  TernaryMatrix w(rows, cols);
  SetCoarsestScales(std::move(scales), group, w);
  return w;
}

TEST(SetCoarsestScalesTest, OneForTheTensorOrForEachRow) {
  const TernaryMatrix one = Coarsest(2, 256, 64, {0, 3, 3, 3, 3, 0, 0, 3});
  EXPECT_EQ(one.granularity(), ScaleGranularity::kTensor);
  EXPECT_EQ(one.tensor_scale(), 3);
  EXPECT_EQ(Coarsest(1, 128, 64, {0, 0}).tensor_scale(), 1);
  const TernaryMatrix rows = Coarsest(3, 256, 64, {0, 3, 3, 3, 0, 0, 0, 0, 2, 2, 0, 2});
  EXPECT_EQ(rows.granularity(), ScaleGranularity::kRow);
  EXPECT_THAT(ScalesOf(rows), ElementsAreArray({3.0f, 0.0f, 2.0f}));
  // Columns that groups cannot fill, one scale a row.
  EXPECT_EQ(Coarsest(2, 20, 20, {1, 2}).granularity(), ScaleGranularity::kRow);
}

TEST(SetCoarsestScalesTest, NeighboursThatAgreeInAllRowsAreOneGroup) {
  const TernaryMatrix pairs = Coarsest(2, 256, 64, {1, 1, 2, 0, 0, 5, 6, 6});
  EXPECT_EQ(pairs.granularity(), ScaleGranularity::kGroup);
  EXPECT_EQ(pairs.group_size(), 128);
  EXPECT_THAT(ScalesOf(pairs), ElementsAreArray({1.0f, 2.0f, 5.0f, 6.0f}));
  // In one row they do not.
  const std::vector<float> apart = {1, 1, 2, 2, 5, 5, 6, 7};
  EXPECT_EQ(Coarsest(2, 256, 64, apart).group_size(), 64);
  EXPECT_THAT(ScalesOf(Coarsest(2, 256, 64, apart)), ElementsAreArray(apart));
  // An odd number of groups stays.
  EXPECT_EQ(Coarsest(1, 192, 64, {1, 1, 2}).group_size(), 64);
  EXPECT_EQ(Coarsest(1, 384, 64, {1, 1, 2, 2, 3, 3}).group_size(), 128);
  EXPECT_EQ(Coarsest(1, 512, 64, {1, 1, 1, 1, 2, 2, 2, 2}).group_size(), 256);
}

// What a file's groups were does not show.
TEST(SetCoarsestScalesTest, IsTheSameFromSmallerGroups) {
  const TernaryMatrix small =
      Coarsest(1, 1024, 64, {1, 0, 1, 1, 0, 0, 0, 0, 2, 2, 0, 2, 3, 3, 3, 0});
  const TernaryMatrix large = Coarsest(1, 1024, 256, {1, 0, 2, 3});
  EXPECT_EQ(small.group_size(), large.group_size());
  EXPECT_EQ(ScalesOf(small), ScalesOf(large));
}

LayerWeights Layer(int64_t group_of_up) {
  LayerWeights layer;
  for (TernaryLinearWeights* linear :
       {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
    linear->w = TernaryMatrix(2, 256);
  }
  layer.k.w.SetRowScales(std::vector<float>{2, 3});
  layer.v.w.SetTensorScale(0.5);
  layer.down.w = TernaryMatrix(2, 72);
  layer.down.w.SetRowScales(std::vector<float>{8, 9});
  if (group_of_up > 0) {
    std::vector<float> scales;
    for (int64_t i = 0; i < 2 * 256 / group_of_up; ++i) scales.push_back(static_cast<float>(i + 1));
    layer.up.w.SetGroupScales(scales, group_of_up);
  }
  return layer;
}

TEST(UnifyScaleGroupsTest, WithoutGroupsNothingChanges) {
  ModelWeights weights;
  weights.layers.push_back(Layer(0));
  EXPECT_EQ(UnifyScaleGroups(weights), 0);
  EXPECT_EQ(weights.layers[0].k.w.granularity(), ScaleGranularity::kRow);
  EXPECT_EQ(weights.layers[0].v.w.granularity(), ScaleGranularity::kTensor);
}

TEST(UnifyScaleGroupsTest, AllHaveTheSmallestGroupsThatAnyNeeds) {
  ModelWeights weights;
  weights.layers.push_back(Layer(128));
  weights.layers.push_back(Layer(64));
  weights.layers[1].k.w.Set(1, 200, -1);
  EXPECT_EQ(UnifyScaleGroups(weights), 64);
  for (const LayerWeights& layer : weights.layers) {
    for (const TernaryLinearWeights* linear : layer.linears()) {
      EXPECT_EQ(linear->w.granularity(), ScaleGranularity::kGroup);
      EXPECT_EQ(linear->w.group_size(), 64);
    }
  }
  const LayerWeights& first = weights.layers[0];
  EXPECT_THAT(ScalesOf(first.up.w),
              ElementsAreArray({1.0f, 1.0f, 2.0f, 2.0f, 3.0f, 3.0f, 4.0f, 4.0f}));
  EXPECT_THAT(ScalesOf(first.k.w),
              ElementsAreArray({2.0f, 2.0f, 2.0f, 2.0f, 3.0f, 3.0f, 3.0f, 3.0f}));
  EXPECT_THAT(ScalesOf(first.v.w), ElementsAreArray(std::vector<float>(8, 0.5f)));
  EXPECT_THAT(ScalesOf(first.down.w), ElementsAreArray({8.0f, 8.0f, 9.0f, 9.0f}));
  EXPECT_EQ(weights.layers[1].k.w.At(1, 200), -1);
}

TEST(UnifyScaleGroupsTest, EmbeddingAndHeadCountToo) {
  ModelWeights weights;
  weights.layers.push_back(Layer(0));
  weights.ternary_embedding = TernaryMatrix(3, 256);
  weights.untied_ternary_head = TernaryMatrix(3, 256);
  weights.untied_ternary_head.SetGroupScales(std::vector<float>{1, 2, 3, 4, 5, 6}, 128);
  EXPECT_EQ(UnifyScaleGroups(weights), 128);
  EXPECT_EQ(weights.layers[0].q.w.group_size(), 128);
  EXPECT_EQ(weights.ternary_embedding.group_size(), 128);
}

}  // namespace
}  // namespace sterna
