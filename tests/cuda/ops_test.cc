// Every op of the CUDA backend against the reference: ternary products bit for bit, floats within
// bounds made of the roundings that an op does, on inputs drawn anew in every run (gtest's
// --gtest_random_seed repeats one), with outputs that hold noise before.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "kernels/half_float.h"
#include "tests/cuda/on_device.h"

namespace sterna {
namespace {

using ::testing::ContainerEq;
using testing::CudaOpsTest;
using testing::OnDevice;
using testing::Quantized;
using testing::QuantizedOnDevice;
using testing::Random;
using testing::RandomFloats;
using testing::ToDouble;
using testing::View;

constexpr double kEps = std::numeric_limits<float>::epsilon();
constexpr float kNormEps = 1e-5f;

TEST_F(CudaOpsTest, TernaryLinearEqualsTheReferenceBitForBit) {
  const bool slow = testing::DeviceUnderTestIsSlow();
  const int64_t most = slow ? 150 : 3000;
  for (int i = 0; i < (slow ? 24 : 200); ++i) {
    // Few rows of many columns are split.
    const bool split = i % 6 == 5;
    const int64_t rows = split ? Between(1, slow ? 40 : 300) : Between(1, most);
    const int64_t cols = split ? Between(most, slow ? 2500 : 16000) : Between(1, 2 * most);
    const int64_t tokens = i % 3 == 0 ? Between(65, slow ? 140 : 700) : Between(1, 64);
    const TernaryMatrix w = testing::RandomTernaryOfKind(random_, i % 4, rows, cols);
    const TernaryMatrix placed = PlaceTernary(w);
    Quantized<float> q(tokens, cols, w.group_size());
    testing::FillRandom(random_, q);
    QuantizedOnDevice device_q(*ops_, q);
    const std::vector<float> bias = RandomFloats(random_, rows);
    OnDevice<float> device_bias(*ops_, bias);
    std::vector<float> expected = RandomFloats(random_, tokens * rows);
    OnDevice<float> y(*ops_, expected);
    const bool accumulate = i % 2 == 0;
    reference_->TernaryLinear(
        {.q = q.mat, .w = &w, .bias = bias, .accumulate = accumulate, .y = View(expected, tokens)});
    ops_->TernaryLinear({.q = device_q.mat,
                         .w = &placed,
                         .bias = device_bias.span(),
                         .accumulate = accumulate,
                         .y = y.AsRows(tokens)});
    ASSERT_THAT(y.Read(), ContainerEq(expected))
        << tokens << "x" << rows << "x" << cols << " kind " << i % 4 << " seed " << Seed();
  }
}

// Launch after launch without a pause between, as in a step, where kernels that hand sums over from
// block to block do so in one place.
TEST_F(CudaOpsTest, RecordedTernaryProductsDoNotMixTheirSums) {
  const bool slow = testing::DeviceUnderTestIsSlow();
  struct Product {
    TernaryMatrix placed;
    std::vector<float> expected;
    OnDevice<float> y;
  };
  const int64_t cols = slow ? 1500 : 9000, tokens = slow ? 33 : 60;
  Quantized<float> q(tokens, cols, cols);
  testing::FillRandom(random_, q);
  QuantizedOnDevice device_q(*ops_, q);
  std::vector<Product> products;
  for (int i = 0; i < (slow ? 4 : 20); ++i) {
    const int64_t rows = Between(1, slow ? 40 : 1000);
    const TernaryMatrix w = testing::RandomTernary(random_, rows, cols);
    std::vector<float> expected(static_cast<size_t>(tokens * rows));
    reference_->TernaryLinear(
        {.q = q.mat, .w = &w, .bias = {}, .accumulate = false, .y = View(expected, tokens)});
    OnDevice<float> y(*ops_, Noise(tokens * rows));
    products.push_back({PlaceTernary(w), std::move(expected), std::move(y)});
  }
  const std::unique_ptr<Recording> recording = ops_->Record([&] {
    for (Product& p : products) {
      ops_->TernaryLinear({.q = device_q.mat,
                           .w = &p.placed,
                           .bias = {},
                           .accumulate = false,
                           .y = p.y.AsRows(tokens)});
    }
  });
  for (int run = 0; run < (slow ? 2 : 20); ++run) {
    for (Product& p : products) p.y.Write(Noise(std::ssize(p.expected)));
    recording->Run();
    for (Product& p : products) {
      ASSERT_THAT(p.y.Read(), ContainerEq(p.expected)) << "run " << run << " seed " << Seed();
    }
  }
}

// exp rounds differently from one library to the next.
TEST_F(CudaOpsTest, GatedLinearIsTheReferences) {
  for (int i = 0; i < 16; ++i) {
    const int64_t rows = Between(1, 300), cols = Between(1, 500);
    const int64_t tokens = i % 2 == 0 ? Between(1, 20) : Between(65, 130);
    const TernaryMatrix gate = testing::RandomTernaryOfKind(random_, i % 4, rows, cols);
    const TernaryMatrix up = testing::RandomTernaryOfKind(random_, i % 4, rows, cols);
    const TernaryMatrix placed_gate = PlaceTernary(gate), placed_up = PlaceTernary(up);
    Quantized<float> q(tokens, cols, gate.group_size());
    testing::FillRandom(random_, q);
    QuantizedOnDevice device_q(*ops_, q), other_q(*ops_, q);
    const auto activation = i % 3 == 0 ? Activation::kReluSquared : Activation::kSilu;
    std::vector<float> expected(static_cast<size_t>(tokens * rows));
    reference_->GatedLinear({.gate = {.q = q.mat, .w = &gate, .bias = {}},
                             .up = {.q = q.mat, .w = &up, .bias = {}},
                             .activation = activation,
                             .h = View(expected, tokens)});
    OnDevice<float> h(*ops_, Noise(tokens * rows));
    // Both from one input, and each from its own.
    for (QuantizedOnDevice* up_q : {&device_q, &other_q}) {
      h.Write(Noise(tokens * rows));
      ops_->GatedLinear({.gate = {.q = device_q.mat, .w = &placed_gate, .bias = {}},
                         .up = {.q = up_q->mat, .w = &placed_up, .bias = {}},
                         .activation = activation,
                         .h = h.AsRows(tokens)});
      const std::vector<float> actual = h.Read();
      for (size_t e = 0; e < expected.size(); ++e) {
        ASSERT_NEAR(actual[e], expected[e], 8 * kEps * std::abs(expected[e])) << "at " << e;
      }
    }
  }
}

TEST_F(CudaOpsTest, RmsNormAndQuantize) {
  for (const int64_t cols : {1, 7, 100, 2560, 6912}) {
    for (const int64_t tokens : {1, 5}) {
      const std::vector<float> x = RandomFloats(random_, tokens * cols);
      const std::vector<float> weight = testing::RandomScales(random_, cols);
      std::vector<double> expected(x.size());
      const std::vector<double> exact_x = ToDouble(x);
      exact_->RmsNorm({.x = testing::ConstView(exact_x, tokens),
                       .weight = weight,
                       .eps = kNormEps,
                       .y = View(expected, tokens)});
      OnDevice<float> device_x(*ops_, x), device_weight(*ops_, weight),
          y(*ops_, Noise(std::ssize(x)));
      ops_->RmsNorm({.x = AsConst(device_x.AsRows(tokens)),
                     .weight = device_weight.span(),
                     .eps = kNormEps,
                     .y = y.AsRows(tokens)});
      const std::vector<float> normed = y.Read();
      const double error = (static_cast<double>(cols) / 4 + 16) * kEps;
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_NEAR(normed[i], expected[i], error * std::abs(expected[i]) + 1e-30);
      }
      // Quantising what was normed is quantising in one go: the same roundings in the same order.
      Quantized<float> host(tokens, cols);
      QuantizedOnDevice fused(*ops_, host), apart(*ops_, host);
      ops_->RmsNormQuantize({.x = AsConst(device_x.AsRows(tokens)),
                             .weight = device_weight.span(),
                             .eps = kNormEps,
                             .out = fused.mat});
      ops_->RmsNormQuantize(
          {.x = AsConst(y.AsRows(tokens)), .weight = {}, .eps = kNormEps, .out = apart.mat});
      reference_->RmsNormQuantize({.x = testing::ConstView(normed, tokens),
                                   .weight = {},
                                   .eps = kNormEps,
                                   .out = host.mat});
      EXPECT_THAT(apart.q.Read(), ContainerEq(host.q));
      EXPECT_THAT(apart.scale.Read(), ContainerEq(host.scale));
      EXPECT_THAT(apart.sum.Read(), ContainerEq(host.sum));
      EXPECT_THAT(fused.q.Read(), ContainerEq(host.q));
      EXPECT_THAT(fused.sum.Read(), ContainerEq(host.sum));
    }
  }
}

TEST_F(CudaOpsTest, TernaryEmbedding) {
  const bool slow = testing::DeviceUnderTestIsSlow();
  const int64_t rows = slow ? 150 : 5003, cols = slow ? 200 : 2570;
  for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
    TernaryMatrix host = testing::RandomTernaryOfKind(random_, kind, rows, cols);
    const std::vector<int32_t> ids = {static_cast<int32_t>(rows - 1), 0, 17, 17};
    std::vector<float> expected(static_cast<size_t>(4 * cols));
    reference_->EmbedTokens({.token_ids = ids, .ternary_table = &host, .x = View(expected, 4)});
    const TernaryMatrix placed = *ops_->Place(std::move(host));
    OnDevice<int32_t> device_ids(*ops_, ids);
    OnDevice<float> x(*ops_, Noise(4 * cols));
    ops_->EmbedTokens({.token_ids = device_ids.span(), .ternary_table = &placed, .x = x.AsRows(4)});
    EXPECT_THAT(x.Read(), ContainerEq(expected)) << "kind " << kind;
  }
}

