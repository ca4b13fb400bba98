#include "engine/engine.h"

#include <gtest/gtest.h>

#include <set>
#include <thread>

#include "kernels/host_memory_ops.h"
#include "tests/testing/mixed_requests.h"
#include "tests/testing/tiny_model.h"

namespace sterna {
namespace {

using ::sterna::testing::ExpectSameBits;
using ::sterna::testing::Greedy;
using ::sterna::testing::MixedRequests;
using ::sterna::testing::Output;
using ::sterna::testing::ReadAll;
using ::sterna::testing::RunAlone;
using ::sterna::testing::RunTogether;
using ::sterna::testing::TinyEngine;
using ::sterna::testing::TinyEngineOptions;

// Threads are the same on every level, and under ThreadSanitizer each level takes minutes.
std::vector<std::string> LevelsToTest() {
  std::vector<std::string> levels = CpuIsaLevels();
#if defined(__SANITIZE_THREAD__)
  levels.erase(levels.begin(), levels.end() - 1);
#endif
  return levels;
}

// Promise 2: a request's tokens and logprobs do not depend on what else runs, on chunking, on
// preemption or on the number of threads.
TEST(BitExactTest, SixtyFourMixedRequests) {
  const std::vector<Request> requests = MixedRequests(64);
  for (const std::string& isa : LevelsToTest()) {
    TinyEngineOptions options;
    options.cpu.isa = isa;
    TinyEngine reference(options);
    const std::vector<Output> alone = RunAlone(reference, requests);
    EXPECT_EQ(reference.sums().most_running, 1);

    {
      TinyEngine tiny(options);
      ExpectSameBits(alone, RunTogether(tiny, requests), isa + " together");
      EXPECT_GT(tiny.sums().most_running, 8) << "the requests did not run together";
    }
    for (const int64_t chunk : {1, 7, 512}) {
      TinyEngineOptions chunked = options;
      chunked.engine.max_chunk_tokens = chunk;
      TinyEngine tiny(chunked);
      ExpectSameBits(alone, RunTogether(tiny, requests),
                     isa + " chunks of " + std::to_string(chunk));
    }
    {
      TinyEngineOptions threads = options;
      threads.cpu.num_threads = 2;
      TinyEngine tiny(threads);
      ExpectSameBits(alone, RunTogether(tiny, requests), isa + " two threads");
    }
    {
      TinyEngineOptions small = options;
      small.engine.num_kv_blocks = 18;  // the longest request alone takes 16
      TinyEngine tiny(small);
      ExpectSameBits(alone, RunTogether(tiny, requests), isa + " small cache");
      EXPECT_GT(tiny.sums().preemptions, 5) << "the cache is too large to test preemption";
      EXPECT_GT(tiny.sums().recomputed_tokens, 0);
    }
  }
}

TEST(BitExactTest, Int8HeadKeysAndValues) {
  const std::vector<Request> requests = MixedRequests(16);
  for (const std::string& isa : LevelsToTest()) {
    TinyEngineOptions options;
    options.cpu.isa = isa;
    options.head.type = HeadType::kInt8;
    options.engine.kv_type = KvType::kI8;
    TinyEngine reference(options);
    const std::vector<Output> alone = RunAlone(reference, requests);
    options.engine.max_chunk_tokens = 7;
    options.engine.max_step_prompt_tokens = 9;
    options.cpu.num_threads = 2;
    {
      TinyEngine tiny(options);
      ExpectSameBits(alone, RunTogether(tiny, requests), isa + " together");
      EXPECT_GT(tiny.sums().most_running, 4) << "the requests did not run together";
      // A prompt's last token alone counts as one that decodes.
      EXPECT_LE(tiny.sums().most_prompt_tokens, 9 + std::ssize(requests));
    }
    options.engine.num_kv_blocks = 18;
    TinyEngine tiny(options);
    ExpectSameBits(alone, RunTogether(tiny, requests), isa + " small cache");
    EXPECT_GT(tiny.sums().preemptions, 0) << "no block was ever another sequence's";
  }
}

TEST(BitExactTest, TernaryEmbeddingAndHead) {
  const std::vector<Request> requests = MixedRequests(16);
  for (const std::string& isa : LevelsToTest()) {
    for (const int64_t group : {64, 128}) {
      TinyEngineOptions options;
      options.model.family = CheckpointFamily::kGrouped;
      options.model.qk_norm = true;
      options.model.scale_group_size = group;
      options.model.tie_embeddings = false;  // tied, a random model repeats itself
      options.cpu.isa = isa;
      TinyEngine reference(options);
      const std::vector<Output> alone = RunAlone(reference, requests);
      options.engine.max_chunk_tokens = 7;
      options.cpu.num_threads = 2;
      TinyEngine tiny(options);
      ExpectSameBits(alone, RunTogether(tiny, requests), isa + " together");
      EXPECT_GT(tiny.sums().most_running, 4) << "the requests did not run together";
    }
  }
}

TEST(BitExactTest, AShortlistChangesNothing) {
  const std::vector<Request> requests = MixedRequests(16);
  for (const std::string& isa : LevelsToTest()) {
    TinyEngineOptions options;
    options.cpu.isa = isa;
    TinyEngine reference(options);
    const std::vector<Output> without = RunAlone(reference, requests);
    options.head.shortlist = ShortlistUse::kOn;
    options.cpu.num_threads = 2;
    TinyEngine alone(options), together(options);
    ExpectSameBits(without, RunAlone(alone, requests), isa + " alone");
    ExpectSameBits(without, RunTogether(together, requests), isa + " together");
    // One request that wants the whole distribution takes it from all: here there is none.
    std::vector<Request> greedy;
    for (int i = 0; i < 12; ++i) greedy.push_back(Greedy(5 + 3 * i, 20));
    ExpectSameBits(RunAlone(reference, greedy), RunTogether(together, greedy), isa + " greedy");
  }
}

TEST(BitExactTest, RandomModelDoesNotCollapse) {
  TinyEngine tiny;
  const Output output = ReadAll(**tiny.engine().Submit(Greedy(20, 64)));
  std::set<int32_t> distinct;
  for (const OutputToken& token : output.tokens) distinct.insert(token.id);
  EXPECT_GE(distinct.size(), 20u) << "a model that repeats itself tests nothing";
}

TEST(EngineTest, EndsAtMaxTokens) {
  TinyEngine tiny;
  const Output output = ReadAll(**tiny.engine().Submit(Greedy(9, 5)));
  EXPECT_EQ(output.end.reason, FinishReason::kLength);
  EXPECT_EQ(output.tokens.size(), 5u);
  EXPECT_EQ(output.end.usage.prompt_tokens, 9);
  EXPECT_EQ(output.end.usage.completion_tokens, 5);
}

TEST(EngineTest, StopTokenEndsTheTextWithoutBeingPartOfIt) {
  TinyEngine tiny;
  const Output whole = ReadAll(**tiny.engine().Submit(Greedy(9, 30)));
  Request request = Greedy(9, 30);
  const int32_t stop = whole.tokens[10].id;
  request.stop.stop_token_ids = {stop};
  const Output output = ReadAll(**tiny.engine().Submit(request));
  EXPECT_EQ(output.end.reason, FinishReason::kStop);
  EXPECT_EQ(output.end.stop_token, stop);
  EXPECT_EQ(output.tokens.back().id, stop);
  EXPECT_LE(output.tokens.size(), 11u);
  EXPECT_EQ(whole.text.substr(0, output.text.size()), output.text);
}

TEST(EngineTest, EosEndsTheTextUnlessIgnored) {
  TinyEngine tiny;
  Request request = Greedy(9, 8);
  request.sampling.logit_bias = {{257, 100.0f}};
  EXPECT_EQ(ReadAll(**tiny.engine().Submit(request)).end.usage.completion_tokens, 8);
  request.stop.ignore_eos = false;
  const Output output = ReadAll(**tiny.engine().Submit(request));
  EXPECT_EQ(output.end.reason, FinishReason::kStop);
  EXPECT_EQ(output.end.stop_token, 257);
  EXPECT_EQ(output.end.usage.completion_tokens, 1);
  EXPECT_EQ(output.text, "");
}

TEST(EngineTest, StopStringEndsTheTextInFrontOfIt) {
  TinyEngine tiny;
  Request request = Greedy(9, 40);
  request.sampling.logit_bias = {{'a', 100.0f}, {'b', 99.0f}};
  request.sampling.presence_penalty = 2.0f;  // a, then b, then a ...
  const Output whole = ReadAll(**tiny.engine().Submit(request));
  ASSERT_NE(whole.text.find("ba"), std::string::npos) << whole.text;
  request.stop.stop_strings = {"zz", "ba"};
  const Output output = ReadAll(**tiny.engine().Submit(request));
  EXPECT_EQ(output.end.reason, FinishReason::kStop);
  EXPECT_EQ(output.end.stop_string, "ba");
  EXPECT_EQ(output.text, whole.text.substr(0, whole.text.find("ba")));
  request.stop.include_stop_string = true;
  EXPECT_EQ(ReadAll(**tiny.engine().Submit(request)).text, output.text + "ba");
}

TEST(EngineTest, TextHeldBackForAStopStringComesAtTheEnd) {
  TinyEngine tiny;
  Request request = Greedy(9, 3);
  request.sampling.logit_bias = {{'a', 100.0f}};
  request.stop.stop_strings = {"aaaa"};
  const Output output = ReadAll(**tiny.engine().Submit(request));
  EXPECT_EQ(output.end.reason, FinishReason::kLength);
  EXPECT_EQ(output.text, "aaa");
}

TEST(EngineTest, RefusesWhatCanNeverRunAndSaysTheNumbers) {
  TinyEngine tiny;
  Request empty = Greedy(1, 1);
  empty.prompt.clear();
  EXPECT_EQ(ErrorLabelOf(tiny.engine().Submit(empty).status()), ErrorLabel::kInvalidRequest);
  Request outside = Greedy(3, 1);
  outside.prompt[1] = 260;
  const Status outside_status = tiny.engine().Submit(outside).status();
  EXPECT_EQ(ErrorLabelOf(outside_status), ErrorLabel::kInvalidRequest);
  EXPECT_NE(outside_status.ToString().find("260"), std::string::npos);
  const Status long_status = tiny.engine().Submit(Greedy(500, 13)).status();
  EXPECT_EQ(ErrorLabelOf(long_status), ErrorLabel::kContextLengthExceeded);
  EXPECT_NE(long_status.ToString().find("513"), std::string::npos) << long_status;
  EXPECT_NE(long_status.ToString().find("512"), std::string::npos) << long_status;
  EXPECT_TRUE(tiny.engine().Submit(Greedy(500, 12)).ok());
  EXPECT_EQ(tiny.sums().refused, 3);
}

TEST(EngineTest, CacheBoundsTheContextToo) {
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 4;
  TinyEngine tiny(options);
  EXPECT_EQ(tiny.engine().max_context_tokens(), 64);
  EXPECT_FALSE(tiny.engine().Submit(Greedy(60, 5)).ok());
  EXPECT_EQ(ReadAll(**tiny.engine().Submit(Greedy(60, 4))).tokens.size(), 4u);
}

TEST(EngineTest, FullQueueRefusesAtOnceAndRecovers) {
  TinyEngineOptions options;
  options.engine.max_sequences = 1;
  options.engine.max_queue = 3;
  TinyEngine tiny(options);
  std::vector<std::shared_ptr<TokenStream>> accepted;
  Status refused;
  for (int i = 0; i < 200 && refused.ok(); ++i) {
    StatusOr<std::shared_ptr<TokenStream>> stream = tiny.engine().Submit(Greedy(100, 400, i));
    if (stream.ok()) {
      accepted.push_back(*stream);
    } else {
      refused = stream.status();
    }
  }
  EXPECT_EQ(ErrorLabelOf(refused), ErrorLabel::kQueueFull) << refused;
  EXPECT_GE(accepted.size(), 3u);
  for (const auto& stream : accepted) stream->Cancel();
  for (const auto& stream : accepted) ReadAll(*stream);
  EXPECT_TRUE(tiny.engine().Submit(Greedy(4, 4)).ok());
}

TEST(EngineTest, CancelFreesTheBlocksOfRunningAndWaitingRequests) {
  TinyEngineOptions options;
  options.engine.max_sequences = 2;
  TinyEngine tiny(options);
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 6; ++i) streams.push_back(*tiny.engine().Submit(Greedy(100, 400, i)));
  streams[0]->WaitAndTake();  // the first runs
  for (const auto& stream : streams) stream->Cancel();
  for (const auto& stream : streams) {
    const Output output = ReadAll(*stream);
    EXPECT_EQ(output.end.reason, FinishReason::kCancelled);
    EXPECT_EQ(ErrorLabelOf(output.end.error), ErrorLabel::kCancelled);
    EXPECT_LT(output.end.usage.completion_tokens, 400);
  }
  EXPECT_TRUE(tiny.engine().WaitUntilIdle(std::chrono::seconds(10)));
  tiny.Stop();
  EXPECT_EQ(tiny.sums().kv_blocks_used, 0);
  EXPECT_EQ(tiny.sums().finished, 6);
}

TEST(EngineTest, AReaderThatReadsNothingHoldsUpNoOne) {
  TinyEngine tiny;
  const std::shared_ptr<TokenStream> unread = *tiny.engine().Submit(Greedy(10, 300));
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(ReadAll(**tiny.engine().Submit(Greedy(10, 50, i))).tokens.size(), 50u);
  }
  EXPECT_TRUE(tiny.engine().WaitUntilIdle(std::chrono::seconds(60)));
  const Output output = ReadAll(*unread);  // nothing is lost either
  EXPECT_EQ(output.tokens.size(), 300u);
}

