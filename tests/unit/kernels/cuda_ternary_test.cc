// The CUDA backend's ternary products on emulated threads (tests/testing/cuda_emulation.h).
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <cstdint>
#include <memory>
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

// Products of the same activations through the kernels and through the reference.
class Problem {
 public:
  // Matrices of as many columns and groups.
  Problem(Random& random, std::vector<TernaryMatrix> matrices, int64_t tokens)
      : matrices_(std::move(matrices)), q_(tokens, matrices_[0].cols(), matrices_[0].group_size()) {
    testing::FillRandom(random, q_);
    for (const TernaryMatrix& w : matrices_) {
      packed_.push_back(Packed(w));
      bias_.push_back(testing::RandomFloats(random, w.rows()));
      before_.push_back(testing::RandomFloats(random, tokens * w.rows()));
    }
  }

  using Outputs = std::vector<std::vector<float>>;
  // What the kernels may expect of the device.
  void set_multiprocessors(int32_t count) { device_.multiprocessors = count; }
  // With an activation, that of matrices[0] is the gate of matrices[1], and only outputs[0] is
  // written.
  Outputs Run(cuda::TernaryPath path, cuda::Epilogue epilogue, bool gated = false) const {
    Outputs y = before_;
    const QuantizedMat<float>& q = q_.mat;
    cuda::TernaryLinearArgs args = {.q = q.q,
                                    .s = q.scale,
                                    .sum = q.sum,
                                    .q_stride = static_cast<int32_t>(q.stride),
                                    .tokens = static_cast<int32_t>(q.rows),
                                    .cols = static_cast<int32_t>(q.cols),
                                    .num_groups = static_cast<int32_t>(q.num_groups()),
                                    .group_cols = static_cast<int32_t>(q.group_size),
                                    .outputs = {},
                                    .num_outputs = static_cast<int32_t>(matrices_.size()),
                                    .gated = gated,
                                    .epilogue = epilogue};
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const TernaryMatrix& w = matrices_[i];
      args.outputs[i] = {
          .w = {.packed = reinterpret_cast<const uint4*>(packed_[i].data()),
                .scales =
                    w.granularity() == ScaleGranularity::kTensor ? nullptr : w.scales().data(),
                .scale = static_cast<float>(w.tensor_scale()),
                .bias = bias_[i].data(),
                .rows = static_cast<int32_t>(w.rows())},
          .y = y[i].data()};
    }
    EXPECT_EQ(cuda::LaunchTernaryLinear(args, path, device_, nullptr), cudaSuccess);
    return y;
  }
  Outputs Reference(bool accumulate) const {
    Outputs y = before_;
    for (size_t i = 0; i < matrices_.size(); ++i) {
      reference_->TernaryLinear({.q = q_.mat,
                                 .w = &matrices_[i],
                                 .bias = bias_[i],
                                 .accumulate = accumulate,
                                 .y = testing::View(y[i], q_.mat.rows)});
    }
    return y;
  }
  Outputs GatedReference(Activation activation) const {
    Outputs y = before_;
    reference_->GatedLinear({.gate = {.q = q_.mat, .w = &matrices_[0], .bias = bias_[0]},
                             .up = {.q = q_.mat, .w = &matrices_[1], .bias = bias_[1]},
                             .activation = activation,
                             .h = testing::View(y[0], q_.mat.rows)});
    return y;
  }
  std::string Name(cuda::TernaryPath path) const {
    const TernaryMatrix& w = matrices_[0];
    return std::string(path == cuda::TernaryPath::kWgmma ? "wgmma " : "mma ") +
           std::to_string(q_.mat.rows) + "x" + std::to_string(w.rows()) + "x" +
           std::to_string(w.cols()) + " groups " + std::to_string(w.num_groups());
  }

 private:
  std::vector<TernaryMatrix> matrices_;
  std::vector<AlignedBuffer<uint8_t>> packed_;
  std::vector<std::vector<float>> bias_;
  Outputs before_;
  Quantized<float> q_;
  cuda::DeviceTraits device_ = {.wgmma = true, .multiprocessors = 1};
  std::unique_ptr<Ops<float>> reference_ = CreateReferenceOps<float>();
};