TEST_F(CudaOpsTest, EmbeddingAndHeadOfEveryType) {
  const bool slow = testing::DeviceUnderTestIsSlow();
  const int64_t rows = slow ? 150 : 5003, cols = slow ? 200 : 2570;
  const std::vector<float> values = RandomFloats(random_, rows * cols, 0.05f);
  const std::vector<uint16_t> bits = testing::ToBf16(values);
  const testing::DenseTiles bf16(bits, rows, cols), int8(values, rows, cols);
  const DenseMatrix kinds[] = {testing::DenseRows(values, rows, cols),
                               testing::DenseRows(bits, rows, cols), bf16.view(), int8.view()};
  for (const DenseMatrix& host : kinds) {
    const PlacedDense placed = PlaceDense(host);
    const std::vector<int32_t> ids = {static_cast<int32_t>(rows - 1), 0, 17, 17};
    OnDevice<int32_t> device_ids(*ops_, ids);
    OnDevice<float> x(*ops_, Noise(4 * cols));
    ops_->EmbedTokens({.token_ids = device_ids.span(), .table = placed.view, .x = x.AsRows(4)});
    std::vector<float> embedded(static_cast<size_t>(4 * cols));
    reference_->EmbedTokens({.token_ids = ids, .table = host, .x = View(embedded, 4)});
    EXPECT_THAT(x.Read(), ContainerEq(embedded)) << DenseTypeName(host.type);

    for (const int64_t tokens : {1, 9, 33}) {
      const std::vector<float> in = RandomFloats(random_, tokens * cols);
      const std::vector<double> exact_in = ToDouble(in);
      std::vector<double> expected(static_cast<size_t>(tokens * rows));
      exact_->DenseLinear(
          {.x = testing::ConstView(exact_in, tokens), .w = host, .y = View(expected, tokens)});
      OnDevice<float> device_in(*ops_, in), y(*ops_, Noise(tokens * rows));
      ops_->DenseLinear(
          {.x = AsConst(device_in.AsRows(tokens)), .w = placed.view, .y = y.AsRows(tokens)});
      const std::vector<float> actual = y.Read();
      std::vector<double> row(static_cast<size_t>(cols));
      for (int64_t n = 0; n < rows; ++n) {
        host.CopyRow(n, row.data());
        for (int64_t t = 0; t < tokens; ++t) {
          double magnitude = 0, largest = 0, weights = 0;
          for (int64_t c = 0; c < cols; ++c) {
            const double value = std::abs(exact_in[static_cast<size_t>(t * cols + c)]);
            const double weight = std::abs(row[static_cast<size_t>(c)]);
            magnitude += value * weight;
            largest = std::max(largest, value);
            weights += weight;
          }
          // Sums in float; int8 rounds activations to 16 bits of the largest as well.
          double error = static_cast<double>(cols + 16) * kEps * magnitude;
          if (host.type == DenseType::kI8) error += 0.51 / 32639 * largest * weights;
          const auto i = static_cast<size_t>(t * rows + n);
          ASSERT_NEAR(actual[i], expected[i], error)
              << DenseTypeName(host.type) << " " << t << "," << n;
        }
      }
    }
  }
}