TEST(EngineTest, DrainFinishesWhatWasAcceptedAndRefusesTheRest) {
  TinyEngine tiny;
  const std::shared_ptr<TokenStream> stream = *tiny.engine().Submit(Greedy(10, 100));
  tiny.engine().StopAccepting();
  EXPECT_EQ(ErrorLabelOf(tiny.engine().Submit(Greedy(10, 1)).status()), ErrorLabel::kDraining);
  EXPECT_TRUE(tiny.engine().WaitUntilIdle(std::chrono::seconds(60)));
  EXPECT_EQ(ReadAll(*stream).tokens.size(), 100u);
}

TEST(EngineTest, DestructionEndsEveryStreamOnce) {
  TinyEngine tiny;
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 8; ++i) streams.push_back(*tiny.engine().Submit(Greedy(100, 400, i)));
  tiny.Stop();
  for (const auto& stream : streams) {
    EXPECT_EQ(ReadAll(*stream).end.reason, FinishReason::kCancelled);
    EXPECT_TRUE(stream->WaitAndTake().empty()) << "nothing may follow the end";
    stream->Cancel();  // after the engine has gone
  }
}

TEST(EngineTest, ManyThreadsSubmitAndCancel) {
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 64;
  TinyEngine tiny(options);
  std::vector<std::thread> clients;
  std::atomic<int> ended = 0;
  for (int c = 0; c < 4; ++c) {
    clients.emplace_back([&, c] {
      for (int i = 0; i < 12; ++i) {
        StatusOr<std::shared_ptr<TokenStream>> stream =
            tiny.engine().Submit(Greedy(5 + i * 7, 20, c * 100 + i));
        ASSERT_TRUE(stream.ok()) << stream.status();
        if (i % 3 == 0) (*stream)->Cancel();
        ReadAll(**stream);
        ended.fetch_add(1);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(ended.load(), 48);
  tiny.Stop();
  EXPECT_EQ(tiny.sums().finished, 48);
}

TEST(EngineTest, StatsEqualWhatClientsSaw) {
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 40;
  TinyEngine tiny(options);
  const std::vector<Request> requests = MixedRequests(32);
  const std::vector<Output> outputs = RunTogether(tiny, requests);
  tiny.Stop();
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t with_output = 0;
  for (const Output& output : outputs) {
    with_output += output.tokens.empty() ? 0 : 1;
    prompt_tokens += output.end.usage.prompt_tokens;
    output_tokens += static_cast<int64_t>(output.tokens.size());
  }
  const auto sums = tiny.sums();
  EXPECT_GT(sums.preemptions, 0);
  EXPECT_EQ(sums.prompt_tokens, prompt_tokens) << "each prompt token counts once";
  EXPECT_EQ(sums.output_tokens, output_tokens);
  EXPECT_EQ(sums.ttft_count, with_output);
  EXPECT_EQ(sums.queue_count, 32);
  EXPECT_EQ(sums.inter_token_count, output_tokens - with_output);
  EXPECT_EQ(sums.finished, 32);
}

// An implementation of Ops that burns fake joules in every forward, and fails when told to.
class BurningOps final : public HostMemoryOps<float> {
 public:
  explicit BurningOps(sterna::testing::FakeMeter** meter) : meter_(meter) {}
  std::string Name() const override { return "burning"; }
  void EmbedTokens(const EmbedTokensParams<float>& p) override {
    // Uneven, so that splitting leaves remainders.
    if (*meter_ != nullptr) (*meter_)->Add(1000003 + 7919 * static_cast<int64_t>(p.x.rows));
    ops_->EmbedTokens(p);
  }
  void RmsNorm(const RmsNormParams<float>& p) override { ops_->RmsNorm(p); }
  void RmsNormQuantize(const RmsNormQuantizeParams<float>& p) override { ops_->RmsNormQuantize(p); }
  void TernaryLinear(const TernaryLinearParams<float>& p) override { ops_->TernaryLinear(p); }
  void GatedLinear(const GatedLinearParams<float>& p) override { ops_->GatedLinear(p); }
  void DenseLinear(const DenseLinearParams<float>& p) override { ops_->DenseLinear(p); }
  void RotaryTable(const RotaryTableParams<float>& p) override { ops_->RotaryTable(p); }
  void RopeAppendKv(const RopeAppendKvParams<float>& p) override { ops_->RopeAppendKv(p); }
  void PagedAttention(const PagedAttentionParams<float>& p) override { ops_->PagedAttention(p); }
  void GatherRows(const GatherRowsParams<float>& p) override { ops_->GatherRows(p); }
  void Sample(const SampleOpParams<float>& p) override { ops_->Sample(p); }
  Status Finish() override {
    if (finishes_++ >= fail_after) return absl::InternalError("the device caught fire");
    return ops_->Finish();
  }

  int fail_after = 1 << 30;

 private:
  sterna::testing::FakeMeter** meter_;
  int finishes_ = 0;
  std::unique_ptr<Ops<float>> ops_ = *CreateCpuOps({.num_threads = 1});
};

TEST(EngineEnergyTest, RequestsIdleOverheadAndSettlementEqualTheMeter) {
  sterna::testing::FakeMeter* meter = nullptr;
  TinyEngineOptions options;
  options.engine.num_kv_blocks = 40;
  TinyEngine tiny(options, std::make_unique<BurningOps>(&meter));
  meter = &tiny.meter();
  const std::vector<Output> outputs = RunTogether(tiny, MixedRequests(32));
  tiny.Stop();
  const EnergyTotals energy = tiny.sums().energy;
  int64_t requests_nj = 0;
  for (const Output& output : outputs) {
    EXPECT_GT(output.end.usage.energy_nj, 0);
    EXPECT_EQ(output.end.usage.energy_method, "fake");
    requests_nj += output.end.usage.energy_nj;
  }
  EXPECT_EQ(requests_nj, energy.prefill_nj + energy.decode_nj);
  EXPECT_EQ(energy.prefill_nj + energy.decode_nj + energy.idle_nj + energy.overhead_nj +
                energy.settlement_nj,
            energy.meter_nj);
  EXPECT_EQ(energy.meter_nj, tiny.meter().nanojoules());
  EXPECT_LT(static_cast<double>(energy.overhead_nj), 0.05 * static_cast<double>(energy.meter_nj));
  EXPECT_GT(energy.prefill_nj, 0);
  EXPECT_GT(energy.decode_nj, 0);
}

TEST(EngineTest, ADeviceFailureEndsEveryRequestWithAnError) {
  sterna::testing::FakeMeter* meter = nullptr;
  auto ops = std::make_unique<BurningOps>(&meter);
  ops->fail_after = 10;
  TinyEngine tiny({}, std::move(ops));
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (int i = 0; i < 4; ++i) {
    StatusOr<std::shared_ptr<TokenStream>> stream = tiny.engine().Submit(Greedy(10, 100, i));
    if (stream.ok()) streams.push_back(*stream);
  }
  ASSERT_FALSE(streams.empty());
  for (const auto& stream : streams) {
    const Output output = ReadAll(*stream);
    EXPECT_EQ(output.end.reason, FinishReason::kFailed);
    EXPECT_NE(output.end.error.ToString().find("caught fire"), std::string::npos);
  }
  EXPECT_TRUE(tiny.engine().WaitUntilIdle(std::chrono::seconds(10)));
  EXPECT_FALSE(tiny.engine().healthy());
  EXPECT_EQ(ErrorLabelOf(tiny.engine().Submit(Greedy(10, 1)).status()), ErrorLabel::kInternal);
}

TEST(EngineTest, OptionsOutOfRangeAreNamed) {
  const ModelConfig config = sterna::testing::TinyConfig();
  const ModelWeights weights = MakeRandomWeights(config, 1, false);
  const std::unique_ptr<Ops<float>> ops = *CreateCpuOps({.num_threads = 1});
  auto model = Model<float>::Create(
      &config, &weights, ops.get(),
      {.tokens = 8, .logit_rows = 9, .sequences = 4, .context_tokens = kKvBlockTokens});
  ASSERT_TRUE(model.ok()) << model.status();
  sterna::testing::ByteTokenizer tokenizer;
  sterna::testing::FakeMeter meter;
  const auto create = [&](EngineOptions options) {
    return Engine::Create(options, &*model, &tokenizer, &meter, nullptr, &Clock::Steady()).status();
  };
  EXPECT_NE(create({.num_kv_blocks = 0}).ToString().find("num_kv_blocks"), std::string::npos);
  EXPECT_NE(create({.max_chunk_tokens = 0, .num_kv_blocks = 1}).ToString().find("max_chunk_tokens"),
            std::string::npos);
  EXPECT_NE(create({.max_step_prompt_tokens = -1, .num_kv_blocks = 1})
                .ToString()
                .find("max_step_prompt_tokens"),
            std::string::npos);
  EXPECT_NE(create({.max_scored_tokens = 0, .num_kv_blocks = 1}).ToString().find("max_scored"),
            std::string::npos);
  const EngineOptions fits = {
      .max_step_tokens = 8, .max_sequences = 4, .max_scored_tokens = 5, .num_kv_blocks = 1};
  EXPECT_TRUE(create(fits).ok()) << create(fits);
  for (int64_t EngineOptions::*option :
       {&EngineOptions::max_step_tokens, &EngineOptions::max_sequences,
        &EngineOptions::max_scored_tokens, &EngineOptions::num_kv_blocks}) {
    EngineOptions larger = fits;
    ++(larger.*option);
    EXPECT_FALSE(create(larger).ok());
  }
}

}  // namespace
}  // namespace sterna
