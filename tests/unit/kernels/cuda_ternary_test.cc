// The CUDA backend's ternary products on emulated threads (tests/testing/cuda_emulation.h).
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_ops.h"
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

constexpr cuda::TernaryPlan kWgmma = {.path = cuda::TernaryPath::kWgmma};

// What blocks hand sums over in: counters that are zero, and noise.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : memory_(static_cast<size_t>(bytes)) {
    testing::CudaFillWithNoise(memory_.data(), memory_.size());
    std::fill_n(memory_.data(), std::min<size_t>(memory_.size(), cuda::kMmaCounterBytes),
                uint8_t{0});
  }
  void* data() { return memory_.empty() ? nullptr : memory_.data(); }
  bool CountersAreZero() const {
    return std::all_of(memory_.data(),
                       memory_.data() + std::min<size_t>(memory_.size(), cuda::kMmaCounterBytes),
                       [](uint8_t byte) { return byte == 0; });
  }

 private:
  AlignedBuffer<uint8_t> memory_;
};

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
  const Outputs& before() const { return before_; }
  // What the kernels may expect of the device.
  void set_multiprocessors(int32_t count) { device_.multiprocessors = count; }
  // Without outputs, which Run adds.
  cuda::TernaryLinearArgs Args(cuda::Epilogue epilogue, bool gated) const {
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
                                    .epilogue = epilogue,
                                    .workspace = nullptr};
    for (size_t i = 0; i < matrices_.size(); ++i) {
      const TernaryMatrix& w = matrices_[i];
      args.outputs[i] = {
          .w = {.packed = reinterpret_cast<const uint4*>(packed_[i].data()),
                .scales =
                    w.granularity() == ScaleGranularity::kTensor ? nullptr : w.scales().data(),
                .scale = static_cast<float>(w.tensor_scale()),
                .bias = bias_[i].data(),
                .rows = static_cast<int32_t>(w.rows())},
          .y = nullptr};
    }
    return args;
  }
  // With `gated`, matrices[0] is the gate of matrices[1], and only outputs[0] is written. In a
  // workspace of its own where none is given.
  Outputs Run(const cuda::TernaryPlan& plan, cuda::Epilogue epilogue, bool gated = false,
              Workspace* workspace = nullptr) const {
    Outputs y = before_;
    cuda::TernaryLinearArgs args = Args(epilogue, gated);
    for (size_t i = 0; i < y.size(); ++i) args.outputs[i].y = y[i].data();
    Workspace own(workspace == nullptr ? cuda::MmaWorkspaceBytes(args, plan) : 0);
    Workspace& used = workspace == nullptr ? own : *workspace;
    args.workspace = used.data();
    EXPECT_EQ(cuda::LaunchTernaryLinear(args, plan, device_, nullptr), cudaSuccess);
    EXPECT_TRUE(used.CountersAreZero());
    return y;
  }
  // Plans of one and two row blocks, split as often as can be, not at all and by some number.
  std::vector<cuda::TernaryPlan> MmaPlans(Random& random, bool gated = false) const {
    std::vector<cuda::TernaryPlan> plans;
    const cuda::TernaryLinearArgs args = Args(cuda::Epilogue::kStore, gated);
    const auto stages = static_cast<int32_t>(args.num_groups > 1 ? 1 : cuda::MmaStages(args));
    const auto some = static_cast<int32_t>(1 + random() % static_cast<uint64_t>(stages));
    for (const int32_t row_blocks : std::set<int32_t>{gated ? 2 : 1, 2}) {
      for (const int32_t split : std::set<int32_t>{1, some, stages}) {
        plans.push_back({.row_blocks = row_blocks, .split = split});
      }
    }
    return plans;
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
  std::string Name(const cuda::TernaryPlan& plan) const {
    const TernaryMatrix& w = matrices_[0];
    return std::string(plan.path == cuda::TernaryPath::kWgmma ? "wgmma " : "mma ") +
           std::to_string(q_.mat.rows) + "x" + std::to_string(w.rows()) + "x" +
           std::to_string(w.cols()) + " groups " + std::to_string(w.num_groups()) + " row blocks " +
           std::to_string(plan.row_blocks) + " split " + std::to_string(plan.split);
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

void ExpectEqualsReference(const std::vector<cuda::TernaryPlan>& plans, const Problem& problem) {
  const Problem::Outputs stored = problem.Reference(false), added = problem.Reference(true);
  for (const cuda::TernaryPlan& plan : plans) {
    ASSERT_THAT(problem.Run(plan, cuda::Epilogue::kStore), ContainerEq(stored))
        << problem.Name(plan);
    ASSERT_THAT(problem.Run(plan, cuda::Epilogue::kAccumulate), ContainerEq(added))
        << problem.Name(plan);
  }
}

TEST(CudaTernaryLinear, MmaEqualsTheReferenceBitForBit) {
  Random random(2);
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {40, 200}, {97, 320}, {130, 2500}}) {
    for (const int64_t tokens : {1, 3, 8, 9, 16, 31, 33, 70}) {
      for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
        testing::SetCudaThreadOrder(random());
        const Problem problem = MakeProblem(random, kind, {rows}, cols, tokens);
        ExpectEqualsReference(problem.MmaPlans(random), problem);
      }
    }
  }
}

