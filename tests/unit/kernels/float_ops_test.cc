// The float ops of every CPU level against the reference in double on the same inputs. Bounds are
// multiples of float's eps times what the op sums, with the longest chain of additions that any
// level makes (a quarter of the length: the scalar level has four lanes).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/isa.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::ConstView;
using testing::Quantized;
using testing::Random;
using testing::RandomFloats;
using testing::ToDouble;
using testing::View;

constexpr double kEps = std::numeric_limits<float>::epsilon();
constexpr float kNormEps = 1e-5f;

class FloatOps : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Ops<float>> ops_ = testing::CpuOps(GetParam(), 2);
  std::unique_ptr<Ops<double>> reference_ = CreateReferenceOps<double>();
  Random random_{42};
};

INSTANTIATE_TEST_SUITE_P(Levels, FloatOps, ::testing::ValuesIn(testing::ProductLevels()),
                         [](const auto& info) { return info.param; });

// Relative error of a row's root mean square and of the few operations around it.
double NormError(int64_t n) { return (static_cast<double>(n) / 4 + 16) * kEps; }

// `values` are the unrounded ones in double: where they lie off a rounding tie by more than `error`
// relative to the largest code, the int8 must be equal.
void ExpectSameQuantized(const Quantized<float>& actual, const Quantized<double>& expected,
                         const std::vector<double>& values, double error) {
  const QuantizedMat<float>& a = actual.mat;
  const QuantizedMat<double>& e = expected.mat;
  const int64_t groups = a.num_groups();
  int64_t near_ties = 0;
  for (int64_t r = 0; r < a.rows; ++r) {
    std::vector<int32_t> sums(groups, 0);
    for (int64_t c = 0; c < a.stride; ++c) {
      const int q = a.q[r * a.stride + c];
      if (c >= a.cols) {
        ASSERT_EQ(q, 0) << "padding column " << c;
        continue;
      }
      sums[c / a.group_size] += q;
      const double scaled = values[r * a.cols + c] * e.scale[r * groups + c / a.group_size];
      const double to_tie = std::abs(scaled - std::floor(scaled) - 0.5);
      const int reference = e.q[r * e.stride + c];
      if (to_tie > 127 * error) {
        ASSERT_EQ(q, reference) << r << "," << c << " value " << scaled;
      } else {
        ASSERT_LE(std::abs(q - reference), 1) << r << "," << c << " value " << scaled;
        ++near_ties;
      }
    }
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t i = r * groups + g;
      EXPECT_NEAR(a.scale[i] / e.scale[i], 1.0, error);
      EXPECT_EQ(a.sum[i], sums[g]);
    }
  }
  EXPECT_LT(static_cast<double>(near_ties), 0.05 * static_cast<double>(values.size()) + 2);
}

TEST_P(FloatOps, EmbedTokensWidensExactly) {
  const std::vector<float> table = RandomFloats(random_, 7 * 83);
  const std::vector<uint16_t> bf16 = testing::ToBf16(table);
  const std::vector<int32_t> ids = {6, 0, 3, 3};
  std::vector<float> x(4 * 83);
  std::vector<double> expected(4 * 83);
  const testing::DenseTiles tiles(bf16, 7, 83);
  const testing::DenseTiles int8(std::vector<float>(7 * 83, 127.0f), 7, 83);
  for (const DenseMatrix& m : {testing::DenseRows(table, 7, 83), testing::DenseRows(bf16, 7, 83),
                               tiles.view(), int8.view()}) {
    ops_->EmbedTokens({.token_ids = ids, .table = m, .x = View(x, 4)});
    reference_->EmbedTokens({.token_ids = ids, .table = m, .x = View(expected, 4)});
    EXPECT_EQ(ToDouble(x), expected);
  }
}