TEST_F(CudaOpsTest, RotaryTableAndGatherRows) {
  const std::vector<int32_t> positions = {0, 1, 77, 131071};
  std::vector<double> inv_freq;
  for (int i = 0; i < 40; ++i) inv_freq.push_back(std::pow(500000.0, -i / 40.0));
  std::vector<float> cos(160), sin(160);
  reference_->RotaryTable({.positions = positions,
                           .inv_freq = inv_freq,
                           .factor = 1.25,
                           .cos = View(cos, 4),
                           .sin = View(sin, 4)});
  OnDevice<int32_t> device_positions(*ops_, positions);
  OnDevice<double> device_freq(*ops_, inv_freq);
  OnDevice<float> device_cos(*ops_, Noise(160)), device_sin(*ops_, Noise(160));
  ops_->RotaryTable({.positions = device_positions.span(),
                     .inv_freq = device_freq.span(),
                     .factor = 1.25,
                     .cos = device_cos.AsRows(4),
                     .sin = device_sin.AsRows(4)});
  const std::vector<float> actual_cos = device_cos.Read(), actual_sin = device_sin.Read();
  for (size_t i = 0; i < 160; ++i) {
    EXPECT_NEAR(actual_cos[i], cos[i], 1.25 * kEps);
    EXPECT_NEAR(actual_sin[i], sin[i], 1.25 * kEps);
  }

  const std::vector<float> x = RandomFloats(random_, 9 * 37);
  const std::vector<int32_t> rows = {8, 0, 3, 3};
  std::vector<float> expected(4 * 37);
  reference_->GatherRows({.x = testing::ConstView(x, 9), .rows = rows, .y = View(expected, 4)});
  OnDevice<float> device_x(*ops_, x), y(*ops_, Noise(4 * 37));
  OnDevice<int32_t> device_rows(*ops_, rows);
  ops_->GatherRows(
      {.x = AsConst(device_x.AsRows(9)), .rows = device_rows.span(), .y = y.AsRows(4)});
  EXPECT_THAT(y.Read(), ContainerEq(expected));
}

