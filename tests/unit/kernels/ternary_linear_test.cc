// TernaryLinear at every instruction set this machine has.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <limits>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using ::testing::ContainerEq;
using testing::Quantized;
using testing::Random;

// The levels the processor has according to the operating system, which the code under test does
// not ask.
std::vector<std::string> LevelsInProcCpuinfo() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  std::set<std::string> flags;
  while (std::getline(file, line)) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    for (std::string word; words >> word;) flags.insert(word);
    break;
  }
  auto has = [&](std::initializer_list<const char*> names) {
    return std::all_of(names.begin(), names.end(),
                       [&](const char* n) { return flags.contains(n); });
  };
  std::vector<std::string> levels = {"scalar"};
  if (has({"avx2", "fma", "f16c"})) levels.push_back("avx2");
  if (has({"avx2", "fma", "f16c", "avx_vnni"})) levels.push_back("avx_vnni");
  if (has({"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"})) {
    levels.push_back("avx512_vnni");
    if (has({"amx_tile", "amx_int8", "amx_bf16"})) levels.push_back("amx");
  }
  return levels;
}

std::vector<float> RunLinear(Ops<float>& ops, const QuantizedMat<float>& q, const TernaryMatrix& w,
                             std::vector<float> y, std::span<const float> bias = {},
                             bool accumulate = false) {
  y.resize(q.rows * w.rows());
  ops.TernaryLinear(
      {.q = q, .w = &w, .bias = bias, .accumulate = accumulate, .y = testing::View(y, q.rows)});
  return y;
}

std::vector<int64_t> RawProducts(const QuantizedMat<float>& q, const TernaryMatrix& w) {
  std::vector<int64_t> products;
  for (int64_t t = 0; t < q.rows; ++t) {
    for (int64_t n = 0; n < w.rows(); ++n) {
      int64_t sum = 0;
      for (int64_t k = 0; k < w.cols(); ++k) sum += q.q[t * q.stride + k] * w.At(n, k);
      products.push_back(sum);
    }
  }
  return products;
}

// With all scales 1 the output is the int32 product itself, exact in a float below 2^24.
void ExpectExactProducts(Ops<float>& ops, const QuantizedMat<float>& q, const TernaryMatrix& w) {
  const std::vector<int64_t> products = RawProducts(q, w);
  for (int64_t p : products) ASSERT_LT(std::abs(p), int64_t{1} << 24);
  EXPECT_THAT(RunLinear(ops, q, w, {}),
              ContainerEq(std::vector<float>(products.begin(), products.end())))
      << ops.Name() << " " << q.rows << "x" << w.rows() << "x" << w.cols();
}

TEST(TernaryLinear, ProductsAreExactAtEveryLevelOfThisMachine) {
  EXPECT_EQ(CpuIsaLevels(), LevelsInProcCpuinfo());
  for (const std::string& level : testing::ProductLevels()) {
    auto ops = testing::CpuOps(level, 2);
    Random random(1);
    std::uniform_int_distribution<int64_t> size(1, 130), tokens(1, 40);
    for (int i = 0; i < 150; ++i) {
      const TernaryMatrix w = testing::RandomTernary(random, size(random), size(random));
      Quantized<float> q(tokens(random), w.cols());
      testing::FillRandom(random, q, /*unit_scales=*/true);
      ExpectExactProducts(*ops, q.mat, w);
    }
    for (int64_t t = 1; t <= 50; ++t) {
      const TernaryMatrix w = testing::RandomTernary(random, 97, 321);
      Quantized<float> q(t, w.cols());
      testing::FillRandom(random, q, true);
      ExpectExactProducts(*ops, q.mat, w);
    }
    std::cout << "ran at level " << level << "\n";
  }
}

