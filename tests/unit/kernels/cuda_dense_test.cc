// Dense weights on CUDA devices: their layout, embeddings and the output head, on emulated threads
// (tests/testing/cuda_emulation.h).
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/dense_fragment_format.h"
#include "kernels/cuda/dense_linear.h"
#include "kernels/cuda/embed.h"
#include "kernels/cuda/fragment_format.h"
#include "tests/testing/drawn_tokens.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using testing::ConstView;
using ::testing::ContainerEq;
using testing::DenseTiles;
using testing::Random;
using testing::RandomFloats;
using testing::View;

constexpr double kEps = std::numeric_limits<float>::epsilon();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// A matrix as the device has it; `m` is to live as long.
class OnDevice {
 public:
  explicit OnDevice(const DenseMatrix& m)
      : m_(m), packed_(static_cast<size_t>(cuda::DensePackedBytes(m.type, m.rows, m.cols))) {
    cuda::PackDenseFragments(m, 0, m.row_blocks(), packed_.data());
  }
  cuda::DenseWeights view() const {
    return {.type = m_.type,
            .data = packed_.data(),
            .scales = m_.scales,
            .rows = static_cast<int32_t>(m_.rows),
            .cols = static_cast<int32_t>(m_.cols)};
  }
  const AlignedBuffer<uint8_t>& packed() const { return packed_; }
  const DenseMatrix& host() const { return m_; }

 private:
  DenseMatrix m_;
  AlignedBuffer<uint8_t> packed_;
};

// As `x . W^T` on the device. Outputs, and what is behind them, are noise before.
std::vector<float> Multiply(const std::vector<float>& x, const OnDevice& w) {
  const int64_t tokens = static_cast<int64_t>(x.size()) / w.host().cols;
  // Noise, as a workspace has what other steps left.
  AlignedBuffer<uint8_t> workspace(static_cast<size_t>(
      std::max<int64_t>(16, cuda::DenseWorkspaceBytes(w.host().type, tokens, w.host().cols))));
  std::fill_n(workspace.data(), workspace.size(), uint8_t{0x7b});
  std::vector<float> y(static_cast<size_t>(tokens * w.host().rows + 16), -12345.0f);
  const cuda::DenseLinearArgs args = {.x = x.data(),
                                      .tokens = static_cast<int32_t>(tokens),
                                      .w = w.view(),
                                      .workspace = workspace.data(),
                                      .y = y.data()};
  EXPECT_EQ(cuda::LaunchDenseLinear(args, nullptr), cudaSuccess);
  EXPECT_EQ(std::count(y.end() - 16, y.end(), -12345.0f), 16);
  y.resize(y.size() - 16);
  return y;
}

// The element at `at` of a packed matrix, as a number, without its scale.
double ElementAt(const OnDevice& m, int64_t at) {
  const uint8_t* p = m.packed().data() + at;
  if (m.host().type == DenseType::kI8) return static_cast<int8_t>(*p);
  return std::bit_cast<float>(uint32_t{p[0]} << 16 | uint32_t{p[1]} << 24);
}

TEST(CudaDenseFormat, EveryElementIsWhereTheFormatSays) {
  Random random(1);
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {16, 32}, {17, 33}, {50, 321}}) {
    const std::vector<float> values = RandomFloats(random, rows * cols);
    const std::vector<uint16_t> bf16 = testing::ToBf16(values);
    const DenseTiles bf16_tiles(bf16, rows, cols), int8_tiles(values, rows, cols);
    for (const DenseMatrix& host :
         {bf16_tiles.view(), testing::DenseRows(bf16, rows, cols), int8_tiles.view()}) {
      const OnDevice m(host);
      const int64_t bytes = host.type == DenseType::kBf16 ? 2 : 1;
      std::vector<int> seen(m.packed().size());
      std::vector<float> row(static_cast<size_t>(cols));
      for (int64_t r = 0; r < RoundUp(rows, 16); ++r) {
        if (r < rows) host.CopyRow(r, row.data());
        for (int64_t c = 0; c < RoundUp(cols, 32 / bytes); ++c) {
          const int64_t at = cuda::LocateDenseFragment(host.type, r, c, cols);
          for (int64_t i = 0; i < bytes; ++i) ++seen[static_cast<size_t>(at + i)];
          const bool there = r < rows && c < cols;
          const double scale = there && host.scales != nullptr ? host.scales[r] : 1.0;
          ASSERT_EQ(static_cast<float>(ElementAt(m, at) * scale), there ? row[c] : 0.0f)
              << r << ", " << c << " of " << rows << "x" << cols;
        }
      }
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), std::ssize(seen));
    }
  }
}

