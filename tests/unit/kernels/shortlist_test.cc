// ShortlistLinear of every CPU level against the whole head: the same tokens, the same bits where
// there is an output, and error bounds that hold.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/dense_shortlist.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::ConstView;
using testing::Random;
using testing::RandomFloats;
using testing::View;

constexpr float kInf = std::numeric_limits<float>::infinity();

// A matrix, as bf16 tiles or f32 rows, with its shortlist.
class Head {
 public:
  // `weights` [rows, cols] are cut to bf16 for either.
  Head(std::vector<float> weights, int64_t rows, int64_t cols, DenseType type)
      : f32_(Cut(std::move(weights))),
        bf16_(testing::ToBf16(f32_), rows, cols),
        rounded_(Bounded(f32_, cols), rows, cols),
        exact_(type == DenseType::kF32 ? testing::DenseRows(f32_, rows, cols) : bf16_.view()) {
    std::vector<uint8_t> codes(static_cast<size_t>(cols));
    for (int64_t row = 0; row < rows; ++row) {
      if (HasShortlistBound(Row(row))) {
        const float scale = RoundDenseRow(Row(row), codes);
        const ShortlistBounds bounds = BoundShortlistRow(Row(row), codes, scale);
        bounds_.push_back(bounds.error);
        high_bits_bounds_.push_back(bounds.high_bits_error);
        norms_.push_back(bounds.norm);
      } else {
        bounds_.push_back(kInf);
        high_bits_bounds_.push_back(kInf);
        norms_.push_back(0.0f);
      }
    }
  }

  std::span<const float> Row(int64_t row) const {
    const auto cols = static_cast<size_t>(exact_.cols);
    return std::span(f32_).subspan(static_cast<size_t>(row) * cols, cols);
  }
  const DenseMatrix& exact() const { return exact_; }
  DenseShortlist shortlist() const {
    return {.rounded = rounded_.view(),
            .error_bounds = bounds_.data(),
            .high_bits_error_bounds = high_bits_bounds_.data(),
            .norms = norms_.data()};
  }

 private:
  static std::vector<float> Cut(std::vector<float> values) {
    const std::vector<uint16_t> bits = testing::ToBf16(values);
    for (size_t i = 0; i < bits.size(); ++i) values[i] = std::bit_cast<float>(bits[i] << 16);
    return values;
  }
  static std::vector<float> Bounded(std::vector<float> values, int64_t cols) {
    for (auto row = values.begin(); row != values.end(); row += cols) {
      if (!HasShortlistBound({row, row + cols})) std::fill_n(row, cols, 0.0f);
    }
    return values;
  }

  std::vector<float> f32_;
  testing::DenseTiles bf16_;
  testing::DenseTiles rounded_;
  DenseMatrix exact_;
  std::vector<float> bounds_, high_bits_bounds_, norms_;
};

class Shortlist : public ::testing::TestWithParam<std::string> {
 protected:
  // Tokens that this level uses a shortlist for: as many as begin with its high bits if they are
  // greedy, and, if there are, more.
  int64_t few() const { return GetParam() == "avx2" || GetParam() == "scalar" ? 1 : 3; }
  int64_t many() const { return few() == 1 ? 1 : 6; }
  bool uses_shortlist() const { return GetParam() != "scalar"; }

  std::vector<float> Whole(const DenseMatrix& w, const std::vector<float>& x) {
    const auto rows = static_cast<int64_t>(x.size()) / w.cols;
    std::vector<float> y(static_cast<size_t>(rows * w.rows));
    ops_->DenseLinear({.x = ConstView(x, rows), .w = w, .y = View(y, rows)});
    return y;
  }
  std::vector<float> Part(const Head& head, const std::vector<float>& x,
                          const std::vector<SampleParams>& params) {
    const auto rows = static_cast<int64_t>(params.size());
    std::vector<float> y(params.size() * static_cast<size_t>(head.exact().rows), 123.0f);
    ops_->ShortlistLinear({.x = ConstView(x, rows),
                           .w = head.exact(),
                           .shortlist = head.shortlist(),
                           .params = params,
                           .y = View(y, rows)});
    return y;
  }
  std::vector<int32_t> Draw(const std::vector<float>& logits, std::vector<SampleParams> params) {
    const auto rows = static_cast<int64_t>(params.size());
    std::vector<int32_t> tokens;
    std::vector<SampleResult> results(params.size());
    for (uint64_t position = 0; position < 30; ++position) {
      for (SampleParams& p : params) p.position = position;
      ops_->Sample({.logits = ConstView(logits, rows), .params = params, .results = results});
      for (const SampleResult& result : results) tokens.push_back(result.token);
    }
    return tokens;
  }
  // `params` for the rows of x in turn. Returns the part of outputs that were left out.
  double ExpectSameTokens(const Head& head, const std::vector<float>& x,
                          std::vector<SampleParams> params) {
    const std::vector<float> whole = Whole(head.exact(), x);
    const std::vector<float> part = Part(head, x, params);
    EXPECT_EQ(Draw(part, params), Draw(whole, params));
    int64_t left_out = 0;
    for (size_t i = 0; i < part.size(); ++i) {
      if (part[i] == -kInf) {
        ++left_out;
      } else {
        EXPECT_EQ(std::memcmp(&part[i], &whole[i], sizeof(float)), 0) << i;
      }
    }
    return static_cast<double>(left_out) / static_cast<double>(part.size());
  }

