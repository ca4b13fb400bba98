// The CUDA backend's ops on rows of activations, on emulated threads
// (tests/testing/cuda_emulation.h): norms, quantisation, embeddings.
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/norm_quantize.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::ConstView;
using ::testing::ContainerEq;
using testing::Quantized;
using testing::Random;
using testing::RandomFloats;
using testing::View;

constexpr double kEps = std::numeric_limits<float>::epsilon();
constexpr float kNormEps = 1e-5f;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Relative error of a row's root mean square and of the few operations around it: a sum has at most
// 32 squares of one thread, then ten steps of halves.
constexpr double kNormError = (32 + 10 + 6) * kEps;

// Whole numbers, whose squares have the same sum in any order: what is left is rounded once an
// operation, as the reference does.
std::vector<float> SmallIntegers(Random& random, int64_t n) {
  std::uniform_int_distribution<int> value(-15, 15);
  std::vector<float> values(n);
  for (float& v : values) v = static_cast<float>(value(random));
  return values;
}

void Normalize(const std::vector<float>& x, const std::vector<float>& weight, int64_t rows,
               float* y) {
  ASSERT_EQ(cuda::LaunchRmsNorm({.x = x.data(),
                                 .weight = weight.data(),
                                 .eps = kNormEps,
                                 .tokens = static_cast<int32_t>(rows),
                                 .cols = static_cast<int32_t>(weight.size()),
                                 .y = y},
                                nullptr),
            cudaSuccess);
}

cuda::RmsNormQuantizeArgs Args(const float* x, const std::vector<float>& weight,
                               const QuantizedMat<float>& out) {
  return {.x = x,
          .weight = weight.empty() ? nullptr : weight.data(),
          .eps = kNormEps,
          .tokens = static_cast<int32_t>(out.rows),
          .cols = static_cast<int32_t>(out.cols),
          .num_groups = static_cast<int32_t>(out.num_groups()),
          .group_cols = static_cast<int32_t>(out.group_size),
          .q_stride = static_cast<int32_t>(out.stride),
          .q = out.q,
          .s = out.scale,
          .sum = out.sum};
}

void Quantize(const std::vector<float>& x, const std::vector<float>& weight,
              const QuantizedMat<float>& out) {
  ASSERT_EQ(cuda::LaunchRmsNormQuantize(Args(x.data(), weight, out), nullptr), cudaSuccess);
}

// Both forms of a row's loads: on boundaries of 16 bytes and not; one to eight fours of a thread.
constexpr int64_t kCols[] = {1, 7, 64, 100, 2560, 5000, 5001, 12345, 17000};

TEST(CudaRmsNorm, IsCloseToTheReference) {
  Random random(1);
  uint64_t order = 0;
  for (const int64_t cols : kCols) {
    for (const int64_t rows : {1, 3, 9}) {
      testing::SetCudaThreadOrder(order++);
      std::vector<float> x = RandomFloats(random, rows * cols);
      const std::vector<float> weight = RandomFloats(random, cols);
      const std::vector<double> x64 = testing::ToDouble(x);
      std::vector<double> expected(rows * cols);
      CreateReferenceOps<double>()->RmsNorm({.x = ConstView(x64, rows),
                                             .weight = weight,
                                             .eps = kNormEps,
                                             .y = View(expected, rows)});
      std::vector<float> y(rows * cols, kNan);
      Normalize(x, weight, rows, y.data());
      for (int64_t i = 0; i < rows * cols; ++i) {
        ASSERT_NEAR(y[i], expected[i], kNormError * std::abs(expected[i])) << cols << " " << i;
      }
      Normalize(x, weight, rows, x.data());  // in place
      ASSERT_THAT(x, ContainerEq(y));
    }
  }
}

TEST(CudaRmsNorm, EqualsTheFloatReferenceWhereSumsAreExact) {
  Random random(2);
  for (const int64_t cols : kCols) {
    const std::vector<float> x = SmallIntegers(random, 3 * cols);
    const std::vector<float> weight = RandomFloats(random, cols);
    std::vector<float> y(3 * cols, kNan), expected(3 * cols);
    CreateReferenceOps<float>()->RmsNorm(
        {.x = ConstView(x, 3), .weight = weight, .eps = kNormEps, .y = View(expected, 3)});
    Normalize(x, weight, 3, y.data());
    ASSERT_THAT(y, ContainerEq(expected)) << cols;
  }
}