TEST(TernaryLinear, ExtremesDoNotSaturate) {
  for (const std::string& level : testing::ProductLevels()) {
    auto ops = testing::CpuOps(level);
    for (const int8_t weight : {-1, 1}) {
      TernaryMatrix w(33, 70000);
      for (int64_t r = 0; r < w.rows(); ++r) w.SetRow(r, std::vector<int8_t>(w.cols(), weight));
      for (const int8_t value : {-128, 127}) {
        Quantized<float> q(3, w.cols());
        for (int64_t t = 0; t < 3; ++t) {
          std::fill_n(q.q.begin() + t * q.mat.stride, w.cols(), value);
          std::fill_n(q.q.begin() + t * q.mat.stride + w.cols(), q.mat.stride - w.cols(), 0);
          q.scale[t] = 1;
          q.sum[t] = static_cast<int32_t>(value * w.cols());
        }
        ExpectExactProducts(*ops, q.mat, w);
      }
    }
  }
}

// Scales, bias and accumulation are applied in one documented order, so floats too agree bit for
// bit with the reference in float.
void ExpectEqualsReference(const TernaryMatrix& w, int64_t tokens, bool with_bias, bool accumulate,
                           Random& random) {
  Quantized<float> q(tokens, w.cols(), w.group_size());
  testing::FillRandom(random, q);
  const std::vector<float> bias =
      with_bias ? testing::RandomFloats(random, w.rows()) : std::vector<float>();
  const std::vector<float> before = testing::RandomFloats(random, tokens * w.rows());
  auto reference = CreateReferenceOps<float>();
  const std::vector<float> expected = RunLinear(*reference, q.mat, w, before, bias, accumulate);
  for (const std::string& level : testing::ProductLevels()) {
    auto ops = testing::CpuOps(level, 2);
    EXPECT_THAT(RunLinear(*ops, q.mat, w, before, bias, accumulate), ContainerEq(expected))
        << level << " " << tokens << "x" << w.rows() << "x" << w.cols();
  }
}

TEST(TernaryLinear, ScalesBiasAndAccumulationEqualTheReferenceBitForBit) {
  Random random(2);
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {40, 200}, {97, 320}, {130, 384}}) {
    for (const int64_t tokens : {1, 3, 8, 13, 33}) {
      for (const bool flag : {false, true}) {
        TernaryMatrix tensor = testing::RandomTernary(random, rows, cols);
        tensor.SetTensorScale(0.731);
        ExpectEqualsReference(tensor, tokens, flag, !flag, random);
        TernaryMatrix row = testing::RandomTernary(random, rows, cols);
        row.SetRowScales(testing::RandomScales(random, rows));
        ExpectEqualsReference(row, tokens, flag, flag, random);
        for (const int64_t group : {64, 128, 512}) {
          TernaryMatrix grouped = testing::RandomTernary(random, rows, cols);
          grouped.SetGroupScales(testing::RandomScales(random, rows * CeilDiv(cols, group)), group);
          ExpectEqualsReference(grouped, tokens, !flag, flag, random);
        }
      }
    }
  }
}