// More stages than are in shared memory at once, for every tile.
TEST(CudaTernaryLinear, LongSplitsEqualTheReference) {
  Random random(6);
  for (const auto& [tokens, cols] :
       {std::pair<int64_t, int64_t>{5, 9000}, {13, 5000}, {32, 2600}, {64, 1300}}) {
    for (int kind = 0; kind < 2; ++kind) {
      testing::SetCudaThreadOrder(random());
      const Problem problem = MakeProblem(random, kind, {70}, cols, tokens);
      ExpectEqualsReference(problem.MmaPlans(random), problem);
    }
  }
}

TEST(CudaTernaryLinear, EveryEpilogueIsThatOfTheWholeSum) {
  Random random(7);
  for (const int64_t tokens : {12, 40}) {
    testing::SetCudaThreadOrder(random());
    const Problem problem = MakeProblem(random, 1, {50}, 3000, tokens);
    const auto expect = [&](cuda::Epilogue epilogue, const auto& of) {
      std::vector<float> expected = problem.Reference(false)[0];
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] = of(problem.before()[0][i], expected[i]);
      }
      for (const cuda::TernaryPlan& plan : problem.MmaPlans(random)) {
        EXPECT_THAT(problem.Run(plan, epilogue)[0], ContainerEq(expected)) << problem.Name(plan);
      }
    };
    expect(cuda::Epilogue::kAccumulate, [](float y, float value) { return y + value; });
    expect(cuda::Epilogue::kMultiply, [](float y, float value) { return y * value; });
    expect(cuda::Epilogue::kSilu, [](float, float v) { return v / (1.0f + expf(-v)); });
    expect(cuda::Epilogue::kReluSquared, [](float, float v) { return v > 0 ? v * v : 0.0f; });
  }
}

// Of every size, one after another, as a step's launches do.
TEST(CudaTernaryLinear, LaunchesShareAWorkspace) {
  Random random(8);
  Workspace workspace(cuda::MostMmaWorkspaceBytes({.wgmma = false, .multiprocessors = 132}));
  for (int i = 0; i < 30; ++i) {
    testing::SetCudaThreadOrder(random());
    const auto tokens = static_cast<int64_t>(1 + random() % 70);
    const auto rows = static_cast<int64_t>(1 + random() % 100);
    const Problem problem = MakeProblem(random, i % 2, {rows}, 2700, tokens);
    const std::vector<cuda::TernaryPlan> plans = problem.MmaPlans(random);
    const cuda::TernaryPlan& plan = plans[random() % plans.size()];
    for (int repetition = 0; repetition < 2; ++repetition) {
      ASSERT_THAT(problem.Run(plan, cuda::Epilogue::kStore, false, &workspace),
                  ContainerEq(problem.Reference(false)))
          << problem.Name(plan);
    }
  }
}

