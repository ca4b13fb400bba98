#include "engine/model/ternary_statistics.h"

#include <random>

#include "gtest/gtest.h"

namespace sterna {
namespace {

TEST(TernaryStatisticsTest, CountsAsOneByOne) {
  std::mt19937 random(3);
  // With and without padding; one of more lines than a byte counts.
  constexpr int64_t kShapes[][2] = {{16, 64}, {1, 1}, {17, 65}, {40, 100}, {5, 4000}, {16, 960}};
  for (const auto& [rows, cols] : kShapes) {
    for (const unsigned kinds : {1u, 2u, 3u}) {  // +1 alone, +1 and zero, all three
      SCOPED_TRACE(::testing::Message() << rows << " x " << cols << ", kinds " << kinds);
      TernaryMatrix w(rows, cols);
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          // Some rows and columns are all zero.
          const bool dead = row % 7 == 3 || col % 5 == 2;
          w.Set(row, col, dead ? 0 : static_cast<int8_t>(1 - static_cast<int>(random() % kinds)));
        }
      }
      TernaryStatistics wanted{.rows = rows, .cols = cols, .weights = rows * cols};
      std::vector<int64_t> of_row(static_cast<size_t>(rows)), of_col(static_cast<size_t>(cols));
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t col = 0; col < cols; ++col) {
          wanted.zeros += w.At(row, col) == 0;
          wanted.plus += w.At(row, col) == 1;
          of_row[row] += w.At(row, col) != 0;
          of_col[col] += w.At(row, col) != 0;
        }
      }
      for (const int64_t n : of_row) wanted.zero_rows += n == 0;
      for (const int64_t n : of_col) wanted.zero_cols += n == 0;
      const TernaryStatistics counted = CountTernary(w);
      EXPECT_EQ(counted.weights, wanted.weights);
      EXPECT_EQ(counted.zeros, wanted.zeros);
      EXPECT_EQ(counted.plus, wanted.plus);
      EXPECT_EQ(counted.minus(), wanted.minus());
      EXPECT_EQ(counted.zero_rows, wanted.zero_rows);
      EXPECT_EQ(counted.zero_cols, wanted.zero_cols);
    }
  }
}

}  // namespace
}  // namespace sterna
