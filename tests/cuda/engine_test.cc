// The engine on the CUDA backend: a request's tokens and logprobs are the same bits whatever runs
// beside it, and however steps are scheduled.
#include "engine/engine.h"

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "tests/cuda/device_under_test.h"
#include "tests/testing/mixed_requests.h"

namespace sterna {
namespace {

using testing::ExpectSameBits;
using testing::Greedy;
using testing::MixedRequests;
using testing::Output;
using testing::RunAlone;
using testing::RunTogether;
using testing::TinyEngine;
using testing::TinyEngineOptions;

TinyEngineOptions Options() {
  TinyEngineOptions options;
  options.model.head_dim = 16;
  options.model.max_positions = 256;
  options.engine.num_kv_blocks = 256;
  return options;
}

TEST(CudaEngineTest, GivesTheSameBitsHoweverItIsScheduled) {
  const auto open = [] { return testing::OpenDeviceUnderTest(); };
  if (const auto device = open(); absl::IsFailedPrecondition(device.status())) {
    GTEST_SKIP() << device.status().message();
  }
  std::vector<Request> requests = MixedRequests(testing::DeviceUnderTestIsSlow() ? 7 : 64);
  for (Request& request : requests) {
    if (testing::DeviceUnderTestIsSlow())
      request.stop.max_tokens = (request.stop.max_tokens + 5) / 6;
  }
  TinyEngineOptions options = Options();
  options.engine.async_scheduling = false;
  TinyEngine one_by_one(options, *open());
  const std::vector<Output> expected = RunAlone(one_by_one, requests);
  options.engine.async_scheduling = true;
  {
    TinyEngine tiny(options, *open());
    ExpectSameBits(expected, RunTogether(tiny, requests), "ahead");
    EXPECT_GT(tiny.sums().most_running, 4) << "the requests did not run together";
  }

  // Each grows beyond its first block, and there are not enough for all.
  std::vector<Request> growing;
  for (int i = 0; i < 4; ++i) {
    growing.push_back(Greedy(15, 20, i));
    growing.back().sampling.repetition_penalty = 1.2f;
  }
  const std::vector<Output> grown = RunAlone(one_by_one, growing);
  options.engine.max_chunk_tokens = 7;
  options.engine.num_kv_blocks = 5;
  TinyEngine tiny(options, *open());
  ExpectSameBits(grown, RunTogether(tiny, growing), "ahead, small cache");
  EXPECT_GT(tiny.sums().preemptions, 0) << "no sequence was preempted with a step in flight";
}

TEST(CudaEngineTest, RecordsEveryShapeOfDecodingAtStart) {
  auto device = testing::OpenDeviceUnderTest();
  if (absl::IsFailedPrecondition(device.status())) GTEST_SKIP() << device.status().message();
  TinyEngineOptions options = Options();
  options.engine.max_sequences = 3;
  options.engine.max_context_tokens = 5 * kKvBlockTokens;
  options.model.family = CheckpointFamily::kGrouped;  // embedding and head are ternary
  options.model.qk_norm = true;
  options.model.scale_group_size = kTernaryBlockCols;
  const std::vector<Request> requests = {Greedy(10, 60, 1), Greedy(3, 9, 2), Greedy(30, 12, 3)};
  TinyEngine lazy(options, *testing::OpenDeviceUnderTest());
  options.engine.record_at_start = true;
  TinyEngine tiny(options, *std::move(device));
  constexpr int64_t kTokens = 3, kBlocks = 4;  // of 1, 2 and 3 tokens; of 1, 2, 4 and 5 blocks
  EXPECT_EQ(tiny.model().num_recordings(), kTokens * kBlocks);
  ExpectSameBits(RunAlone(lazy, requests), RunTogether(tiny, requests), "recorded at start");
  tiny.Stop();
  EXPECT_EQ(tiny.model().num_recordings(), kTokens * kBlocks);
}

}  // namespace
}  // namespace sterna