// With a norm where its sum is exact, without one on any values: the reference's bits.
TEST(CudaRmsNormQuantize, EqualsTheFloatReference) {
  Random random(3);
  uint64_t order = 0;
  for (const int64_t cols : kCols) {
    for (const int64_t group : {0, 64, 128, 192, 2048}) {
      for (const bool norm : {false, true}) {
        const int64_t rows = cols == 100 ? 70 : 4;
        std::vector<float> x =
            norm ? SmallIntegers(random, rows * cols) : RandomFloats(random, rows * cols);
        std::fill_n(x.begin(), cols, 0.0f);
        for (int64_t i = cols; i < 2 * cols; ++i) x[i] *= 1e-7f;  // below the floor of the absmax
        if (!norm) {
          for (int64_t i = 0; i < cols; ++i) {  // halves, and s = 1: ties
            x[2 * cols + i] = i % 64 == 0 ? 127.0f : float(i * 7 % 507 - 253) / 2;
          }
        } else {
          std::fill_n(x.begin() + cols, cols, 0.5f);
        }
        const std::vector<float> weight = RandomFloats(random, norm ? cols : 0);
        Quantized<float> actual(rows, cols, group), expected(rows, cols, group);
        CreateReferenceOps<float>()->RmsNormQuantize(
            {.x = ConstView(x, rows), .weight = weight, .eps = kNormEps, .out = expected.mat});
        testing::SetCudaThreadOrder(order++);
        Quantize(x, weight, actual.mat);
        ASSERT_THAT(actual.q, ContainerEq(expected.q)) << cols << " by " << group;
        ASSERT_THAT(actual.scale, ContainerEq(expected.scale)) << cols << " by " << group;
        ASSERT_THAT(actual.sum, ContainerEq(expected.sum)) << cols << " by " << group;
      }
    }
  }
}

// On any values a norm is off by rounding, which makes a code of the next one only near a tie.
TEST(CudaRmsNormQuantize, IsCloseToTheReference) {
  constexpr int64_t kRows = 3, kWidth = 2560;
  Random random(4);
  const std::vector<float> x = RandomFloats(random, kRows * kWidth);
  const std::vector<float> weight = RandomFloats(random, kWidth);
  const std::vector<double> x64 = testing::ToDouble(x);
  std::vector<double> normed(kRows * kWidth);
  auto reference = CreateReferenceOps<double>();
  reference->RmsNorm(
      {.x = ConstView(x64, kRows), .weight = weight, .eps = kNormEps, .y = View(normed, kRows)});
  for (const int64_t group : {0, 128}) {
    Quantized<float> actual(kRows, kWidth, group);
    Quantized<double> expected(kRows, kWidth, group);
    reference->RmsNormQuantize(
        {.x = ConstView(x64, kRows), .weight = weight, .eps = kNormEps, .out = expected.mat});
    Quantize(x, weight, actual.mat);
    int64_t near_ties = 0;
    for (int64_t i = 0; i < kRows * kWidth; ++i) {
      const int64_t scale = group == 0 ? i / kWidth : i / group;
      ASSERT_NEAR(actual.scale[scale] / expected.scale[scale], 1.0, 2 * kNormError);
      const double scaled = normed[i] * expected.scale[scale];
      const bool near_tie = std::abs(scaled - std::floor(scaled) - 0.5) <= 127 * 2 * kNormError;
      near_ties += near_tie;
      ASSERT_LE(std::abs(actual.q[i] - expected.q[i]), near_tie ? 1 : 0) << i << ": " << scaled;
    }
    EXPECT_LT(near_ties, kRows * kWidth / 100);
  }
}