// The A operand's registers are a lane's words as they lie.
TEST(CudaDenseFormat, LiesAsDrawn) {
  constexpr auto kBf16 = DenseType::kBf16, kI8 = DenseType::kI8;
  EXPECT_EQ(cuda::LocateDenseFragment(kBf16, 3, 5, 16), (3 * 4 + 2) * 16 + 0 * 4 + 2);
  EXPECT_EQ(cuda::LocateDenseFragment(kBf16, 11, 14, 16), (3 * 4 + 3) * 16 + 3 * 4);
  EXPECT_EQ(cuda::LocateDenseFragment(kBf16, 16, 17, 40), 4 * 512 + 2);
  EXPECT_EQ(cuda::LocateDenseFragment(kI8, 3, 5, 32), (3 * 4 + 1) * 16 + 0 * 4 + 1);
  EXPECT_EQ(cuda::LocateDenseFragment(kI8, 11, 30, 32), (3 * 4 + 3) * 16 + 3 * 4 + 2);
  EXPECT_EQ(cuda::LocateDenseFragment(kI8, 16, 33, 40), 3 * 512 + 1);
}

TEST(CudaDenseFormat, PacksInParts) {
  constexpr int64_t kRows = 100, kCols = 70;
  Random random(2);
  const std::vector<float> values = RandomFloats(random, kRows * kCols);
  const std::vector<uint16_t> bf16 = testing::ToBf16(values);
  const DenseTiles bf16_tiles(bf16, kRows, kCols), int8_tiles(values, kRows, kCols);
  for (const DenseMatrix& host :
       {bf16_tiles.view(), int8_tiles.view(), testing::DenseRows(values, kRows, kCols)}) {
    const OnDevice m(host);
    for (const int64_t part : {1, 3, 7}) {
      AlignedBuffer<uint8_t> packed(m.packed().size());
      std::fill_n(packed.data(), packed.size(), uint8_t{0x7b});
      int64_t end = 0;
      for (int64_t first = 0; first < host.row_blocks(); first += part) {
        const int64_t count = std::min(part, host.row_blocks() - first);
        ASSERT_EQ(cuda::DensePackedBytes(host.type, first * 16, kCols), end);
        cuda::PackDenseFragments(host, first, count, packed.data() + end);
        end += cuda::DensePackedBytes(host, first, count);
      }
      ASSERT_EQ(end, std::ssize(std::span(packed.data(), packed.size())));
      EXPECT_TRUE(std::equal(packed.data(), packed.data() + end, m.packed().data()));
    }
  }
}

