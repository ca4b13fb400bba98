// The engine on a device whose memory is not the host's: the same bits, and never a pointer of the
// one in the hands of the other (tests/testing/separate_memory_ops.h).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "engine/tuning.h"
#include "tests/testing/all_logits.h"
#include "tests/testing/mixed_requests.h"
#include "tests/testing/paths.h"
#include "tests/testing/separate_memory_ops.h"

namespace sterna {
namespace {

using ::sterna::testing::AllLogits;
using ::sterna::testing::ExpectSameBits;
using ::sterna::testing::Greedy;
using ::sterna::testing::MixedRequests;
using ::sterna::testing::Output;
using ::sterna::testing::ReadAll;
using ::sterna::testing::RunAlone;
using ::sterna::testing::RunTogether;
using ::sterna::testing::SeparateMemoryOps;
using ::sterna::testing::TinyConfig;
using ::sterna::testing::TinyEngine;
using ::sterna::testing::TinyEngineOptions;
using ::testing::HasSubstr;

std::unique_ptr<Ops<float>> Cpu(const std::string& isa = "auto") {
  return *CreateCpuOps({.num_threads = 2, .isa = isa});
}

std::vector<int32_t> Tokens(int count) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 37 + i * i) % 256);
  return tokens;
}

// A model with everything a model can have that the tiny one lacks.
ModelConfig RichConfig() {
  ModelConfig config = TinyConfig();
  config.tie_embeddings = false;
  config.attention_bias = true;
  config.mlp_bias = true;
  config.linear_rms_norm = true;
  config.qk_norm = true;
  config.scale_group_size = kTernaryBlockCols;
  return config;
}

// Ternary throughout, in groups.
ModelConfig GroupedConfig(bool tied) {
  ModelConfig config = TinyConfig();
  config.family = CheckpointFamily::kGrouped;
  config.tie_embeddings = tied;
  config.qk_norm = true;
  config.scale_group_size = kTernaryBlockCols;
  return config;
}

// Logits of 40 tokens, two steps, on `plain` and on the same with memory of its own.
template <typename F>
void ExpectSameLogits(const ModelConfig& config, uint64_t seed, bool sub_norms,
                      const HeadOptions& head, KvType kv_type, Ops<F>& plain,
                      std::unique_ptr<Ops<F>> inner) {
  const ModelWeights weights = MakeRandomWeights(config, seed, sub_norms, head);
  const std::vector<F> expected = AllLogits<F>(config, weights, plain, Tokens(40), kv_type);
  SeparateMemoryOps<F> ops(std::move(inner));
  ModelWeights placed = MakeRandomWeights(config, seed, sub_norms, head);
  ASSERT_TRUE(PlaceWeights(ops, placed).ok());
  EXPECT_EQ(AllLogits<F>(config, placed, ops, Tokens(40), kv_type), expected);
}

TEST(SeparateMemoryTest, ModelsHaveTheSameLogits) {
  for (const std::string& isa : CpuIsaLevels()) {
    SCOPED_TRACE(isa);
    for (const KvType kv_type : {KvType::kFull, KvType::kF16, KvType::kI8}) {
      ExpectSameLogits<float>(TinyConfig(), 1, /*sub_norms=*/true, {}, kv_type, *Cpu(isa),
                              Cpu(isa));
    }
    for (const bool tied : {true, false}) {
      ExpectSameLogits<float>(GroupedConfig(tied), 3, /*sub_norms=*/false, {}, KvType::kF16,
                              *Cpu(isa), Cpu(isa));
    }
    for (const HeadType head : {HeadType::kAsStored, HeadType::kInt8}) {
      ExpectSameLogits<float>(RichConfig(), 2, /*sub_norms=*/false, {.type = head}, KvType::kFull,
                              *Cpu(isa), Cpu(isa));
    }
  }
  ExpectSameLogits<float>(TinyConfig(), 1, /*sub_norms=*/true, {}, KvType::kI8,
                          *CreateReferenceOps<float>(), CreateReferenceOps<float>());
  ExpectSameLogits<double>(RichConfig(), 2, /*sub_norms=*/false, {.type = HeadType::kInt8},
                           KvType::kFull, *CreateReferenceOps<double>(),
                           CreateReferenceOps<double>());
}