// Parameters of every kind, one row each.
std::vector<SampleParams> SampleKinds(Random& random) {
  std::vector<SampleParams> kinds(12);
  kinds[0].temperature = 0;
  kinds[1].temperature = 0.7f;
  kinds[2].top_k = 5;
  kinds[3].top_p = 0.9f;
  kinds[4].min_p = 0.1f;
  kinds[5] = {.temperature = 1.3f, .top_k = 50, .top_p = 0.8f, .min_p = 0.01f};
  kinds[6].num_logprobs = 0;
  kinds[7] = {.temperature = 0, .num_logprobs = 5};
  kinds[8] = {.top_p = 0.95f, .num_logprobs = 20};
  static const std::vector<std::pair<int32_t, float>> kBias = {{3, 4.0f}, {10, -100.0f}};
  kinds[9].logit_bias = kBias;
  static const std::vector<TokenCount> kCounts = {{1, 2}, {5, 0}, {9, 1}};
  kinds[10] = {.temperature = 0,
               .repetition_penalty = 1.5f,
               .presence_penalty = 0.5f,
               .frequency_penalty = 0.25f,
               .token_counts = kCounts};
  kinds[11] = {.top_k = 1};
  for (SampleParams& params : kinds) {
    params.seed = random();
    params.position = random() % 1000;
  }
  return kinds;
}