TEST(CudaEmbedTokens, EqualsTheReference) {
  Random random(3);
  for (const int64_t cols : {1, 7, 64, 83, 2560}) {
    constexpr int64_t kRows = 37;
    const std::vector<float> values = RandomFloats(random, kRows * cols);
    const std::vector<uint16_t> bf16 = testing::ToBf16(values);
    const DenseTiles bf16_tiles(bf16, kRows, cols), int8_tiles(values, kRows, cols);
    for (const DenseMatrix& host :
         {testing::DenseRows(values, kRows, cols), bf16_tiles.view(), int8_tiles.view()}) {
      const OnDevice table(host);
      const std::vector<int32_t> drawn = {5, 36, 0};
      std::vector<int32_t> ids = {36, 0, -1, 15, 16, 16, 31, 8, DrawnToken(2), 7, DrawnToken(0)};
      for (int32_t id = 0; id < kRows; ++id) ids.push_back(id);
      const int64_t tokens = std::ssize(ids);
      std::vector<float> x(static_cast<size_t>(tokens * cols), kNan), expected(x.size());
      ASSERT_EQ(cuda::LaunchEmbedTokens({.token_ids = ids.data(),
                                         .drawn = drawn.data(),
                                         .tokens = static_cast<int32_t>(tokens),
                                         .table = table.view(),
                                         .ternary_table = {},
                                         .x = x.data()},
                                        nullptr),
                cudaSuccess);
      for (int64_t t = 0; t < tokens; ++t) {
        const int32_t id = testing::KnownToken(ids[t], drawn);
        if (id >= 0) host.CopyRow(id, &expected[t * cols]);
      }
      ASSERT_THAT(x, ContainerEq(expected)) << DenseTypeName(host.type) << " " << cols;
    }
  }
}

TEST(CudaEmbedTokens, OfATernaryTableEqualsItsRows) {
  Random random(13);
  for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
    for (const int64_t cols : {1, 7, 64, 83, 200, 2560}) {
      constexpr int64_t kRows = 37;
      const TernaryMatrix host = testing::RandomTernaryOfKind(random, kind, kRows, cols);
      AlignedBuffer<uint8_t> packed(static_cast<size_t>(cuda::FragmentPackedBytes(kRows, cols)));
      cuda::PackFragments(host, 0, host.row_blocks(), packed.data());
      const std::vector<int32_t> drawn = {5, 36, 0};
      std::vector<int32_t> ids = {36, 0, -1, 15, 16, 16, 31, 8, DrawnToken(2), 7, DrawnToken(0)};
      for (int32_t id = 0; id < kRows; ++id) ids.push_back(id);
      const int64_t tokens = std::ssize(ids);
      std::vector<float> x(static_cast<size_t>(tokens * cols), kNan), expected(x.size());
      const cuda::TernaryTable table = {.packed = packed.data(),
                                        .scales = kind == 0 ? nullptr : host.scales().data(),
                                        .scale = static_cast<float>(host.tensor_scale()),
                                        .rows = kRows,
                                        .cols = static_cast<int32_t>(cols),
                                        .group_cols = static_cast<int32_t>(host.group_size())};
      ASSERT_EQ(cuda::LaunchEmbedTokens({.token_ids = ids.data(),
                                         .drawn = drawn.data(),
                                         .tokens = static_cast<int32_t>(tokens),
                                         .table = {},
                                         .ternary_table = table,
                                         .x = x.data()},
                                        nullptr),
                cudaSuccess);
      for (int64_t t = 0; t < tokens; ++t) {
        const int32_t id = testing::KnownToken(ids[t], drawn);
        if (id >= 0) host.CopyRow(id, &expected[t * cols]);
      }
      ASSERT_THAT(x, ContainerEq(expected)) << "kind " << kind << ", " << cols << " columns";
    }
  }
}

// What an output of `w` may be off by, of the sum of the magnitudes of its products: what the parts
// leave out, and as many roundings of sums as there are products.
double OutputError(DenseType type, int64_t cols) {
  if (type == DenseType::kF32) return (static_cast<double>(cols) / 32 + 8) * kEps;
  return 1.01 * 0x1p-17 + (static_cast<double>(cols) + 16) * kEps;
}