// The head is of the heap, the embedding of the mapped file.
TEST(SeparateMemoryTest, ALoadedCheckpointHasTheSameLogits) {
  const std::string dir = sterna::testing::SourcePath("models/stories");
  SeparateMemoryOps<float> ops(Cpu());
  const StatusOr<Checkpoint> plain = LoadCheckpoint(dir, {.head = {.type = HeadType::kInt8}});
  StatusOr<Checkpoint> placed = LoadCheckpoint(dir, {.head = {.type = HeadType::kInt8}});
  ASSERT_TRUE(plain.ok() && placed.ok()) << plain.status() << placed.status();
  ASSERT_FALSE(placed->weights.mapped_files.empty());
  ASSERT_TRUE(PlaceWeights(ops, placed->weights).ok());
  EXPECT_TRUE(placed->weights.mapped_files.empty());
  EXPECT_EQ(AllLogits<float>(placed->config, placed->weights, ops, Tokens(5)),
            AllLogits<float>(plain->config, plain->weights, *Cpu(), Tokens(5)));
}

TEST(SeparateMemoryTest, TheEngineGivesTheSameBits) {
  const std::vector<Request> requests = MixedRequests(24);
  for (const KvType kv_type : {KvType::kF16, KvType::kI8}) {
    TinyEngineOptions options;
    options.engine.kv_type = kv_type;
    options.engine.max_step_tokens = 64;
    TinyEngine plain(options, Cpu());
    const std::vector<Output> expected = RunAlone(plain, requests);
    const auto separate = [] { return std::make_unique<SeparateMemoryOps<float>>(Cpu()); };
    for (const bool async : {false, true}) {
      options.engine.async_scheduling = async;
      auto ops = separate();
      const SeparateMemoryOps<float>& watched = *ops;
      TinyEngine tiny(options, std::move(ops));
      ExpectSameBits(expected, RunTogether(tiny, requests), "separate memory, together");
      EXPECT_GT(tiny.sums().most_running, 8) << "the requests did not run together";
      tiny.Stop();
      EXPECT_EQ(watched.marks_ahead() > 20, async) << watched.marks_ahead();
    }
    options.engine.max_chunk_tokens = 7;
    options.engine.num_kv_blocks = 18;
    TinyEngine tiny(options, separate());
    ExpectSameBits(expected, RunTogether(tiny, requests), "separate memory, small cache");
    EXPECT_GT(tiny.sums().preemptions, 0) << "no block was ever another sequence's";
  }
}

// Steps that are planned before the one before them is done.
class AsyncSchedulingTest : public ::testing::Test {
 protected:
  // Ops that the engine which is made next runs on.
  std::unique_ptr<Ops<float>> Separate() {
    auto ops = std::make_unique<SeparateMemoryOps<float>>(Cpu());
    ops_ = ops.get();
    return ops;
  }

  SeparateMemoryOps<float>* ops_ = nullptr;
};

TEST_F(AsyncSchedulingTest, GivesTheSameBitsOneStepAhead) {
  const std::vector<Request> requests = MixedRequests(24);
  TinyEngineOptions options;
  TinyEngine plain(options, Cpu());
  const std::vector<Output> expected = RunAlone(plain, requests);
  plain.Stop();
  {
    TinyEngine tiny(options, Separate());
    ExpectSameBits(expected, RunTogether(tiny, requests), "ahead");
    tiny.Stop();
    EXPECT_GE(ops_->marks_ahead(), ops_->marks() - 2);
    EXPECT_EQ(tiny.sums().inter_token_count, plain.sums().inter_token_count);
  }
  {
    TinyEngine tiny(options, Separate());
    ExpectSameBits(expected, RunAlone(tiny, requests), "ahead, alone");
    tiny.Stop();
    EXPECT_GT(ops_->marks_ahead(), ops_->marks() / 2);
  }
  options.engine.max_chunk_tokens = 7;
  options.engine.max_step_prompt_tokens = 9;
  options.engine.num_kv_blocks = 18;
  TinyEngine tiny(options, Separate());
  ExpectSameBits(expected, RunTogether(tiny, requests), "ahead, small cache");
  EXPECT_GT(tiny.sums().preemptions, 0) << "no sequence was preempted with a step in flight";
  tiny.Stop();
  EXPECT_EQ(tiny.sums().finished, 24);
  EXPECT_EQ(tiny.sums().output_tokens, plain.sums().output_tokens);
  EXPECT_EQ(tiny.sums().prompt_tokens, plain.sums().prompt_tokens);
  EXPECT_EQ(tiny.sums().kv_blocks_used, 0);
}