Problem MakeProblem(Random& random, int kind, const std::vector<int64_t>& rows, int64_t cols,
                    int64_t tokens) {
  std::vector<TernaryMatrix> matrices;
  for (const int64_t r : rows)
    matrices.push_back(testing::RandomTernaryOfKind(random, kind, r, cols));
  return Problem(random, std::move(matrices), tokens);
}

void ExpectEqualsReference(cuda::TernaryPath path, const Problem& problem) {
  ASSERT_THAT(problem.Run(path, cuda::Epilogue::kStore), ContainerEq(problem.Reference(false)))
      << problem.Name(path);
  ASSERT_THAT(problem.Run(path, cuda::Epilogue::kAccumulate), ContainerEq(problem.Reference(true)))
      << problem.Name(path);
}

TEST(CudaTernaryLinear, MmaEqualsTheReferenceBitForBit) {
  Random random(2);
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {40, 200}, {97, 320}, {130, 2500}}) {
    for (const int64_t tokens : {1, 3, 8, 9, 16, 31, 33, 70}) {
      for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
        testing::SetCudaThreadOrder(random());
        ExpectEqualsReference(cuda::TernaryPath::kMma,
                              MakeProblem(random, kind, {rows}, cols, tokens));
      }
    }
  }
}

TEST(CudaTernaryLinear, WgmmaEqualsTheReferenceBitForBit) {
  Random random(3);
  for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {97, 320}, {300, 1500}}) {
    for (const int64_t tokens : {1, 70, 130}) {
      for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
        testing::SetCudaThreadOrder(random());
        Problem problem = MakeProblem(random, kind, {rows}, cols, tokens);
        // Blocks of all rows that there are, and of half as many.
        problem.set_multiprocessors(kind < 2 && tokens == 70 ? 100 : 1);
        ExpectEqualsReference(cuda::TernaryPath::kWgmma, problem);
      }
    }
  }
}

TEST(CudaTernaryLinear, WgmmaIsForPromptsThatKeepTheDeviceBusy) {
  const cuda::DeviceTraits hopper = {.wgmma = true, .multiprocessors = 132};
  cuda::TernaryLinearArgs args = {};
  args.num_outputs = 1;
  args.outputs[0].w.rows = 2560;  // ten blocks of rows
  const auto path = [&](int32_t tokens) {
    args.tokens = tokens;
    return cuda::ChooseTernaryPath(hopper, args);
  };
  EXPECT_EQ(path(64), cuda::TernaryPath::kMma);
  EXPECT_EQ(path(768), cuda::TernaryPath::kMma);  // 60 blocks
  EXPECT_EQ(path(769), cuda::TernaryPath::kWgmma);
  args.outputs[0].w.rows = 13824;
  EXPECT_EQ(path(64), cuda::TernaryPath::kMma);
  EXPECT_EQ(path(256), cuda::TernaryPath::kWgmma);
  EXPECT_EQ(cuda::ChooseTernaryPath({.wgmma = false, .multiprocessors = 132}, args),
            cuda::TernaryPath::kMma);
}

TEST(CudaTernaryLinear, SeveralMatricesAtOnceEqualTheReference) {
  Random random(4);
  for (const int64_t tokens : {2, 20, 65}) {
    for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
      testing::SetCudaThreadOrder(random());
      const Problem problem = MakeProblem(random, kind, {200, 33, 50, 1}, 320, tokens);
      ExpectEqualsReference(cuda::TernaryPath::kMma, problem);
      ExpectEqualsReference(cuda::TernaryPath::kWgmma, problem);
    }
  }
}

TEST(CudaTernaryLinear, GatedEqualsTheReference) {
  Random random(5);
  for (const int64_t tokens : {1, 12, 70}) {
    for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
      testing::SetCudaThreadOrder(random());
      const Problem problem = MakeProblem(random, kind, {150, 150}, 320, tokens);
      for (const auto path : {cuda::TernaryPath::kMma, cuda::TernaryPath::kWgmma}) {
        EXPECT_THAT(problem.Run(path, cuda::Epilogue::kReluSquared, true),
                    ContainerEq(problem.GatedReference(Activation::kReluSquared)))
            << problem.Name(path);
        // The emulated expf is the host's.
        EXPECT_THAT(problem.Run(path, cuda::Epilogue::kSilu, true),
                    ContainerEq(problem.GatedReference(Activation::kSilu)))
            << problem.Name(path);
      }
    }
  }
}

}  // namespace
}  // namespace sterna