TEST(CudaDenseLinear, IsCloseToTheReference) {
  Random random(4);
  uint64_t order = 0;
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {40, 7}, {130, 64}, {301, 100}, {70, 2500}}) {
    for (const int64_t tokens : {1, 3, 8, 9, 31, 70}) {
      const std::vector<float> values = RandomFloats(random, rows * cols);
      const std::vector<uint16_t> bf16 = testing::ToBf16(values);
      const DenseTiles tiles(bf16, rows, cols);
      const std::vector<float> x = RandomFloats(random, tokens * cols);
      const std::vector<double> x64 = testing::ToDouble(x);
      for (const DenseMatrix& host : {testing::DenseRows(values, rows, cols), tiles.view()}) {
        testing::SetCudaThreadOrder(order++);
        const std::vector<float> y = Multiply(x, OnDevice(host));
        std::vector<double> expected(y.size());
        CreateReferenceOps<double>()->DenseLinear(
            {.x = ConstView(x64, tokens), .w = host, .y = View(expected, tokens)});
        std::vector<double> row(static_cast<size_t>(cols));
        for (int64_t r = 0; r < rows; ++r) {
          host.CopyRow(r, row.data());
          for (int64_t t = 0; t < tokens; ++t) {
            double magnitude = 0;
            for (int64_t k = 0; k < cols; ++k) magnitude += std::abs(x64[t * cols + k] * row[k]);
            ASSERT_NEAR(y[t * rows + r], expected[t * rows + r],
                        OutputError(host.type, cols) * magnitude)
                << DenseTypeName(host.type) << " " << rows << "x" << cols << " row " << r
                << ", token " << t << " of " << tokens << " order " << order - 1;
          }
        }
      }
    }
  }
}

// Activations of 16 bits, which two parts hold, and sums that f32 holds: nothing is rounded.
TEST(CudaDenseLinear, Bf16IsExactOnIntegers) {
  Random random(5);
  std::uniform_int_distribution<int> weight(-7, 7), activation(-32767, 32767);
  for (const int64_t tokens : {1, 12, 20, 65}) {
    constexpr int64_t kRows = 33, kCols = 70;
    std::vector<float> w(kRows * kCols), x(static_cast<size_t>(tokens * kCols));
    for (float& value : w) value = static_cast<float>(weight(random));
    for (float& value : x) value = static_cast<float>(activation(random));
    const std::vector<uint16_t> bf16 = testing::ToBf16(w);
    const DenseMatrix host = testing::DenseRows(bf16, kRows, kCols);
    std::vector<float> expected(static_cast<size_t>(tokens * kRows));
    CreateReferenceOps<float>()->DenseLinear(
        {.x = ConstView(x, tokens), .w = host, .y = View(expected, tokens)});
    testing::SetCudaThreadOrder(static_cast<uint64_t>(tokens));
    EXPECT_THAT(Multiply(x, OnDevice(host)), ContainerEq(expected));
  }
}

TEST(CudaDenseLinear, Int8EqualsTheCpuBitForBit) {
  Random random(6);
  const auto cpu = testing::CpuOps(CpuIsaLevels().front());
  uint64_t order = 0;
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {40, 7}, {130, 64}, {301, 100}, {70, 2501}}) {
    for (const int64_t tokens : {1, 3, 8, 9, 31, 70}) {
      const DenseTiles tiles(RandomFloats(random, rows * cols), rows, cols);
      const std::vector<float> x = RandomFloats(random, tokens * cols);
      std::vector<float> expected(static_cast<size_t>(tokens * rows));
      cpu->DenseLinear({.x = ConstView(x, tokens), .w = tiles.view(), .y = View(expected, tokens)});
      testing::SetCudaThreadOrder(order++);
      ASSERT_THAT(Multiply(x, OnDevice(tiles.view())), ContainerEq(expected))
          << rows << "x" << cols << ", " << tokens << " tokens, order " << order - 1;
    }
  }
}