// Several matrices at once, of every kind of scales and of no whole number of panels, are as one by
// one.
TEST(TernaryLinear, SeveralProductsEqualSingleProducts) {
  Random random(4);
  constexpr int64_t kCols = 320;
  std::vector<TernaryMatrix> matrices;
  for (const int64_t rows : {200, 64, 1, 577, 129}) {
    matrices.push_back(testing::RandomTernary(random, rows, kCols));
  }
  matrices[1].SetRowScales(testing::RandomScales(random, 64));
  for (const int64_t i : {3, 4}) {
    TernaryMatrix& w = matrices[static_cast<size_t>(i)];
    w.SetGroupScales(testing::RandomScales(random, w.rows() * CeilDiv(kCols, 128)), 128);
  }
  const std::vector<float> bias = testing::RandomFloats(random, 577);
  for (const int64_t tokens : {1, 5, 40}) {
    Quantized<float> whole(tokens, kCols), grouped(tokens, kCols, 128);
    testing::FillRandom(random, whole);
    testing::FillRandom(random, grouped);
    for (const std::string& level : testing::ProductLevels()) {
      for (const int threads : {1, 2}) {
        auto ops = testing::CpuOps(level, threads);
        std::vector<std::vector<float>> outputs;
        std::vector<TernaryLinearParams<float>> all;
        for (const TernaryMatrix& w : matrices) {
          outputs.emplace_back(static_cast<size_t>(tokens * w.rows()));
          all.push_back({.q = w.num_groups() > 1 ? grouped.mat : whole.mat,
                         .w = &w,
                         .bias = std::span(bias).first(static_cast<size_t>(w.rows())),
                         .y = testing::View(outputs.back(), tokens)});
        }
        ops->TernaryLinears(all);
        for (size_t i = 0; i < matrices.size(); ++i) {
          EXPECT_THAT(outputs[i],
                      ContainerEq(RunLinear(*ops, all[i].q, matrices[i], {}, all[i].bias)))
              << level << " " << tokens << " " << i;
        }
      }
    }
  }
}

// Of every kind of scales, with and without bias, from the same activations and from two: the
// activation of the one product, which is computed in double here, times the other.
TEST(GatedLinear, IsTheActivationOfOneProductTimesTheOther) {
  constexpr double kRelative = 8 * std::numeric_limits<float>::epsilon();
  constexpr double kNothing = 1e-30;  // exp stops just short of float's limits
  constexpr int64_t kCols = 320;
  Random random(8);
  for (const int64_t rows : {1, 30, 64, 150, 700}) {
    TernaryMatrix gate = testing::RandomTernary(random, rows, kCols);
    TernaryMatrix up = testing::RandomTernary(random, rows, kCols);
    const bool grouped = rows == 150;
    const int64_t groups = grouped ? CeilDiv(kCols, 128) : 1;
    std::vector<float> gate_scales = testing::RandomScales(random, rows * groups);
    const std::vector<float> up_scales = testing::RandomScales(random, rows * groups);
    // Far into where exp over- and underflows.
    for (size_t i = 0; i < gate_scales.size(); i += 5) gate_scales[i] *= 100;
    if (grouped) {
      gate.SetGroupScales(gate_scales, 128);
      up.SetGroupScales(up_scales, 128);
    } else if (rows == 700) {  // more than one panel
      gate.SetTensorScale(0.0731);
      up.SetTensorScale(1.37);
    } else {
      gate.SetRowScales(gate_scales);
      if (rows != 64) up.SetRowScales(up_scales);
    }
    const std::vector<float> bias = testing::RandomFloats(random, rows);
    for (const int64_t tokens : {1, 7, 31, 33, 70}) {
      Quantized<float> gate_q(tokens, kCols, grouped ? 128 : 0);
      Quantized<float> other_q(tokens, kCols, grouped ? 128 : 0);
      testing::FillRandom(random, gate_q);
      testing::FillRandom(random, other_q);
      const bool shared = tokens != 7 && tokens != 70;
      const Quantized<float>& up_q = shared ? gate_q : other_q;
      const std::span<const float> up_bias = shared ? std::span<const float>() : bias;
      for (const std::string& level : testing::ProductLevels()) {
        auto ops = testing::CpuOps(level, 2);
        const std::vector<float> gates = RunLinear(*ops, gate_q.mat, gate, {}, bias);
        const std::vector<float> ups = RunLinear(*ops, up_q.mat, up, {}, up_bias);
        for (const Activation activation : {Activation::kSilu, Activation::kReluSquared}) {
          std::vector<float> h(gates.size());
          ops->GatedLinear({.gate = {.q = gate_q.mat, .w = &gate, .bias = bias},
                            .up = {.q = up_q.mat, .w = &up, .bias = up_bias},
                            .activation = activation,
                            .h = testing::View(h, tokens)});
          for (size_t i = 0; i < h.size(); ++i) {
            const double g = gates[i];
            const double expected =
                (activation == Activation::kSilu ? g / (1 + std::exp(-g))
                                                 : std::pow(std::max(g, 0.0), 2)) *
                ups[i];
            ASSERT_NEAR(h[i], expected, kRelative * std::abs(expected) + kNothing)
                << level << " " << rows << " " << tokens << " " << i << " of gate " << g;
          }
        }
      }
    }
  }
}