// What a step in flight computes beyond a request's end is dropped, and its blocks are used again.
TEST_F(AsyncSchedulingTest, DropsWhatIsDrawnBeyondAStop) {
  TinyEngine plain({}, Cpu());
  const Output whole = ReadAll(**plain.engine().Submit(Greedy(9, 40)));
  std::vector<Request> requests;
  for (const size_t last : {0, 1, 7, 20, 38}) {
    Request& request = requests.emplace_back(Greedy(9, 40));
    request.stop.stop_token_ids = {whole.tokens[last].id};
  }
  const std::vector<Output> expected = RunAlone(plain, requests);
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 6;
  TinyEngine tiny(options, Separate());
  const std::vector<Output> outputs = RunTogether(tiny, requests);
  ExpectSameBits(expected, outputs, "stop tokens");
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(outputs[i].end.reason, FinishReason::kStop);
    EXPECT_EQ(outputs[i].end.usage.completion_tokens, expected[i].end.usage.completion_tokens);
  }
  tiny.Stop();
  EXPECT_GT(ops_->marks_ahead(), 5);
}

TEST_F(AsyncSchedulingTest, NothingIsPlannedBeyondTheLastToken) {
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 4;  // exactly as large as the request
  const Request request = Greedy(9, 4 * kKvBlockTokens - 9);
  TinyEngine plain(options, Cpu());
  TinyEngine tiny(options, Separate());
  ExpectSameBits(RunAlone(plain, {request}), RunAlone(tiny, {request}), "the whole cache");
  tiny.Stop();
  EXPECT_EQ(ops_->marks(), request.stop.max_tokens) << "a step for each token";
}

TEST_F(AsyncSchedulingTest, CancellingAndStoppingWithAStepInFlightLosesNothing) {
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 60;
  auto tiny = std::make_unique<TinyEngine>(options, Separate());
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 24; ++i) streams.push_back(*tiny->engine().Submit(Greedy(5 + i, 200, i)));
  for (size_t i = 0; i < streams.size(); i += 3) {
    (void)streams[i]->WaitAndTake();
    streams[i]->Cancel();
    EXPECT_EQ(ReadAll(*streams[i]).end.reason, FinishReason::kCancelled);
  }
  tiny->engine().CancelAll();
  EXPECT_TRUE(tiny->engine().WaitUntilIdle(std::chrono::seconds(30)));
  const Output after = ReadAll(**tiny->engine().Submit(Greedy(9, 40)));
  TinyEngine plain({}, Cpu());
  ExpectSameBits({ReadAll(**plain.engine().Submit(Greedy(9, 40)))}, {after}, "after");
  // And an engine that ends in the middle of its work.
  const std::shared_ptr<TokenStream> last = *tiny->engine().Submit(Greedy(9, 400));
  (void)last->WaitAndTake();
  tiny->Stop();
  EXPECT_EQ(ReadAll(*last).end.reason, FinishReason::kCancelled);
  EXPECT_EQ(tiny->sums().finished, 26);
  EXPECT_EQ(tiny->sums().kv_blocks_used, 0);
}

TEST_F(AsyncSchedulingTest, AFailureWithAStepInFlightEndsEveryRequest) {
  for (const int64_t waits : {0, 1, 5, 30}) {
    std::unique_ptr<Ops<float>> ops = Separate();
    ops_->FailAfterWaits(waits);
    TinyEngine tiny({}, std::move(ops));
    std::vector<std::shared_ptr<TokenStream>> streams;
    for (int i = 0; i < 4; ++i) {
      StatusOr<std::shared_ptr<TokenStream>> stream = tiny.engine().Submit(Greedy(10, 100, i));
      if (stream.ok()) streams.push_back(*stream);
    }
    for (const auto& stream : streams) {
      const Output output = ReadAll(*stream);
      EXPECT_EQ(output.end.reason, FinishReason::kFailed);
      EXPECT_THAT(output.end.error.ToString(), HasSubstr("caught fire"));
    }
    EXPECT_TRUE(tiny.engine().WaitUntilIdle(std::chrono::seconds(10)));
    EXPECT_FALSE(tiny.engine().healthy());
  }
}