TEST_P(FloatOps, EmbedTokensOfATernaryTableIsExact) {
  const std::vector<int32_t> ids = {36, 0, 17, 17};
  for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
    for (const int64_t cols : {72, 128, 320}) {
      const TernaryMatrix table = testing::RandomTernaryOfKind(random_, kind, 37, cols);
      std::vector<float> x(4 * cols, -1.0f), expected(4 * cols);
      for (int64_t t = 0; t < 4; ++t) table.CopyRow(ids[t], &expected[t * cols]);
      ops_->EmbedTokens({.token_ids = ids, .ternary_table = &table, .x = View(x, 4)});
      EXPECT_EQ(x, expected);
      std::vector<double> exact(4 * cols);
      reference_->EmbedTokens({.token_ids = ids, .ternary_table = &table, .x = View(exact, 4)});
      for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(static_cast<float>(exact[i]), x[i]);
    }
  }
}

TEST_P(FloatOps, RmsNorm) {
  for (const int64_t n : {1, 5, 64, 97, 2560}) {
    std::vector<float> x = RandomFloats(random_, 3 * n);
    const std::vector<float> weight = RandomFloats(random_, n);
    const std::vector<double> x64 = ToDouble(x);
    std::vector<double> expected(3 * n);
    reference_->RmsNorm(
        {.x = ConstView(x64, 3), .weight = weight, .eps = kNormEps, .y = View(expected, 3)});
    // In place, which the op allows.
    ops_->RmsNorm({.x = ConstView(x, 3), .weight = weight, .eps = kNormEps, .y = View(x, 3)});
    for (int64_t i = 0; i < 3 * n; ++i) {
      ASSERT_NEAR(x[i], expected[i], NormError(n) * std::abs(expected[i])) << n << " " << i;
    }
  }
}

TEST_P(FloatOps, RmsNormQuantize) {
  for (const int64_t n : {1, 5, 64, 97, 200, 2560}) {
    for (const int64_t group : {int64_t{0}, int64_t{64}, int64_t{128}}) {
      const std::vector<float> x = RandomFloats(random_, 3 * n);
      const std::vector<float> weight = RandomFloats(random_, n);
      const std::vector<double> x64 = ToDouble(x);
      std::vector<double> normed(3 * n);
      reference_->RmsNorm(
          {.x = ConstView(x64, 3), .weight = weight, .eps = kNormEps, .y = View(normed, 3)});
      Quantized<float> actual(3, n, group);
      Quantized<double> expected(3, n, group);
      ops_->RmsNormQuantize(
          {.x = ConstView(x, 3), .weight = weight, .eps = kNormEps, .out = actual.mat});
      reference_->RmsNormQuantize(
          {.x = ConstView(x64, 3), .weight = weight, .eps = kNormEps, .out = expected.mat});
      ExpectSameQuantized(actual, expected, normed, 2 * NormError(n));
    }
  }
}

// Without a norm there is one product a value, rounded in float as the reference in float does.
TEST_P(FloatOps, QuantizeWithoutNormEqualsTheFloatReferenceBitForBit) {
  auto reference = CreateReferenceOps<float>();
  for (const int64_t n : {1, 63, 64, 130, 6912}) {
    for (const int64_t group : {int64_t{0}, int64_t{64}}) {
      std::vector<float> x = RandomFloats(random_, 4 * n);
      std::fill_n(x.begin(), n, 0.0f);
      for (int64_t i = n; i < 2 * n; ++i) x[i] *= 1e-7f;  // below the 1e-5 floor of the absmax
      for (int64_t i = 2 * n; i < 3 * n; ++i) x[i] = static_cast<float>(i % 255 - 127) / 2;  // ties
      Quantized<float> actual(4, n, group), expected(4, n, group);
      ops_->RmsNormQuantize({.x = ConstView(x, 4), .weight = {}, .eps = 0, .out = actual.mat});
      reference->RmsNormQuantize(
          {.x = ConstView(x, 4), .weight = {}, .eps = 0, .out = expected.mat});
      EXPECT_EQ(actual.q, expected.q);
      EXPECT_EQ(actual.scale, expected.scale);
      EXPECT_EQ(actual.sum, expected.sum);
    }
  }
}