TEST_F(CudaOpsTest, SamplesAsTheReferenceDoes) {
  int64_t rows_seen = 0, differ = 0;
  for (const int64_t vocabulary : {40, 1000, testing::DeviceUnderTestIsSlow() ? 3001 : 128256}) {
    const std::vector<SampleParams> params = SampleKinds(random_);
    const auto rows = std::ssize(params);
    const std::vector<float> logits = RandomFloats(random_, rows * vocabulary, 3.0f);
    std::vector<SampleResult> expected(params.size()), actual(params.size());
    reference_->Sample(
        {.logits = testing::ConstView(logits, rows), .params = params, .results = expected});
    OnDevice<float> device_logits(*ops_, logits);
    ops_->Sample(
        {.logits = AsConst(device_logits.AsRows(rows)), .params = params, .results = actual});
    ASSERT_TRUE(ops_->Finish().ok());
    for (size_t r = 0; r < params.size(); ++r) {
      ++rows_seen;
      // A draw may fall between two roundings of one boundary.
      if (actual[r].token != expected[r].token) {
        ++differ;
        EXPECT_GT(params[r].temperature, 0) << "row " << r;
        continue;
      }
      ASSERT_EQ(actual[r].top.size(), expected[r].top.size()) << "row " << r;
      if (params[r].num_logprobs >= 0) {
        EXPECT_NEAR(actual[r].logprob, expected[r].logprob, 1e-5) << "row " << r;
      }
      for (size_t i = 0; i < expected[r].top.size(); ++i) {
        EXPECT_EQ(actual[r].top[i].token, expected[r].top[i].token) << "row " << r;
        EXPECT_NEAR(actual[r].top[i].logprob, expected[r].top[i].logprob, 1e-5) << "row " << r;
      }
    }
  }
  EXPECT_LE(differ, rows_seen / 30);
}

// A step asked for before the one before it is done: results belong to their marks, and what was
// drawn is embedded, and counted, without the host.
TEST_F(CudaOpsTest, AStepAheadTakesWhatWasDrawnFromTheDevice) {
  constexpr int64_t kVocabulary = 300, kCols = 40;
  const std::vector<float> values = RandomFloats(random_, kVocabulary * kCols);
  const DenseMatrix host = testing::DenseRows(values, kVocabulary, kCols);
  const PlacedDense table = PlaceDense(host);
  const std::vector<float> logits = RandomFloats(random_, 3 * kVocabulary, 3.0f);
  OnDevice<int32_t> drawn(*ops_, {0, 0, 0});
  const auto sample = [&](OnDevice<float>& from, std::span<const SampleParams> params,
                          std::vector<SampleResult>& results) {
    results.resize(params.size());
    ops_->Sample({.logits = AsConst(from.AsRows(std::ssize(params))),
                  .params = params,
                  .results = results,
                  .drawn = {drawn.data(), 3}});
    ops_->Mark();
  };
  for (int step = 0; step < 5; ++step) {
    OnDevice<float> first_logits(*ops_, logits), second_logits(*ops_, logits);
    const std::vector<SampleParams> greedy(3, SampleParams{.temperature = 0});
    std::vector<SampleResult> first, second;
    sample(first_logits, greedy, first);
    OnDevice<int32_t> ids(*ops_, {DrawnToken(2), 7, DrawnToken(0)});
    OnDevice<float> x(*ops_, Noise(3 * kCols));
    ops_->EmbedTokens(
        {.token_ids = ids.span(), .drawn = drawn.span(), .table = table.view, .x = x.AsRows(3)});
    // So large a penalty that the second time another token is the largest.
    const std::vector<TokenCount> counts = {{9, 1}, {DrawnToken(1), 1}};
    std::vector<SampleParams> penalised = greedy;
    penalised[1].frequency_penalty = 1000;
    penalised[1].token_counts = counts;
    sample(second_logits, penalised, second);

    ASSERT_TRUE(ops_->Wait().ok());
    EXPECT_GE(first[0].token, 0);
    ASSERT_TRUE(ops_->Wait().ok());
    EXPECT_EQ(first[0].token, second[0].token);
    EXPECT_NE(first[1].token, second[1].token);
    EXPECT_EQ(first[2].token, second[2].token);
    std::vector<float> expected(3 * kCols);
    const std::vector<int32_t> known = {first[2].token, 7, first[0].token};
    reference_->EmbedTokens({.token_ids = known, .table = host, .x = View(expected, 3)});
    EXPECT_THAT(x.Read(), ContainerEq(expected));
    EXPECT_THAT(drawn.Read(),
                ::testing::ElementsAre(second[0].token, second[1].token, second[2].token));
  }
}

TEST_F(CudaOpsTest, MemoryThatIsNotThereIsRefusedWithNumbers) {
  const StatusOr<DeviceMemory> memory = ops_->Allocate(int64_t{1} << 50);
  ASSERT_TRUE(absl::IsResourceExhausted(memory.status())) << memory.status();
  EXPECT_THAT(memory.status().message(), ::testing::HasSubstr("1073741824 MiB"));
  EXPECT_TRUE(ops_->Finish().ok());  // and the device goes on
}

}  // namespace
}  // namespace sterna