TEST(CudaRmsNormQuantize, RowsDoNotDependOnOthers) {
  constexpr int64_t kRows = 9, kWidth = 2500;
  Random random(5);
  const std::vector<float> x = RandomFloats(random, kRows * kWidth);
  const std::vector<float> weight = RandomFloats(random, kWidth);
  for (const int64_t group : {0, 64}) {
    Quantized<float> all(kRows, kWidth, group), one(1, kWidth, group);
    testing::SetCudaThreadOrder(1);
    Quantize(x, weight, all.mat);
    for (int64_t row = 0; row < kRows; ++row) {
      testing::SetCudaThreadOrder(static_cast<uint64_t>(row) + 2);
      ASSERT_EQ(cuda::LaunchRmsNormQuantize(Args(&x[row * kWidth], weight, one.mat), nullptr),
                cudaSuccess);
      ASSERT_TRUE(
          std::ranges::equal(one.q, std::span(all.q).subspan(row * one.q.size(), one.q.size())));
      ASSERT_TRUE(std::ranges::equal(
          one.scale, std::span(all.scale).subspan(row * one.scale.size(), one.scale.size())));
      ASSERT_TRUE(std::ranges::equal(
          one.sum, std::span(all.sum).subspan(row * one.sum.size(), one.sum.size())));
    }
  }
}

TEST(CudaRmsNormQuantize, NanAndInfinityAreTheReferences) {
  for (const bool norm : {false, true}) {
    for (const int64_t group : {0, 64}) {
      std::vector<float> x(3 * 140, 1.0f);
      x[3] = kNan;
      x[40] = kInf;
      x[69] = -kInf;
      x[140 + 139] = kNan;
      x[280] = -kInf;
      const std::vector<float> weight(norm ? 140 : 0, 2.0f);
      Quantized<float> actual(3, 140, group), expected(3, 140, group);
      CreateReferenceOps<float>()->RmsNormQuantize(
          {.x = ConstView(x, 3), .weight = weight, .eps = kNormEps, .out = expected.mat});
      Quantize(x, weight, actual.mat);
      EXPECT_THAT(actual.q, ContainerEq(expected.q));
      EXPECT_THAT(actual.scale, ContainerEq(expected.scale));
      EXPECT_THAT(actual.sum, ContainerEq(expected.sum));
    }
  }
}

TEST(CudaRmsNormQuantize, ZeroesAWiderStride) {
  constexpr int64_t kWidth = 70, kStride = 128 * 64;
  const std::vector<float> x(2 * kWidth, 1.0f);
  Quantized<float> expected(2, kWidth), actual(2, kWidth);
  Quantize(x, {}, expected.mat);
  std::vector<int8_t> q(2 * kStride, 0x55);
  actual.mat.q = q.data();
  actual.mat.stride = kStride;
  Quantize(x, {}, actual.mat);
  for (int64_t i = 0; i < 2 * kStride; ++i) {
    ASSERT_EQ(q[i], i % kStride < kWidth ? 127 : 0) << i;
  }
  EXPECT_THAT(actual.sum, ContainerEq(expected.sum));
}

TEST(CudaNorms, RefuseWhatTheyCannotDo) {
  const std::vector<float> x(256, 1.0f);
  std::vector<float> y(256);
  const cuda::RmsNormArgs norm = {
      .x = x.data(), .weight = x.data(), .eps = 0, .tokens = 1, .cols = 256, .y = y.data()};
  const auto norm_refuses = [&](auto&& change) {
    cuda::RmsNormArgs args = norm;
    change(args);
    return cuda::LaunchRmsNorm(args, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_FALSE(norm_refuses([](auto&) {}));
  EXPECT_TRUE(norm_refuses([](auto& args) { args.tokens = 0; }));
  EXPECT_TRUE(norm_refuses([](auto& args) { args.cols = cuda::kMostNormCols + 1; }));
  EXPECT_TRUE(norm_refuses([](auto& args) { args.weight = nullptr; }));
  Quantized<float> out(1, 256, 64);
  const auto quantize_refuses = [&](auto&& change) {
    cuda::RmsNormQuantizeArgs args = Args(x.data(), {}, out.mat);
    change(args);
    return cuda::LaunchRmsNormQuantize(args, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_FALSE(quantize_refuses([](auto&) {}));
  EXPECT_TRUE(quantize_refuses([](auto& args) { args.group_cols = 32; }));
  EXPECT_TRUE(quantize_refuses([](auto& args) { args.num_groups = 3; }));
  EXPECT_TRUE(quantize_refuses([](auto& args) { args.num_groups = 1; }));
  EXPECT_TRUE(quantize_refuses([](auto& args) { args.q_stride = 260; }));
  EXPECT_TRUE(quantize_refuses([](auto& args) { ++args.q; }));
}

}  // namespace
}  // namespace sterna