TEST(CudaTernaryLinear, PlansThatCannotBeAreRefused) {
  Random random(9);
  const Problem problem = MakeProblem(random, 0, {64, 64}, 1000, 40);  // four stages
  cuda::TernaryLinearArgs args = problem.Args(cuda::Epilogue::kStore, false);
  Problem::Outputs y = problem.before();
  for (size_t i = 0; i < y.size(); ++i) args.outputs[i].y = y[i].data();
  Workspace workspace(cuda::MmaWorkspaceBytes(args, {.row_blocks = 1, .split = 4}));
  args.workspace = workspace.data();
  const auto launch = [&](int32_t row_blocks, int32_t split) {
    return cuda::LaunchTernaryLinear(args, {.row_blocks = row_blocks, .split = split},
                                     {.wgmma = false, .multiprocessors = 1}, nullptr);
  };
  EXPECT_EQ(launch(1, 4), cudaSuccess);
  EXPECT_EQ(launch(1, 5), cudaErrorInvalidValue);
  EXPECT_EQ(launch(1, 0), cudaErrorInvalidValue);
  EXPECT_EQ(launch(0, 1), cudaErrorInvalidValue);
  EXPECT_EQ(launch(3, 1), cudaErrorInvalidValue);
  args.workspace = static_cast<uint8_t*>(workspace.data()) + 4;
  EXPECT_EQ(launch(1, 2), cudaErrorInvalidValue);
  args.workspace = nullptr;
  EXPECT_EQ(launch(1, 2), cudaErrorInvalidValue);
  EXPECT_EQ(launch(1, 1), cudaSuccess);
  args.gated = true;
  EXPECT_EQ(launch(1, 1), cudaErrorInvalidValue);
  args.gated = false;
  args.workspace = workspace.data();
  args.num_groups = 2;
  args.group_cols = 512;
  EXPECT_EQ(launch(1, 2), cudaErrorInvalidValue);
  args.num_groups = 1;
  args.outputs[0].w.rows = 1 << 20;  // more tiles than counters
  EXPECT_EQ(launch(1, 2), cudaErrorInvalidValue);
}

// Plans of an H200 for the matrices of 2B-4T and Llama3-8B; docs/architecture.md has the reasons.
TEST(CudaTernaryLinear, FewRowsAreSplitWhereThatPays) {
  const cuda::DeviceTraits h200 = {.wgmma = true, .multiprocessors = 132};
  struct Case {
    std::vector<int32_t> rows;
    int32_t cols;
    bool gated;
    std::string plans;  // row blocks and split at 1, 8, 16, 32 and 64 tokens
  };
  const std::vector<Case> cases = {{{2560, 640, 640}, 2560, false, "1/1 1/1 1/1 1/1 1/1 "},
                                   {{2560}, 2560, false, "1/1 1/1 1/1 1/1 1/1 "},
                                   {{6912, 6912}, 2560, true, "2/1 2/1 2/1 2/1 2/1 "},
                                   {{2560}, 6912, false, "1/1 1/1 1/1 2/3 2/3 "},
                                   {{4096, 1024, 1024}, 4096, false, "1/1 1/1 2/1 2/1 2/1 "},
                                   {{4096}, 4096, false, "1/1 1/1 1/1 1/1 1/1 "},
                                   {{14336, 14336}, 4096, true, "2/1 2/1 2/1 2/1 2/1 "},
                                   {{4096}, 14336, false, "1/1 1/1 1/1 2/2 2/2 "}};
  for (const Case& c : cases) {
    cuda::TernaryLinearArgs args = {};
    args.cols = c.cols;
    args.num_groups = 1;
    args.gated = c.gated;
    for (const int32_t rows : c.rows) args.outputs[args.num_outputs++].w.rows = rows;
    std::string plans;
    for (const int32_t tokens : {1, 8, 16, 32, 64}) {
      args.tokens = tokens;
      const cuda::TernaryPlan plan = cuda::ChooseTernaryPlan(h200, args);
      EXPECT_EQ(plan.path, cuda::TernaryPath::kMma);
      EXPECT_LE(cuda::MmaWorkspaceBytes(args, plan), cuda::MostMmaWorkspaceBytes(h200));
      plans += std::to_string(plan.row_blocks) + "/" + std::to_string(plan.split) + " ";
    }
    EXPECT_EQ(plans, c.plans) << c.rows[0] << "x" << c.cols;
  }
}