  std::unique_ptr<Ops<float>> ops_ = testing::CpuOps(GetParam(), 2);
  Random random_{11};
};

INSTANTIATE_TEST_SUITE_P(Levels, Shortlist, ::testing::ValuesIn(testing::ProductLevels()),
                         [](const auto& info) { return info.param; });

std::vector<SampleParams> ParamsToTest() {
  static const std::vector<std::pair<int32_t, float>> bias = {{7, 3.0f}, {4001, -100.0f}};
  static const std::vector<TokenCount> counts = {{3, 2}, {7, 0}, {1500, 1}, {3999, 4}};
  std::vector<SampleParams> all = {
      {.temperature = 0.0f},
      {.temperature = 0.7f, .top_k = 1},
      {.temperature = 1.3f, .top_k = 20},
      {.temperature = 1.0f, .top_k = 20, .top_p = 0.8f},
      {.temperature = 1.0f, .min_p = 0.2f},
      {.temperature = 2.0f, .top_p = 0.9f, .min_p = 0.1f},
      {.temperature = 2.0f, .top_k = 5, .min_p = 0.05f},
  };
  const size_t plain = all.size();
  for (size_t i = 0; i < plain; ++i) {
    SampleParams adjusted = all[i];
    adjusted.repetition_penalty = i % 2 == 0 ? 1.3f : 0.8f;
    adjusted.presence_penalty = 0.5f;
    adjusted.frequency_penalty = i % 3 == 0 ? -0.7f : 0.7f;
    adjusted.logit_bias = bias;
    adjusted.token_counts = counts;
    all.push_back(adjusted);
  }
  return all;
}

TEST_P(Shortlist, SameTokensAsTheWholeHead) {
  for (const auto& [rows, cols, type] :
       {std::tuple(5003, 256, DenseType::kBf16), std::tuple(4096, 75, DenseType::kBf16),
        std::tuple(5003, 100, DenseType::kF32)}) {
    const Head head(RandomFloats(random_, rows * cols, 0.1f), rows, cols, type);
    double left_out = 0;
    int cases = 0;
    const auto expect_same = [&](const std::vector<SampleParams>& params) {
      left_out += ExpectSameTokens(head, RandomFloats(random_, std::ssize(params) * cols), params);
      ++cases;
    };
    const std::vector<SampleParams> all = ParamsToTest();
    for (size_t i = 0; i < all.size(); ++i) {
      // Every row has other params, so that one that takes its neighbour's is found out.
      std::vector<SampleParams> params;
      for (int64_t t = 0; t < few(); ++t) params.push_back(all[(i + 5 * t) % all.size()]);
      expect_same(params);
    }
    std::vector<SampleParams> greedy = all;
    for (SampleParams& params : greedy) params.temperature = 0;
    for (const int64_t num : {few(), many()}) {
      for (int64_t i = 0; i + num <= std::ssize(greedy); i += num) {
        expect_same({greedy.begin() + i, greedy.begin() + i + num});
      }
    }
    if (uses_shortlist()) {
      EXPECT_GT(left_out, 0.7 * cases) << rows << " " << cols << ": little was left out or tested";
    }
  }
}

// Rows that are equal, or differ by less than int8 can tell, at both ends of the vocabulary.
TEST_P(Shortlist, TiesAndNearTies) {
  constexpr int64_t kRows = 4003, kCols = 128;
  std::vector<float> weights = RandomFloats(random_, kRows * kCols, 0.1f);
  const std::vector<float> x = RandomFloats(random_, kCols);
  const auto row = [&](int64_t r) { return weights.begin() + r * kCols; };
  // A row along x wins by far.
  for (int64_t c = 0; c < kCols; ++c) row(2000)[c] = 0.1f * x[static_cast<size_t>(c)];
  for (const int64_t r : {0, 17, 1999, 4002}) std::copy_n(row(2000), kCols, row(r));
  std::vector<float> near = weights;
  near[5] *= 1.01f;           // row 0, now the largest or the smallest
  near[17 * kCols] *= 1.01f;  // row 17
  for (const auto& w : {weights, near}) {
    const Head head(w, kRows, kCols, DenseType::kBf16);
    for (const SampleParams& params : ParamsToTest()) ExpectSameTokens(head, x, {params});
  }
}

