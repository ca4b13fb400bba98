#include "engine/model/ternarize.h"

#include <cmath>
#include <limits>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half_float.h"

namespace sterna {
namespace {

StoredMatrix Stored(const std::vector<float>& values, int64_t rows, int64_t cols) {
  return {.rows = rows,
          .cols = cols,
          .read_row =
              [&values, cols](int64_t row, std::span<float> out) {
                std::copy_n(values.begin() + row * cols, cols, out.begin());
              },
          .where = "m: tensor 't'"};
}

std::vector<float> Normal(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// By the definition, a weight at a time.
struct Expected {
  std::vector<int> w;
  std::vector<double> scales;  // of each weight
  double error = 0;
  double norm = 0;
};
Expected ByDefinition(const std::vector<float>& x, int64_t cols, int64_t unit) {
  Expected e;
  for (size_t i = 0; i < x.size(); ++i) {
    // The unit of weight i: `unit` neighbours of its row, or all.
    size_t begin = 0;
    size_t end = x.size();
    if (unit > 0) {
      const size_t row = i / cols * cols;
      begin = row + (i - row) / unit * unit;
      end = std::min(begin + unit, row + cols);
    }
    double sum = 0;
    for (size_t j = begin; j < end; ++j) sum += std::abs(double{x[j]});
    const double mean = sum / static_cast<double>(end - begin);
    const double scale = HalfToFloat(FloatToHalf(static_cast<float>(mean)));
    const int w =
        mean == 0 ? 0 : static_cast<int>(std::clamp(std::nearbyint(x[i] / mean), -1., 1.));
    e.w.push_back(w);
    e.scales.push_back(scale);
    e.error += (x[i] - w * scale) * (x[i] - w * scale);
    e.norm += double{x[i]} * x[i];
  }
  return e;
}

TEST(TernarizeTest, IsTheDefinitionForEveryUnit) {
  constexpr int64_t kRows = 5;
  constexpr int64_t kCols = 200;  // the last group is a part of one
  std::vector<float> x = Normal(kRows * kCols, 1);
  std::fill_n(x.begin() + kCols + 64, 64, 0.0f);  // a group of zeros
  struct Case {
    ScaleGranularity granularity;
    int64_t group_size;
    int64_t unit;
  };
  for (const Case& c : {Case{ScaleGranularity::kTensor, 0, 0},
                        {ScaleGranularity::kRow, 0, kCols},
                        {ScaleGranularity::kGroup, 64, 64},
                        {ScaleGranularity::kGroup, 128, 128}}) {
    SCOPED_TRACE(c.unit);
    const auto made = TernarizeAbsmean(Stored(x, kRows, kCols), c.granularity, c.group_size);
    ASSERT_TRUE(made.ok()) << made.status();
    const Expected expected = ByDefinition(x, kCols, c.unit);
    EXPECT_EQ(made->w.granularity(), c.granularity);
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      const int64_t row = i / kCols;
      const int64_t col = i % kCols;
      ASSERT_EQ(made->w.At(row, col), expected.w[i]) << i;
      ASSERT_EQ(c.granularity == ScaleGranularity::kTensor
                    ? made->w.tensor_scale()
                    : made->w.scale(row, col / made->w.group_size()),
                expected.scales[i])
          << i;
    }
    EXPECT_NEAR(made->error.squared_error, expected.error, 1e-12 * expected.norm);
    EXPECT_NEAR(made->error.squared_norm, expected.norm, 1e-12 * expected.norm);
    // What rounding normal weights so costs: 1 - (2 E|x| ...) is about a fifth.
    EXPECT_GT(made->error.relative(), 0.15);
    EXPECT_LT(made->error.relative(), 0.30);
  }
}

TEST(TernarizeTest, TernaryWeightsAreOffByTheirScaleAlone) {
  const std::vector<float> x = {0.5f, -0.5f, 0.5f, -0.5f};
  const auto made = TernarizeAbsmean(Stored(x, 2, 2), ScaleGranularity::kTensor);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->error.relative(), 0);
  EXPECT_EQ(made->w.tensor_scale(), 0.5);
}

TEST(TernarizeTest, RefusesWhatIsNoWeight) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    std::vector<float> x = Normal(64, 2);
    x[40] = bad;
    const Status status = TernarizeAbsmean(Stored(x, 1, 64), ScaleGranularity::kGroup, 64).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(), ::testing::HasSubstr("m: tensor 't' holds values that are not"));
  }
  const std::vector<float> zeros(64);
  const Status status = TernarizeAbsmean(Stored(zeros, 1, 64), ScaleGranularity::kRow).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
}

TEST(TernarizeTest, ErrorsAddUp) {
  TernarizeError all;
  EXPECT_EQ(all.relative(), 0);
  all.Add({.squared_error = 1, .squared_norm = 4});
  all.Add({.squared_error = 2, .squared_norm = 8});
  EXPECT_EQ(all.relative(), 0.25);
}

}  // namespace
}  // namespace sterna
