// Logprobs of prompt tokens: what they are, and that they come once, in order and with the same
// bits however steps are scheduled.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/testing/all_logits.h"
#include "tests/testing/mixed_requests.h"
#include "tests/testing/separate_memory_ops.h"
#include "tests/testing/tiny_model.h"

namespace sterna {
namespace {

using ::sterna::testing::AllLogits;
using ::sterna::testing::ExpectSameBits;
using ::sterna::testing::Greedy;
using ::sterna::testing::Output;
using ::sterna::testing::Prompt;
using ::sterna::testing::ReadAll;
using ::sterna::testing::RunAlone;
using ::sterna::testing::RunTogether;
using ::sterna::testing::SeparateMemoryOps;
using ::sterna::testing::TinyConfig;
using ::sterna::testing::TinyEngine;
using ::sterna::testing::TinyEngineOptions;

Request Scored(int64_t prompt_length, int32_t max_tokens, int32_t num_prompt_logprobs,
               int32_t salt = 0) {
  Request request = Greedy(prompt_length, max_tokens, salt);
  request.sampling.num_prompt_logprobs = num_prompt_logprobs;
  return request;
}

Output Answer(TinyEngine& tiny, const Request& request) {
  return ReadAll(**tiny.engine().Submit(request));
}

// Of the model's own logits, in double.
TEST(PromptLogprobsTest, AreTheModelsOwn) {
  const ModelConfig config = TinyConfig();
  const ModelWeights weights = MakeRandomWeights(config, 1, /*sub_norms=*/false);
  const std::unique_ptr<Ops<float>> ops = *CreateCpuOps({.num_threads = 1});
  const Request request = Scored(100, 3, 4);
  const std::vector<float> logits =
      AllLogits<float>(config, weights, *ops, request.prompt, KvType::kF16);
  TinyEngine tiny;
  const Output output = Answer(tiny, request);
  ASSERT_EQ(output.prompt_logprobs.size(), 99u);
  EXPECT_EQ(output.tokens.size(), 3u);
  for (size_t i = 0; i < output.prompt_logprobs.size(); ++i) {
    const OutputToken& token = output.prompt_logprobs[i];
    const auto row = logits.begin() + static_cast<int64_t>(i) * config.vocab_size;
    std::vector<double> sorted(row, row + config.vocab_size);
    double total = 0;
    for (const double logit : sorted) total += std::exp(logit);
    ASSERT_EQ(token.id, request.prompt[i + 1]) << "token " << i + 1;
    EXPECT_NEAR(token.logprob, row[token.id] - std::log(total), 1e-4);
    std::sort(sorted.rbegin(), sorted.rend());
    ASSERT_EQ(token.top.size(), 4u);
    for (size_t k = 0; k < 4; ++k) {
      EXPECT_EQ(row[token.top[k].token], static_cast<float>(sorted[k]));
      EXPECT_NEAR(token.top[k].logprob, sorted[k] - std::log(total), 1e-4);
    }
  }
}

// A text that was drawn and the same text given as a prompt have the same bits.
TEST(PromptLogprobsTest, EqualThoseOfTheSameTokensWhenTheyWereDrawn) {
  TinyEngine tiny;
  Request request = Greedy(20, 60);
  request.sampling.temperature = 1.0f;
  request.sampling.num_logprobs = 2;
  const Output drawn = Answer(tiny, request);
  for (const OutputToken& token : drawn.tokens) request.prompt.push_back(token.id);
  request.sampling.num_prompt_logprobs = 2;
  request.stop.max_tokens = 1;
  const Output scored = Answer(tiny, request);
  ASSERT_EQ(scored.prompt_logprobs.size(), 79u);
  const std::vector<OutputToken> same(scored.prompt_logprobs.begin() + 19,
                                      scored.prompt_logprobs.end());
  ExpectSameBits(drawn.tokens, same, "drawn");
}

TEST(PromptLogprobsTest, AskedForOrNotTheOutputIsTheSame) {
  TinyEngine tiny;
  for (const int64_t length : {1, 2, 17, 150}) {
    const Output without = Answer(tiny, Greedy(length, 10));
    const Output with = Answer(tiny, Scored(length, 10, 0));
    EXPECT_TRUE(without.prompt_logprobs.empty());
    EXPECT_EQ(std::ssize(with.prompt_logprobs), length - 1);
    ExpectSameBits(without.tokens, with.tokens, "output");
    EXPECT_EQ(with.end.usage.prompt_tokens, length);
    EXPECT_EQ(with.end.usage.completion_tokens, 10);
  }
}

TEST(PromptLogprobsTest, ARequestMayWantNoOutputAtAll) {
  TinyEngine tiny;
  for (const int32_t num_prompt_logprobs : {-1, 0, 3}) {
    for (const int64_t length : {1, 2, 100}) {
      const Output output = Answer(tiny, Scored(length, 0, num_prompt_logprobs));
      EXPECT_EQ(std::ssize(output.prompt_logprobs), num_prompt_logprobs < 0 ? 0 : length - 1);
      EXPECT_TRUE(output.tokens.empty());
      EXPECT_EQ(output.text, "");
      EXPECT_EQ(output.end.reason, FinishReason::kLength);
      EXPECT_EQ(output.end.usage.prompt_tokens, length);
      EXPECT_EQ(output.end.usage.completion_tokens, 0);
    }
  }
  tiny.Stop();
  EXPECT_EQ(tiny.sums().output_tokens, 0);
  EXPECT_EQ(tiny.sums().ttft_count, 0);
  EXPECT_EQ(tiny.sums().finished, 9);
}

TEST(PromptLogprobsTest, APromptMayFillTheContextWhereNothingFollows) {
  TinyEngine tiny;
  EXPECT_EQ(Answer(tiny, Scored(512, 0, 0)).prompt_logprobs.size(), 511u);
  EXPECT_EQ(ErrorLabelOf(tiny.engine().Submit(Scored(512, 1, 0)).status()),
            ErrorLabel::kContextLengthExceeded);
  EXPECT_EQ(ErrorLabelOf(tiny.engine().Submit(Scored(5, -1, 0)).status()),
            ErrorLabel::kInvalidRequest);
}

// The rest of them is the same.
TEST(PromptLogprobsTest, MayBeginAnywhereInThePrompt) {
  TinyEngine tiny;
  Request request = Scored(100, 2, 1);
  const Output all = Answer(tiny, request);
  for (const int32_t from : {1, 2, 50, 99, 100, 1000}) {
    request.sampling.prompt_logprobs_from = from;
    const Output some = Answer(tiny, request);
    const auto first = all.prompt_logprobs.begin() + std::min(from - 1, 99);
    ExpectSameBits({first, all.prompt_logprobs.end()}, some.prompt_logprobs, "the rest");
    ExpectSameBits(all.tokens, some.tokens, "output");
  }
  request.sampling.prompt_logprobs_from = 0;
  EXPECT_EQ(ErrorLabelOf(tiny.engine().Submit(request).status()), ErrorLabel::kInvalidRequest);
}

// Some scored and some not, of all lengths.
std::vector<Request> ScoredRequests() {
  std::vector<Request> requests;
  for (int i = 0; i < 24; ++i) {
    Request& request = requests.emplace_back(
        Scored(1 + i * 53 % 190, i % 3 == 0 ? 0 : 1 + i * 29 % 60, i % 4 == 3 ? -1 : i % 3, i));
    request.sampling.num_logprobs = i % 2 - 1;
    request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
    request.sampling.seed = static_cast<uint64_t>(i);
    if (i % 5 == 0) request.sampling.repetition_penalty = 1.2f;
    if (i % 5 == 1) request.sampling.prompt_logprobs_from = 1 + 7 * i;
  }
  return requests;
}

std::unique_ptr<Ops<float>> Plain() { return *CreateCpuOps({.num_threads = 2}); }
std::unique_ptr<Ops<float>> Ahead() { return std::make_unique<SeparateMemoryOps<float>>(Plain()); }

TEST(PromptLogprobsTest, AreTheSameBitsHoweverStepsAreScheduled) {
  const std::vector<Request> requests = ScoredRequests();
  TinyEngine reference({}, Plain());
  const std::vector<Output> alone = RunAlone(reference, requests);
  for (const bool ahead : {false, true}) {
    const auto ops = [&] { return ahead ? Ahead() : Plain(); };
    const std::string name = ahead ? "ahead, " : "one by one, ";
    for (const int64_t scored : {1, 5, 512}) {
      TinyEngineOptions options;
      options.engine.max_scored_tokens = scored;
      TinyEngine tiny(options, ops());
      ExpectSameBits(alone, RunTogether(tiny, requests),
                     name + std::to_string(scored) + " scored tokens");
      EXPECT_GT(tiny.sums().most_running, 2) << "the requests did not run together";
    }
    for (const int64_t chunk : {1, 7}) {
      TinyEngineOptions options;
      options.engine.max_chunk_tokens = chunk;
      options.engine.max_step_prompt_tokens = 40;
      TinyEngine tiny(options, ops());
      ExpectSameBits(alone, RunTogether(tiny, requests),
                     name + "chunks of " + std::to_string(chunk));
    }
    TinyEngineOptions small;
    small.engine.num_kv_blocks = 16;  // the longest request alone takes 15
    TinyEngine tiny(small, ops());
    ExpectSameBits(alone, RunTogether(tiny, requests), name + "small cache");
    EXPECT_GT(tiny.sums().recomputed_tokens, 0) << "no sequence was preempted";
  }
}

// A sequence that is thrown out with half of its prompt told of, and begins again.
TEST(PromptLogprobsTest, ComeOnceWhenAPromptIsRecomputed) {
  for (const bool ahead : {false, true}) {
    std::vector<Request> requests = {Greedy(10, 150), Scored(150, 5, 1, 1)};
    TinyEngine reference({}, Plain());
    const std::vector<Output> alone = RunAlone(reference, requests);
    TinyEngineOptions options;
    options.engine.num_kv_blocks = 12;  // the first will need the blocks of the second
    options.engine.max_scored_tokens = 1;
    TinyEngine tiny(options, ahead ? Ahead() : Plain());
    ExpectSameBits(alone, RunTogether(tiny, requests), ahead ? "ahead" : "one by one");
    tiny.Stop();
    EXPECT_GT(tiny.sums().recomputed_tokens, 20) << "the prompt was not half told of";
    EXPECT_EQ(tiny.sums().kv_blocks_used, 0);
  }
}

TEST(PromptLogprobsTest, ComeBeforeTheirRequestEnds) {
  TinyEngineOptions options;
  options.engine.max_scored_tokens = 10;
  TinyEngine tiny(options);
  // This thread may be too late to see the first of them by themselves, but not every time.
  bool early = false;
  for (int attempt = 0; attempt < 100 && !early; ++attempt) {
    const std::shared_ptr<TokenStream> stream = *tiny.engine().Submit(Scored(300, 2, 0));
    const StreamUpdate first = stream->WaitAndTake();
    early = !first.prompt_logprobs.empty() && first.prompt_logprobs.size() < 299u;
    stream->Cancel();
    if (!first.end) ReadAll(*stream);
  }
  EXPECT_TRUE(early) << "they are kept back until all are there";
}

TEST(PromptLogprobsTest, AShortlistChangesNothing) {
  std::vector<Request> requests;
  for (int i = 0; i < 8; ++i) requests.push_back(Scored(5 + 20 * i, 4, i % 2 - (i % 3 == 0), i));
  TinyEngine reference;
  const std::vector<Output> without = RunAlone(reference, requests);
  TinyEngineOptions options;
  options.head.shortlist = ShortlistUse::kOn;
  TinyEngine alone(options), together(options);
  ExpectSameBits(without, RunAlone(alone, requests), "alone");
  ExpectSameBits(without, RunTogether(together, requests), "together");
}

}  // namespace
}  // namespace sterna