// The most columns there may be, and in every one the largest products that the parts can have.
TEST(CudaDenseLinear, Int8DoesNotOverflow) {
  constexpr int64_t kCols = kMaxDenseInt8Cols, kTokens = 2, kRows = 2;
  std::vector<float> w(kRows * kCols), x(kTokens * kCols);
  for (int64_t i = 0; i < kRows * kCols; ++i) w[i] = i / kCols % 2 == 0 ? 127.0f : -127.0f;
  // 32384 is 127 * 256 - 128: both parts are at their ends. The first column gives the scale.
  for (int64_t i = 0; i < kTokens * kCols; ++i) {
    x[i] = (i % kCols == 0 ? 32639.0f : 32384.0f) * (i / kCols % 2 == 0 ? 1.0f : -1.0f);
  }
  const DenseTiles tiles(w, kRows, kCols);
  const std::vector<float> y = Multiply(x, OnDevice(tiles.view()));
  const double magnitude = 127.0 * (32639.0 + (kCols - 1) * 32384.0);
  for (int64_t i = 0; i < kTokens * kRows; ++i) {
    const double expected = (i / kRows + i % kRows) % 2 == 0 ? magnitude : -magnitude;
    ASSERT_NEAR(y[i], expected, 1e-6 * magnitude) << i;
  }
}

// Rows of no numbers stay alone with that, and what is too small for int8's scale is zero.
TEST(CudaDenseLinear, OddRows) {
  constexpr int64_t kCols = 70, kRows = 20, kTokens = 6;
  Random random(7);
  const std::vector<float> w = RandomFloats(random, kRows * kCols);
  const std::vector<uint16_t> bf16 = testing::ToBf16(w);
  const DenseTiles bf16_tiles(bf16, kRows, kCols), int8_tiles(w, kRows, kCols);
  std::vector<float> x = RandomFloats(random, kTokens * kCols);
  x[0] = kNan;
  x[kCols + 69] = -kInf;
  std::fill_n(x.begin() + 2 * kCols, kCols, 0.0f);
  std::fill_n(x.begin() + 3 * kCols, kCols, 1e-40f);
  x[4 * kCols + 1] = 1e30f;
  for (const DenseMatrix& host :
       {testing::DenseRows(w, kRows, kCols), bf16_tiles.view(), int8_tiles.view()}) {
    const bool int8 = host.type == DenseType::kI8;
    const OnDevice device(host);
    const std::vector<float> y = Multiply(x, device);
    const std::vector<float> last(x.begin() + 4 * kCols, x.end());
    const std::vector<float> alone = Multiply(last, device);
    std::vector<float> row(kCols);
    for (int64_t r = 0; r < kRows; ++r) {
      host.CopyRow(r, row.data());
      EXPECT_TRUE(std::isnan(y[r]));
      if (int8) {
        EXPECT_TRUE(std::isnan(y[kRows + r]));
      } else {
        EXPECT_EQ(y[kRows + r], row[69] > 0 ? -kInf : kInf);
      }
      EXPECT_EQ(y[2 * kRows + r], 0.0f);
      EXPECT_LE(std::abs(y[3 * kRows + r]), int8 ? 0.0f : 1e-36f);
      EXPECT_EQ(y[4 * kRows + r], alone[r]);
      EXPECT_NEAR(y[4 * kRows + r] / (1e30 * row[1]), 1.0, 1e-4);
      EXPECT_EQ(y[5 * kRows + r], alone[kRows + r]);
    }
  }
}

TEST(CudaDenseLinear, RowsDoNotDependOnOthers) {
  constexpr int64_t kTokens = 40, kRows = 50, kCols = 1300;
  Random random(8);
  const std::vector<float> w = RandomFloats(random, kRows * kCols);
  const std::vector<uint16_t> bf16 = testing::ToBf16(w);
  const DenseTiles bf16_tiles(bf16, kRows, kCols), int8_tiles(w, kRows, kCols);
  const std::vector<float> x = RandomFloats(random, kTokens * kCols);
  uint64_t order = 0;
  for (const DenseMatrix& host :
       {testing::DenseRows(w, kRows, kCols), bf16_tiles.view(), int8_tiles.view()}) {
    const OnDevice device(host);
    const std::vector<float> all = Multiply(x, device);
    for (const int64_t batch : {1, 3, 8, 9, 25}) {
      std::vector<float> y;
      for (int64_t t = 0; t < kTokens; t += batch) {
        const int64_t end = std::min(t + batch, kTokens);
        testing::SetCudaThreadOrder(order++);
        const std::vector<float> part =
            Multiply({x.begin() + t * kCols, x.begin() + end * kCols}, device);
        y.insert(y.end(), part.begin(), part.end());
      }
      ASSERT_THAT(y, ContainerEq(all)) << DenseTypeName(host.type) << " by " << batch;
    }
    // 70 take the widest tile.
    std::vector<float> twice = x;
    twice.insert(twice.end(), x.begin(), x.begin() + 30 * kCols);
    const std::vector<float> y = Multiply(twice, device);
    ASSERT_TRUE(std::equal(all.begin(), all.end(), y.begin())) << DenseTypeName(host.type);
    ASSERT_TRUE(std::equal(y.begin() + kTokens * kRows, y.end(), all.begin()));
  }
}