TEST_P(FloatOps, QuantizeSurvivesNanAndInfinity) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> x(70, 1.0f);
  x[3] = std::numeric_limits<float>::quiet_NaN();
  x[40] = kInf;
  x[69] = -kInf;
  Quantized<float> out(1, 70);
  ops_->RmsNormQuantize({.x = ConstView(x, 1), .weight = {}, .eps = 0, .out = out.mat});
  EXPECT_EQ(out.q[0], 0);  // 1 * (127 / inf)
  EXPECT_EQ(out.q[3], -128);
}

TEST_P(FloatOps, DenseLinear) {
  for (const int64_t cols : {1, 7, 64, 300, 2560}) {
    for (const int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 16, 17, 38}) {
      const int64_t rows = 77 + 96 * (tokens % 2);  // five row blocks, alone or after a panel
      const std::vector<float> x = RandomFloats(random_, tokens * cols);
      const std::vector<float> w = RandomFloats(random_, rows * cols);
      const std::vector<uint16_t> bf16 = testing::ToBf16(w);
      const std::vector<double> x64 = ToDouble(x);
      const testing::DenseTiles tiles(bf16, rows, cols), int8(w, rows, cols);
      for (const DenseMatrix& m :
           {testing::DenseRows(w, rows, cols), tiles.view(), int8.view(), int8.view().HighBits()}) {
        const bool integers = m.type == DenseType::kI8 || m.type == DenseType::kI6;
        // int8 heads take activations to 16 bits of the largest; a product is off by half a step.
        const float largest = *std::max_element(
            x.begin(), x.end(), [](float a, float b) { return std::abs(a) < std::abs(b); });
        const double step = integers ? 0.501 * std::abs(largest) / 32639 : 0.0;
        std::vector<double> rounded(rows * cols);
        for (int64_t r = 0; r < rows; ++r) m.CopyRow(r, &rounded[r * cols]);
        std::vector<float> y(tokens * rows);
        std::vector<double> expected(tokens * rows);
        ops_->DenseLinear({.x = ConstView(x, tokens), .w = m, .y = View(y, tokens)});
        reference_->DenseLinear({.x = ConstView(x64, tokens), .w = m, .y = View(expected, tokens)});
        for (int64_t i = 0; i < tokens * rows; ++i) {
          const double* row = &rounded[i % rows * cols];
          double magnitude = 0, weights = 0;
          for (int64_t k = 0; k < cols; ++k) {
            magnitude += std::abs(x[i / rows * cols + k] * row[k]);
            weights += std::abs(row[k]);
          }
          ASSERT_NEAR(y[i], expected[i],
                      (static_cast<double>(cols) / 4 + 8) * kEps * magnitude + step * weights);
        }
      }
    }
  }
}