TEST(TernaryLinear, TuningChangesNoBit) {
  Random random(6);
  const TernaryMatrix w = testing::RandomTernary(random, 300, 700);
  const TernaryMatrix* sample = &w;
  for (const std::string& level : testing::ProductLevels()) {
    const auto plain = testing::CpuOps(level), tuned = testing::CpuOps(level);
    const std::vector<Tuning> tuning = tuned->Tune({&sample, 1});
    const bool amx = level == "amx" || level == testing::kAmxEmulated;
    const bool avx512 = amx || level == "avx512_vnni";
    ASSERT_EQ(tuning.size(), amx ? 2u : avx512 ? 1u : 0u);
    if (avx512) {
      EXPECT_EQ(tuning[0].name, "weight_streams");
      EXPECT_TRUE(tuning[0].value == 1 || tuning[0].value == 4) << tuning[0].value;
    }
    if (amx) {
      EXPECT_EQ(tuning[1].name, "amx_from_tokens");
      EXPECT_GE(tuning[1].value, 2);
      EXPECT_LE(tuning[1].value, 17);
    }
    for (int64_t tokens = 1; tokens <= 40; ++tokens) {
      Quantized<float> q(tokens, w.cols());
      testing::FillRandom(random, q);
      EXPECT_EQ(RunLinear(*plain, q.mat, w, {}), RunLinear(*tuned, q.mat, w, {}))
          << level << " " << tokens;
    }
  }
}

// The order of the definition in double: acc * (scale * (1 / s)), groups in index order.
TEST(TernaryLinear, ReferenceFollowsTheDefinition) {
  Random random(3);
  TernaryMatrix w = testing::RandomTernary(random, 5, 150);
  w.SetGroupScales(testing::RandomScales(random, 5 * 3), 64);
  Quantized<double> q(2, 150, 64);
  testing::FillRandom(random, q);
  const std::vector<float> bias = {1, 2, 3, 4, 5};
  std::vector<double> y(10, 100.0);
  CreateReferenceOps<double>()->TernaryLinear(
      {.q = q.mat, .w = &w, .bias = bias, .accumulate = true, .y = testing::View(y, 2)});
  for (int64_t t = 0; t < 2; ++t) {
    for (int64_t n = 0; n < 5; ++n) {
      double expected = 0;
      for (int64_t k = 0; k < 150; ++k) {
        const double activation = q.q[t * q.mat.stride + k] / q.scale[t * 3 + k / 64];
        expected += activation * w.At(n, k) * static_cast<double>(w.scale(n, k / 64));
      }
      EXPECT_NEAR(y[t * 5 + n], 100.0 + expected + bias[n], 1e-10);
    }
  }
}

TEST(CreateCpuOps, RefusesWhatTheMachineLacksAndNamesTheChoices) {
  const auto bad = CreateCpuOps({.num_threads = 1, .isa = "avx9000"});
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
  const std::string message(bad.status().message());
  EXPECT_THAT(message, ::testing::HasSubstr("avx9000"));
  for (const std::string& level : CpuIsaLevels()) {
    EXPECT_THAT(message, ::testing::HasSubstr(level));
  }
  for (const int threads : {-1, 1025}) {
    EXPECT_EQ(CreateCpuOps({.num_threads = threads}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  const auto best = CreateCpuOps({});
  ASSERT_TRUE(best.ok());
  EXPECT_EQ((*best)->Name(), "cpu/" + CpuIsaLevels().back());
}

}  // namespace
}  // namespace sterna