// Rows and activations in which one number is far larger than the others: what begins with fewer
// bits leaves most rows open.
TEST_P(Shortlist, FirstRoundThatTellsLittle) {
  constexpr int64_t kRows = 4000, kCols = 1024;
  std::vector<float> weights(kRows * kCols);
  std::normal_distribution<float> normal;
  for (float& w : weights) w = normal(random_);
  for (int64_t row = 0; row < kRows; ++row) weights[row * kCols + row % kCols] = 16.0f;
  const Head head(weights, kRows, kCols, DenseType::kBf16);
  for (const float largest : {1.0f, 12.0f, 100.0f}) {
    for (const int64_t num : {few(), many()}) {
      std::vector<float> x(static_cast<size_t>(num * kCols));
      for (float& value : x) value = normal(random_);
      for (int64_t t = 0; t < num; ++t) x[t * kCols + 7 * t] *= largest;
      ExpectSameTokens(head, x, std::vector<SampleParams>(num, {.temperature = 0.0f}));
    }
  }
}

// Two rows that int8 holds exactly, one larger by what activations have in their low eight bits of
// 16, the other by less than that in their high bits.
TEST_P(Shortlist, LowBitsOfActivationsDecide) {
  constexpr int64_t kRows = 4000, kCols = 64;
  std::vector<float> weights(kRows * kCols), x(kCols);
  for (float& w : weights) w = static_cast<float>(static_cast<int64_t>(random_() % 41) - 20);
  x[0] = 32639.0f;  // 16 bits are whole numbers
  for (int64_t c = 1; c < 16; ++c) x[c] = c % 2 == 0 ? 256.0f * 77 : -256.0f * 50;
  for (int64_t c = 16; c < 48; ++c) x[c] = c % 2 == 0 ? 100.0f : -100.0f;
  for (int64_t c = 48; c < kCols; ++c) x[c] = 256.0f;
  for (const int64_t row : {1000, 3000}) {
    float* w = &weights[row * kCols];
    for (int64_t c = 0; c < 16; ++c) w[c] = x[c] > 0 ? 127.0f : -127.0f;  // they win
    for (int64_t c = 16; c < 48; ++c) w[c] = row == 3000 ? x[c] * 0.03f : 0.0f;
    for (int64_t c = 48; c < kCols; ++c) w[c] = row == 1000 ? 1.0f : 0.0f;
  }
  const Head head(weights, kRows, kCols, DenseType::kBf16);
  const int64_t tokens = many() == 1 ? 1 : 19;  // one tile and a part of the next
  std::vector<float> inputs;
  for (int64_t t = 0; t < tokens; ++t) inputs.insert(inputs.end(), x.begin(), x.end());
  const std::vector<SampleParams> params(static_cast<size_t>(tokens), {.temperature = 0.0f});
  ExpectSameTokens(head, inputs, params);
  EXPECT_EQ(Draw(Part(head, inputs, params), params)[0], 3000);
}

// |exact - rounded| <= bound * |x|, also for the x that a row's rounding is worst for, and there
// the bound is not much larger than it has to be.
TEST_P(Shortlist, ErrorBounds) {
  constexpr int64_t kRows = 300, kCols = 512, kWorst = 20;
  const Head head(RandomFloats(random_, kRows * kCols, 0.1f), kRows, kCols, DenseType::kBf16);
  const DenseShortlist shortlist = head.shortlist();
  std::vector<std::vector<float>> inputs = {
      RandomFloats(random_, kCols), RandomFloats(random_, kCols, 1e-4f),
      RandomFloats(random_, kCols, 1e9f), std::vector<float>(kCols, 1e-3f)};
  inputs.back()[77] = 1e4f;  // hardly anything else survives 16 bits
  const auto others = static_cast<int64_t>(inputs.size());
  inputs.resize(inputs.size() + kWorst);
  for (const auto& [rounded, bounds] :
       {std::pair(shortlist.rounded, shortlist.error_bounds),
        std::pair(shortlist.rounded.HighBits(), shortlist.high_bits_error_bounds)}) {
    for (int64_t row = 0; row < kWorst; ++row) {
      std::vector<float> worst(kCols);
      rounded.CopyRow(row, worst.data());
      for (size_t c = 0; c < kCols; ++c) worst[c] = head.Row(row)[c] - worst[c];
      inputs[static_cast<size_t>(others + row)] = std::move(worst);
    }
    for (size_t i = 0; i < inputs.size(); ++i) {
      const std::vector<float> exact = Whole(head.exact(), inputs[i]);
      const std::vector<float> approximate = Whole(rounded, inputs[i]);
      double norm = 0;
      for (const float value : inputs[i]) norm += static_cast<double>(value) * value;
      norm = std::sqrt(norm);
      for (int64_t row = 0; row < kRows; ++row) {
        const double error = std::abs(static_cast<double>(exact[static_cast<size_t>(row)]) -
                                      approximate[static_cast<size_t>(row)]);
        EXPECT_LE(error, bounds[row] * norm) << i << " " << row;
        if (static_cast<int64_t>(i) - others == row) {
          EXPECT_GT(error, 0.9 * bounds[row] * norm);
        }
      }
    }
  }
}