// Activations and weights that are whole numbers of their steps: the outputs are exact integers,
// which no two instruction sets can disagree on.
TEST_P(FloatOps, Int8DenseLinearIsExactOnIntegers) {
  for (const int64_t cols : {1, 3, 64, 65, 130, 4096, 65536}) {
    for (const int64_t tokens : {1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33}) {
      if (cols == kMaxDenseInt8Cols && tokens != 3 && tokens != 9) continue;
      const int64_t rows = 13 + 96 * (tokens % 3);
      std::uniform_int_distribution<int> weight(-127, 127), activation(-32639, 32639);
      std::vector<float> w(rows * cols), x(tokens * cols);
      for (float& value : w) value = static_cast<float>(weight(random_));
      for (float& value : x) value = static_cast<float>(activation(random_));
      for (int64_t r = 0; r < rows; ++r) w[r * cols] = r % 2 == 0 ? 127.0f : -127.0f;
      for (int64_t t = 0; t < tokens; ++t) x[t * cols] = t % 2 == 0 ? 32639.0f : -32639.0f;
      const testing::DenseTiles tiles(w, rows, cols);
      std::vector<float> y(tokens * rows);
      ops_->DenseLinear({.x = ConstView(x, tokens), .w = tiles.view(), .y = View(y, tokens)});
      for (int64_t i = 0; i < tokens * rows; ++i) {
        // Each part's sum becomes a float before the two are added.
        int64_t high_sum = 0, low_sum = 0;
        for (int64_t k = 0; k < cols; ++k) {
          const auto code = static_cast<int64_t>(x[i / rows * cols + k]);
          const int64_t high = (code + 128) >> 8, low = code - high * 256;
          high_sum += high * static_cast<int64_t>(w[i % rows * cols + k]);
          low_sum += low * static_cast<int64_t>(w[i % rows * cols + k]);
        }
        ASSERT_EQ(y[i], static_cast<float>(high_sum) * 256.0f + static_cast<float>(low_sum))
            << cols << " columns, token " << i / rows << " of " << tokens << ", row " << i % rows;
      }
    }
  }
}

// The most columns there may be, and in every one the largest products that the halves can have.
TEST_P(FloatOps, Int8DenseLinearDoesNotSaturate) {
  constexpr int64_t kCols = kMaxDenseInt8Cols, kTokens = 9, kRows = 17;
  std::vector<float> w(kRows * kCols), x(kTokens * kCols);
  for (int64_t i = 0; i < kRows * kCols; ++i) w[i] = i / kCols % 2 == 0 ? 127.0f : -127.0f;
  // 32384 is 127 * 256 - 128: both halves are at their ends. The first column gives the scale.
  for (int64_t i = 0; i < kTokens * kCols; ++i) {
    x[i] = (i % kCols == 0 ? 32639.0f : 32384.0f) * (i / kCols % 2 == 0 ? 1.0f : -1.0f);
  }
  const testing::DenseTiles tiles(w, kRows, kCols);
  std::vector<float> y(kTokens * kRows);
  ops_->DenseLinear({.x = ConstView(x, kTokens), .w = tiles.view(), .y = View(y, kTokens)});
  const double magnitude = 127.0 * (32639.0 + (kCols - 1) * 32384.0);
  for (int64_t i = 0; i < kTokens * kRows; ++i) {
    const double expected = (i / kRows + i % kRows) % 2 == 0 ? magnitude : -magnitude;
    ASSERT_NEAR(y[i], expected, 1e-6 * magnitude) << i;
  }
}

// A row that holds a NaN or an infinity has no number for an output; its neighbours are not
// touched.
TEST_P(FloatOps, Int8DenseLinearOfOddRows) {
  constexpr int64_t kCols = 70, kRows = 20;
  const std::vector<float> w = RandomFloats(random_, kRows * kCols);
  const testing::DenseTiles tiles(w, kRows, kCols);
  std::vector<float> x = RandomFloats(random_, 5 * kCols);
  x[0] = std::numeric_limits<float>::quiet_NaN();
  x[kCols + 69] = -std::numeric_limits<float>::infinity();
  std::fill_n(x.begin() + 2 * kCols, kCols, 0.0f);
  std::fill_n(x.begin() + 3 * kCols, kCols, 1e-40f);
  std::vector<float> y(5 * kRows), alone(kRows);
  ops_->DenseLinear({.x = ConstView(x, 5), .w = tiles.view(), .y = View(y, 5)});
  const std::vector<float> last(x.begin() + 4 * kCols, x.end());
  ops_->DenseLinear({.x = ConstView(last, 1), .w = tiles.view(), .y = View(alone, 1)});
  for (int64_t r = 0; r < kRows; ++r) {
    EXPECT_TRUE(std::isnan(y[r]));
    EXPECT_TRUE(std::isnan(y[kRows + r]));
    EXPECT_EQ(y[2 * kRows + r], 0.0f);
    EXPECT_EQ(y[3 * kRows + r], 0.0f);
    EXPECT_EQ(y[4 * kRows + r], alone[r]);
  }
}