TEST(CudaTernaryLinear, EveryChosenPlanCanBe) {
  Random random(10);
  const auto between = [&](int32_t least, int32_t most) {
    return least + static_cast<int32_t>(random() % static_cast<uint64_t>(most - least + 1));
  };
  for (int i = 0; i < 3000; ++i) {
    const cuda::DeviceTraits device = {.wgmma = i % 2 == 0, .multiprocessors = between(1, 160)};
    cuda::TernaryLinearArgs args = {};
    args.tokens = between(1, i % 3 == 0 ? 1000 : 64);
    args.cols = between(1, 30000);
    args.num_groups = i % 5 == 0 ? 4 : 1;
    args.gated = i % 4 == 0;
    args.num_outputs = args.gated ? 2 : between(1, 4);
    for (int32_t n = 0; n < args.num_outputs; ++n) {
      args.outputs[n].w.rows = n > 0 && args.gated ? args.outputs[0].w.rows : between(1, 9000);
    }
    const cuda::TernaryPlan plan = cuda::ChooseTernaryPlan(device, args);
    if (plan.path == cuda::TernaryPath::kWgmma) continue;
    ASSERT_GE(plan.row_blocks, args.gated ? 2 : 1);
    ASSERT_LE(plan.row_blocks, 2);
    ASSERT_GE(plan.split, 1);
    if (plan.split == 1) continue;
    ASSERT_EQ(args.num_groups, 1);
    ASSERT_LE(plan.split, cuda::MmaStages(args));
    // One wave, no more.
    ASSERT_LE(cuda::MmaTiles(args, plan) * plan.split, 2 * device.multiprocessors);
    ASSERT_LE(cuda::MmaWorkspaceBytes(args, plan), cuda::MostMmaWorkspaceBytes(device));
  }
}

TEST(CudaTernaryLinear, OpsSplitInMemoryThatIsReserved) {
  Random random(11);
  const int64_t tokens = 40, rows = 40, cols = 5000;
  const TernaryMatrix w = testing::RandomTernary(random, rows, cols);
  Quantized<float> q(tokens, cols);
  testing::FillRandom(random, q);
  std::vector<float> expected(static_cast<size_t>(tokens * rows));
  CreateReferenceOps<float>()->TernaryLinear(
      {.q = q.mat, .w = &w, .bias = {}, .y = testing::View(expected, tokens)});
  const auto expect = [&](const CudaOptions& options, const std::string& path) {
    const std::unique_ptr<cuda::CudaOps> ops = *cuda::CudaOps::Create(options);
    testing::Random again(11);
    const TernaryMatrix placed = *ops->Place(testing::RandomTernary(again, rows, cols));
    const TernaryMatrix* const matrices[] = {&placed};
    std::string found;
    for (const ProductPath& p : ops->ProductPaths(matrices, false)) {
      if (p.from_tokens <= tokens) found = p.name;
    }
    EXPECT_EQ(found, path);
    DeviceArray<int8_t> codes = *AllocateArray<int8_t>(*ops, std::ssize(q.q));
    DeviceArray<float> scale = *AllocateArray<float>(*ops, tokens);
    DeviceArray<int32_t> sum = *AllocateArray<int32_t>(*ops, tokens);
    DeviceArray<float> y = *AllocateArray<float>(*ops, tokens * rows);
    ops->CopyToDevice(codes.data(), q.q.data(), std::ssize(q.q));
    ops->CopyToDevice(scale.data(), q.scale.data(), tokens * 4);
    ops->CopyToDevice(sum.data(), q.sum.data(), tokens * 4);
    QuantizedMat<float> in = q.mat;
    in.q = codes.data();
    in.scale = scale.data();
    in.sum = sum.data();
    ASSERT_TRUE(ops->Reserve({.tokens = tokens,
                              .logit_rows = 1,
                              .max_blocks = 1,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 64,
                              .head = {.type = DenseType::kBf16, .rows = 1, .cols = 1}})
                    .ok());
    const size_t reserved = testing::CudaBytesAllocated();
    ops->TernaryLinear({.q = in, .w = &placed, .bias = {}, .y = {y.data(), tokens, rows}});
    EXPECT_EQ(testing::CudaBytesAllocated(), reserved);
    std::vector<float> actual(expected.size());
    ASSERT_TRUE(ops->CopyToHost(actual.data(), y.data(), std::ssize(actual) * 4).ok());
    EXPECT_THAT(actual, ContainerEq(expected)) << path;
  };
  expect({}, "mma_64_tall_split_4");  // the emulated device has four multiprocessors
  expect({.ternary_split = 1}, "mma_64_tall");
  expect({.ternary_row_blocks = 1}, "mma_64_split_4");
  expect({.ternary_row_blocks = 1, .ternary_split = 7}, "mma_64_split_7");
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
        ExpectEqualsReference({kWgmma}, problem);
      }
    }
  }
}