TEST(CudaDenseLinear, RefusesWhatItCannotDo) {
  const std::vector<float> w(16 * 32, 1.0f);
  const DenseTiles tiles(w, 16, 32);
  const OnDevice device(tiles.view());
  AlignedBuffer<uint8_t> workspace(4096);
  std::vector<float> y(16);
  const auto refuses = [&](auto&& change) {
    cuda::DenseLinearArgs args = {.x = w.data(),
                                  .tokens = 1,
                                  .w = device.view(),
                                  .workspace = workspace.data(),
                                  .y = y.data()};
    change(args);
    return cuda::LaunchDenseLinear(args, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_FALSE(refuses([](auto&) {}));
  EXPECT_TRUE(refuses([](auto& args) { args.tokens = 0; }));
  EXPECT_TRUE(refuses([](auto& args) { args.w.scales = nullptr; }));
  EXPECT_TRUE(refuses([](auto& args) { args.w.cols = kMaxDenseInt8Cols + 1; }));
  EXPECT_TRUE(refuses([](auto& args) { args.w.type = DenseType::kI6; }));
  EXPECT_TRUE(refuses([](auto& args) { args.workspace = nullptr; }));
  EXPECT_TRUE(
      refuses([](auto& args) { args.w.data = static_cast<const uint8_t*>(args.w.data) + 4; }));
  const int32_t id = 0;
  cuda::EmbedTokensArgs embed = {
      .token_ids = &id, .tokens = 0, .table = device.view(), .ternary_table = {}, .x = y.data()};
  EXPECT_EQ(cuda::LaunchEmbedTokens(embed, nullptr), cudaErrorInvalidValue);
  embed.tokens = 1;
  embed.table.type = DenseType::kI6;
  EXPECT_EQ(cuda::LaunchEmbedTokens(embed, nullptr), cudaErrorInvalidValue);
  alignas(16) uint8_t packed[cuda::kFragmentBytes + 4] = {};
  const std::vector<float> scales(16 * 2, 1.0f);
  const cuda::TernaryTable valid = {.packed = packed,
                                    .scales = scales.data(),
                                    .scale = 1,
                                    .rows = 1,
                                    .cols = 80,
                                    .group_cols = 64};
  std::vector<float> x(80);
  const auto refuses_table = [&](const auto& change) {
    embed.tokens = 1;
    embed.x = x.data();
    embed.ternary_table = valid;
    change(embed);
    return cuda::LaunchEmbedTokens(embed, nullptr) == cudaErrorInvalidValue;
  };
  EXPECT_FALSE(refuses_table([](auto&) {}));
  EXPECT_TRUE(refuses_table([](auto& args) { args.tokens = 0; }));
  EXPECT_TRUE(refuses_table([](auto& args) { args.ternary_table.group_cols = 32; }));
  EXPECT_TRUE(refuses_table([](auto& args) { args.ternary_table.group_cols = 0; }));
  EXPECT_TRUE(refuses_table([&](auto& args) { args.ternary_table.packed = packed + 4; }));
}

}  // namespace
}  // namespace sterna