TEST_F(AsyncSchedulingTest, EveryJouleIsSomebodys) {
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 40;
  TinyEngine tiny(options, Separate());
  std::atomic<bool> done = false;
  std::thread burner([&] {
    while (!done) {
      tiny.meter().Add(10007);
      std::this_thread::yield();
    }
  });
  std::vector<Request> requests = MixedRequests(16);
  // Most end with a step in flight that goes on with them.
  for (Request& request : requests) {
    for (int32_t token = 0; token < 256; token += 9) request.stop.stop_token_ids.push_back(token);
  }
  const int64_t start_ns = Clock::Steady().NowNs();
  const std::vector<Output> outputs = RunTogether(tiny, requests);
  tiny.Stop();
  EXPECT_LE(tiny.sums().duration_ns, Clock::Steady().NowNs() - start_ns) << "steps do not overlap";
  done = true;
  burner.join();
  const EnergyTotals energy = tiny.sums().energy;
  int64_t requests_nj = 0;
  for (const Output& output : outputs) requests_nj += output.end.usage.energy_nj;
  EXPECT_GT(requests_nj, 0);
  EXPECT_EQ(requests_nj, energy.prefill_nj + energy.decode_nj);
  EXPECT_EQ(requests_nj + energy.idle_nj + energy.overhead_nj + energy.settlement_nj,
            energy.meter_nj);
}

TEST(SeparateMemoryTest, TuningRunsOnPlacedWeights) {
  SeparateMemoryOps<float> ops(Cpu());
  const ModelConfig config = TinyConfig();
  ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/false);
  ASSERT_TRUE(PlaceWeights(ops, weights).ok());
  TuneOps(weights, &ops);
  const StatusOr<double> rate = MeasurePromptRate(config, weights, &ops);
  ASSERT_TRUE(rate.ok()) << rate.status();
  EXPECT_GT(*rate, 0);
}

TEST(PlaceWeightsTest, FreesTheHostsCopiesAndPlacesATiedMatrixOnce) {
  for (const bool tied : {true, false}) {
    SeparateMemoryOps<float> ops(Cpu());
    ModelConfig config = TinyConfig();
    config.tie_embeddings = tied;
    ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/true);
    const int64_t parameters = weights.num_parameters();
    const int64_t ternary_bytes = weights.ternary_bytes();
    const int64_t dense_bytes = weights.dense_bytes();
    ASSERT_FALSE(weights.buffers.empty());
    ASSERT_TRUE(PlaceWeights(ops, weights).ok());
    EXPECT_TRUE(weights.buffers.empty());
    EXPECT_EQ(weights.head.data == weights.embedding.data, tied);
    EXPECT_EQ(weights.device_memory.size(), tied ? 1u : 2u);
    EXPECT_EQ(weights.num_parameters(), parameters);
    EXPECT_EQ(weights.ternary_bytes(), ternary_bytes);
    EXPECT_EQ(weights.dense_bytes(), dense_bytes);
  }
}

TEST(PlaceWeightsTest, PlacesTernaryEmbeddingAndHead) {
  for (const bool tied : {true, false}) {
    SeparateMemoryOps<float> ops(Cpu());
    ModelWeights weights = MakeRandomWeights(GroupedConfig(tied), 1, /*sub_norms=*/false);
    const int64_t parameters = weights.num_parameters();
    const int64_t ternary_bytes = weights.ternary_bytes();
    const uint8_t* const embedding = weights.ternary_embedding.packed();
    const uint8_t* const head = weights.ternary_head()->packed();
    ASSERT_TRUE(PlaceWeights(ops, weights).ok());
    EXPECT_NE(weights.ternary_embedding.packed(), embedding);
    EXPECT_NE(weights.ternary_head()->packed(), head);
    EXPECT_EQ(weights.ternary_head() == &weights.ternary_embedding, tied);
    EXPECT_EQ(weights.num_parameters(), parameters);
    EXPECT_EQ(weights.ternary_bytes(), ternary_bytes);
    EXPECT_EQ(weights.dense_bytes(), 0);
  }
}

TEST(PlaceWeightsTest, MovesNothingWhereMemoryIsTheHosts) {
  ModelWeights weights =
      MakeRandomWeights(RichConfig(), 1, /*sub_norms=*/true, {.shortlist = ShortlistUse::kOn});
  const LayerWeights& layer = weights.layers[1];
  const auto pointers = [&] {
    return std::vector<const void*>{weights.embedding.data,           weights.head.data,
                                    weights.shortlist.norms,          layer.down.w.packed(),
                                    weights.final_norm.span().data(), layer.q.bias.span().data()};
  };
  const std::vector<const void*> before = pointers();
  const size_t buffers = weights.buffers.size();
  ASSERT_TRUE(PlaceWeights(*Cpu(), weights).ok());
  ASSERT_TRUE(PlaceWeights(*CreateReferenceOps<double>(), weights).ok());
  EXPECT_EQ(pointers(), before);
  EXPECT_EQ(weights.buffers.size(), buffers);
  EXPECT_TRUE(weights.device_memory.empty());
}