TEST(CudaTernaryLinear, WgmmaIsForPromptsThatKeepTheDeviceBusy) {
  const cuda::DeviceTraits hopper = {.wgmma = true, .multiprocessors = 132};
  cuda::TernaryLinearArgs args = {};
  args.cols = 2560;
  args.num_groups = 1;
  args.num_outputs = 1;
  args.outputs[0].w.rows = 2560;  // ten blocks of rows
  const auto path = [&](int32_t tokens) {
    args.tokens = tokens;
    return cuda::ChooseTernaryPlan(hopper, args).path;
  };
  EXPECT_EQ(path(64), cuda::TernaryPath::kMma);
  EXPECT_EQ(path(768), cuda::TernaryPath::kMma);  // 60 blocks
  EXPECT_EQ(path(769), cuda::TernaryPath::kWgmma);
  args.outputs[0].w.rows = 13824;
  EXPECT_EQ(path(64), cuda::TernaryPath::kMma);
  EXPECT_EQ(path(256), cuda::TernaryPath::kWgmma);
  EXPECT_EQ(cuda::ChooseTernaryPlan({.wgmma = false, .multiprocessors = 132}, args).path,
            cuda::TernaryPath::kMma);
}

TEST(CudaTernaryLinear, SeveralMatricesAtOnceEqualTheReference) {
  Random random(4);
  for (const int64_t tokens : {2, 20, 65}) {
    for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
      testing::SetCudaThreadOrder(random());
      const Problem problem = MakeProblem(random, kind, {100, 33, 50, 1}, 700, tokens);
      ExpectEqualsReference(problem.MmaPlans(random), problem);
      ExpectEqualsReference({kWgmma}, problem);
    }
  }
}

TEST(CudaTernaryLinear, GatedEqualsTheReference) {
  Random random(5);
  for (const int64_t tokens : {1, 12, 70}) {
    for (int kind = 0; kind < testing::kScaleKinds; ++kind) {
      testing::SetCudaThreadOrder(random());
      const Problem problem = MakeProblem(random, kind, {70, 70}, 1100, tokens);
      std::vector<cuda::TernaryPlan> plans = problem.MmaPlans(random, /*gated=*/true);
      plans.push_back(kWgmma);
      for (const cuda::TernaryPlan& plan : plans) {
        EXPECT_THAT(problem.Run(plan, cuda::Epilogue::kReluSquared, true),
                    ContainerEq(problem.GatedReference(Activation::kReluSquared)))
            << problem.Name(plan);
        // The emulated expf is the host's.
        EXPECT_THAT(problem.Run(plan, cuda::Epilogue::kSilu, true),
                    ContainerEq(problem.GatedReference(Activation::kSilu)))
            << problem.Name(plan);
      }
    }
  }
}

}  // namespace
}  // namespace sterna