TEST_P(FloatOps, RotaryTableIsTheDoubleTableRounded) {
  const std::vector<int32_t> positions = {0, 1, 4095, 131071};
  std::vector<double> inv_freq;
  for (int i = 0; i < 32; ++i) inv_freq.push_back(std::pow(500000.0, -i / 32.0));
  std::vector<float> cos(4 * 32), sin(4 * 32);
  std::vector<double> cos64(4 * 32), sin64(4 * 32);
  ops_->RotaryTable({.positions = positions,
                     .inv_freq = inv_freq,
                     .factor = 1.1,
                     .cos = View(cos, 4),
                     .sin = View(sin, 4)});
  reference_->RotaryTable({.positions = positions,
                           .inv_freq = inv_freq,
                           .factor = 1.1,
                           .cos = View(cos64, 4),
                           .sin = View(sin64, 4)});
  for (int i = 0; i < 4 * 32; ++i) {
    EXPECT_EQ(cos[i], static_cast<float>(cos64[i]));
    EXPECT_EQ(sin[i], static_cast<float>(sin64[i]));
    EXPECT_NEAR(cos64[i], 1.1 * std::cos(positions[i / 32] * inv_freq[i % 32]), 1e-12);
  }
}

// Within 4 eps of e^x over the range sampling and softmax use, zero only where a float would be
// subnormal, and exact at the ends.
TEST(Exp, IsCloseToTheLibrarys) {
  for (const cpu::CpuKernels* kernels : cpu::AvailableKernels()) {
    std::vector<float> x;
    for (int i = 0; i <= 870000; ++i) x.push_back(-1e-4f * static_cast<float>(i));
    const std::vector<float> special = {-std::numeric_limits<float>::infinity(), -1e30f, -104.0f,
                                        std::numeric_limits<float>::quiet_NaN()};
    const auto count = static_cast<int64_t>(x.size());
    std::vector<float> y(x.size()), zero(special.size());
    kernels->weights(x.data(), count, 0.0f, 1.0f, y.data());
    for (int64_t i = 0; i < count; ++i) {
      ASSERT_NEAR(y[i] / std::exp(static_cast<double>(x[i])), 1.0, 4 * kEps) << x[i];
    }
    EXPECT_EQ(y[0], 1.0f);
    kernels->weights(special.data(), 4, 0.0f, 1.0f, zero.data());
    EXPECT_EQ(zero, std::vector<float>(4, 0.0f)) << kernels->name;
    double sum = 0;
    for (float value : y) sum += value;
    EXPECT_NEAR(kernels->weight_sum(x.data(), count, 0.0f, 1.0f) / sum, 1.0, 1e-3);
  }
}

TEST(Silu, IsCloseOnBothSidesAndAtItsEnds) {
  for (const cpu::CpuKernels* kernels : cpu::AvailableKernels()) {
    std::vector<float> gate;
    for (int i = -8000; i <= 8000; ++i) gate.push_back(static_cast<float>(i) * 0.01f);
    gate.insert(gate.end(), {1000.0f, -1000.0f});
    const auto count = static_cast<int64_t>(gate.size());
    const std::vector<float> up(gate.size(), 1.0f);
    std::vector<float> h(gate.size());
    kernels->silu_gate(gate.data(), up.data(), count, h.data());
    for (int64_t i = 0; i < count - 2; ++i) {
      const double expected = gate[i] / (1 + std::exp(-static_cast<double>(gate[i])));
      ASSERT_NEAR(h[i], expected, 8 * kEps * std::abs(expected)) << gate[i];
    }
    EXPECT_EQ(h[count - 2], 1000.0f);
    EXPECT_NEAR(h[count - 1], 0.0, 1e-30);
  }
}

}  // namespace
}  // namespace sterna