// What is being made, and the numbers.
TEST(SeparateMemoryTest, TooLittleMemoryIsAnError) {
  const ModelConfig config = TinyConfig();
  const auto exhausted = [](const Status& status, const std::string& what) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_THAT(status.message(), HasSubstr(what));
    EXPECT_THAT(status.message(), HasSubstr("bytes asked for"));
  };
  const StepLimits limits = {.tokens = 32, .logit_rows = 8, .sequences = 8, .context_tokens = 64};
  const auto weights = [&config] { return MakeRandomWeights(config, 1, /*sub_norms=*/false); };
  {
    SeparateMemoryOps<float> none(Cpu(), 4096);
    ModelWeights unplaced = weights();
    exhausted(PlaceWeights(none, unplaced), "embedding and head");
    exhausted(Model<float>::Create(&config, &unplaced, &none, limits).status(), "32 tokens");
    exhausted(KvCache<float>::Create(config, KvType::kF16, 100, none).status(), "100 blocks");
  }
  {
    SeparateMemoryOps<float> little(Cpu(), weights().dense_bytes() + 8192);
    ModelWeights half_placed = weights();
    exhausted(PlaceWeights(little, half_placed), "layer 0");
  }

  SeparateMemoryOps<float> enough(Cpu());
  ModelWeights placed = weights();
  ASSERT_TRUE(PlaceWeights(enough, placed).ok());
  const EngineOptions options = {
      .max_step_tokens = 32, .max_sequences = 8, .num_kv_blocks = 1 << 20};
  auto model = Model<float>::Create(&config, &placed, &enough, LargestStep(options, config));
  ASSERT_TRUE(model.ok()) << model.status();
  sterna::testing::ByteTokenizer tokenizer;
  sterna::testing::FakeMeter meter;
  exhausted(
      Engine::Create(options, &*model, &tokenizer, &meter, nullptr, &Clock::Steady()).status(),
      "1048576 blocks");
}

// That the tool would tell.
class SeparateMemoryDeathTest : public ::testing::Test {
 protected:
  std::vector<float> host_ = std::vector<float>(64, 1.0f);
  SeparateMemoryOps<float> ops_{CreateReferenceOps<float>()};  // no threads beside a fork
  DeviceArray<float> device_ = *AllocateArray<float>(ops_, 64);
};

TEST_F(SeparateMemoryDeathTest, AHostPointerInAnOp) {
  const Mat<float> x = {device_.data(), 1, 64};
  ops_.RmsNorm({.x = AsConst(x), .weight = device_.span(), .eps = 1e-5f, .y = x});
  EXPECT_DEATH(ops_.RmsNorm({.x = AsConst(x), .weight = host_, .eps = 1e-5f, .y = x}), "Holds");
  const Mat<float> y = {host_.data(), 1, 64};
  EXPECT_DEATH(ops_.RmsNorm({.x = AsConst(x), .weight = device_.span(), .eps = 1e-5f, .y = y}),
               "Holds");
  const Mat<float> too_large = {device_.data(), 2, 64};
  EXPECT_DEATH(
      ops_.RmsNorm(
          {.x = AsConst(too_large), .weight = device_.span(), .eps = 1e-5f, .y = too_large}),
      "Holds");
}

TEST_F(SeparateMemoryDeathTest, HostCodeThatReadsTheDevice) {
  EXPECT_DEATH(host_[0] = *static_cast<volatile float*>(device_.data()), "");
  ASSERT_TRUE(ops_.CopyToHost(host_.data(), device_.data(), 256).ok());
  EXPECT_EQ(host_, std::vector<float>(64, 0.0f));
}

TEST_F(SeparateMemoryDeathTest, WeightsThatNobodyPlaced) {
  const ModelConfig config = TinyConfig();
  const ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/false);
  EXPECT_DEATH(AllLogits<float>(config, weights, ops_, Tokens(3)), "Holds");
}

}  // namespace
}  // namespace sterna