TEST_P(Shortlist, WholeHeadWhereTheDistributionIsWantedOrNothingIsKnown) {
  constexpr int64_t kRows = 1000, kCols = 64;
  const Head head(RandomFloats(random_, kRows * kCols, 0.1f), kRows, kCols, DenseType::kBf16);
  const std::vector<float> x = RandomFloats(random_, kCols);
  const auto expect_whole = [&](const std::vector<float>& input, const SampleParams& params) {
    const std::vector<float> whole = Whole(head.exact(), input), part = Part(head, input, {params});
    EXPECT_EQ(std::memcmp(whole.data(), part.data(), whole.size() * sizeof(float)), 0);
  };
  expect_whole(x, {.temperature = 1.0f});
  expect_whole(x, {.temperature = 1.0f, .top_p = 0.5f});
  expect_whole(x, {.temperature = 1.0f, .top_k = kRows / 4});
  expect_whole(x, {.temperature = 1.0f, .top_k = kRows});
  expect_whole(x, {.temperature = 0.0f, .num_logprobs = 0});
  expect_whole(x, {.temperature = 1.0f, .min_p = 1e-30f});
  for (const float value : {kInf, std::numeric_limits<float>::quiet_NaN(), 3e38f}) {
    std::vector<float> bad = x;
    bad[9] = value;
    expect_whole(bad, {.temperature = 0.0f});
  }
  expect_whole(std::vector<float>(kCols, 0.0f), {.temperature = 0.0f});
  expect_whole(std::vector<float>(kCols, 1e-5f), {.temperature = 0.0f});
  expect_whole(std::vector<float>(kCols, 1e16f), {.temperature = 0.0f});
}

TEST_P(Shortlist, RowsThatAreNotFinite) {
  constexpr int64_t kRows = 2000, kCols = 64;
  for (const float value : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> weights = RandomFloats(random_, kRows * kCols, 0.1f);
    weights[1234 * kCols + 5] = value;
    weights[3 * kCols] = value;
    const Head head(weights, kRows, kCols, DenseType::kBf16);
    EXPECT_EQ(head.shortlist().error_bounds[1234], kInf);
    for (const SampleParams& params : ParamsToTest()) {
      if (!params.token_counts.empty()) continue;  // they name tokens that are not there
      ExpectSameTokens(head, RandomFloats(random_, kCols), {params});
    }
  }
}

// What overflows in int8 and not exactly, or exactly and not in int8, is never left out.
TEST_P(Shortlist, RowsAtTheEndsOfTheFloats) {
  constexpr int64_t kRows = 2000, kCols = 64;
  for (const float huge : {1e14f, 1e20f, 3e37f}) {
    for (const float sign : {1.0f, -1.0f}) {
      std::vector<float> weights = RandomFloats(random_, kRows * kCols, 0.1f);
      std::fill_n(weights.begin() + 77 * kCols, kCols, sign * huge);
      weights[99 * kCols] = kInf;
      std::fill_n(weights.begin() + 99 * kCols + 1, kCols - 1, -3e38f);
      const Head head(weights, kRows, kCols, DenseType::kBf16);
      for (const float scale : {2e-4f, 1.0f, 1e13f}) {
        ExpectSameTokens(head, std::vector<float>(kCols, scale), {{.temperature = 0.0f}});
        ExpectSameTokens(head, RandomFloats(random_, kCols, scale), {{.temperature = 0.0f}});
      }
    }
  }
}

}  // namespace
}  // namespace sterna
