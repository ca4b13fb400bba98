// The CUDA backend's ternary products on emulated threads (tests/testing/cuda_emulation.h).
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/fragment_format.h"
#include "kernels/cuda/ternary_linear.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using ::testing::ContainerEq;
using testing::Quantized;
using testing::Random;

AlignedBuffer<uint8_t> Packed(const TernaryMatrix& w) {
  AlignedBuffer<uint8_t> packed(static_cast<size_t>(cuda::FragmentPackedBytes(w.rows(), w.cols())));
  cuda::PackFragments(w, 0, w.row_blocks(), packed.data());
  return packed;
}

TEST(CudaFragmentFormat, EveryCodeIsWhereTheFormatSays) {
  Random random(1);
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {16, 128}, {17, 129}, {50, 320}}) {
    const TernaryMatrix w = testing::RandomTernary(random, rows, cols);
    const AlignedBuffer<uint8_t> packed = Packed(w);
    std::vector<int> seen(packed.size() * 4);
    for (int64_t r = 0; r < RoundUp(rows, 16); ++r) {
      for (int64_t c = 0; c < RoundUp(cols, 128); ++c) {
        const TernaryCodePosition p = cuda::LocateFragmentCode(r, c, cols);
        ++seen[static_cast<size_t>(p.byte * 4 + p.shift / 2)];
        const int expected = r < rows && c < cols ? w.At(r, c) : 0;
        ASSERT_EQ((packed[static_cast<size_t>(p.byte)] >> p.shift & 3) - 1, expected)
            << r << ", " << c << " of " << rows << "x" << cols;
      }
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), std::ssize(seen));
  }
}

// One product through the kernels.
class Problem {
 public:
  Problem(Random& random, TernaryMatrix w, int64_t tokens)
      : w_(std::move(w)), packed_(Packed(w_)), q_(tokens, w_.cols(), w_.group_size()) {
    testing::FillRandom(random, q_);
    bias_ = testing::RandomFloats(random, w_.rows());
    before_ = testing::RandomFloats(random, tokens * w_.rows());
  }

  cuda::TernaryLinearArgs Args(std::vector<float>& y, cuda::Epilogue epilogue) const {
    const QuantizedMat<float>& q = q_.mat;
    return {.q = q.q,
            .s = q.scale,
            .sum = q.sum,
            .q_stride = static_cast<int32_t>(q.stride),
            .tokens = static_cast<int32_t>(q.rows),
            .cols = static_cast<int32_t>(q.cols),
            .num_groups = static_cast<int32_t>(q.num_groups()),
            .group_cols = static_cast<int32_t>(q.group_size),
            .outputs = {Output(y)},
            .num_outputs = 1,
            .gated = false,
            .epilogue = epilogue};
  }
  cuda::TernaryOutput Output(std::vector<float>& y) const {
    return {.w = {.packed = reinterpret_cast<const uint4*>(packed_.data()),
                  .scales =
                      w_.granularity() == ScaleGranularity::kTensor ? nullptr : w_.scales().data(),
                  .scale = static_cast<float>(w_.tensor_scale()),
                  .bias = bias_.data(),
                  .rows = static_cast<int32_t>(w_.rows())},
            .y = y.data()};
  }
  std::vector<float> Reference(bool accumulate) const {
    std::vector<float> y = before_;
    CreateReferenceOps<float>()->TernaryLinear({.q = q_.mat,
                                                .w = &w_,
                                                .bias = bias_,
                                                .accumulate = accumulate,
                                                .y = testing::View(y, q_.mat.rows)});
    return y;
  }
  const std::vector<float>& before() const { return before_; }
  const TernaryMatrix& w() const { return w_; }

 private:
  TernaryMatrix w_;
  AlignedBuffer<uint8_t> packed_;
  Quantized<float> q_;
  std::vector<float> bias_;
  std::vector<float> before_;
};

TEST(CudaTernaryLinear, EqualsTheReferenceBitForBit) {
  Random random(2);
  uint64_t order = 0;
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {40, 200}, {97, 320}, {130, 2500}}) {
    for (const int64_t tokens : {1, 3, 8, 9, 16, 31, 33, 70}) {
      std::vector<TernaryMatrix> kinds;
      for (int i = 0; i < 4; ++i) kinds.push_back(testing::RandomTernary(random, rows, cols));
      kinds[0].SetTensorScale(0.731);
      kinds[1].SetRowScales(testing::RandomScales(random, rows));
      for (int i = 2; i < 4; ++i) {
        const int64_t group = 64 * (i - 1);
        kinds[i].SetGroupScales(testing::RandomScales(random, rows * CeilDiv(cols, group)), group);
      }
      for (TernaryMatrix& w : kinds) {
        testing::SetCudaThreadOrder(order++);
        const Problem problem(random, std::move(w), tokens);
        for (const bool accumulate : {false, true}) {
          std::vector<float> y = problem.before();
          ASSERT_EQ(
              cuda::LaunchTernaryLinear(problem.Args(y, accumulate ? cuda::Epilogue::kAccumulate
                                                                   : cuda::Epilogue::kStore),
                                        nullptr),
              cudaSuccess);
          ASSERT_THAT(y, ContainerEq(problem.Reference(accumulate)))
              << tokens << "x" << rows << "x" << cols << " accumulate " << accumulate << " order "
              << order - 1;
        }
      }
    }
  }
}

}  // namespace
}  // namespace sterna
