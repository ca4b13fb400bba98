#include "server/http/generation_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/errors.h"
#include "server/http/openai_response.h"
#include "tests/testing/tiny_model.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::ordered_json;

Usage SomeUsage(int64_t completion_tokens) {
  return {.prompt_tokens = 5,
          .completion_tokens = completion_tokens,
          .energy_nj = 1'700'000,
          .energy_method = "modelled"};
}

StreamUpdate Text(const std::string& text) {
  StreamUpdate update;
  for (const char c : text) {
    update.tokens.push_back(
        {.id = static_cast<uint8_t>(c), .logprob = -0.5f, .top = {{7, -0.25f}}});
  }
  update.text = text;
  return update;
}

StreamUpdate End(Completion completion) {
  StreamUpdate update;
  update.end = std::move(completion);
  return update;
}

class GenerationSourceTest : public ::testing::Test {
 protected:
  std::unique_ptr<HttpSource> Make(GenerationReplyOptions options, int choices = 1) {
    options.id = "id-1";
    options.model = "m";
    options.created_unix_seconds = 77;
    for (int i = 0; i < choices; ++i) streams_.push_back(std::make_shared<TokenStream>());
    return MakeGenerationSource(std::move(options), streams_, &tokenizer_);
  }
  // The JSON of every event but [DONE].
  static std::vector<Json> Events(const std::string& body) {
    std::vector<Json> events;
    size_t begin = 0;
    for (size_t end; (end = body.find("\n\n", begin)) != std::string::npos; begin = end + 2) {
      const std::string data = body.substr(begin + 6, end - begin - 6);
      if (data != "[DONE]") events.push_back(Json::parse(data));
    }
    return events;
  }

  testing::ByteTokenizer tokenizer_;
  std::vector<std::shared_ptr<TokenStream>> streams_;
};

TEST_F(GenerationSourceTest, WholeAnswerWaitsForTheEnd) {
  const auto source = Make({.logprobs = true});
  EXPECT_TRUE(source->Take().empty());
  streams_[0]->Push(Text("ab"));
  EXPECT_TRUE(source->Take().empty());
  streams_[0]->Push(
      End({.reason = FinishReason::kStop, .stop_string = "X", .usage = SomeUsage(2)}));
  const HttpPart part = source->Take();
  ASSERT_TRUE(part.head.has_value() && part.end && part.complete);
  EXPECT_EQ(part.head->code, 200);
  const Json body = Json::parse(part.body);
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["choices"][0]["text"], "ab");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(body["choices"][0]["stop_reason"], "X");
  EXPECT_EQ(body["choices"][0]["logprobs"]["text_offset"], Json({0, 1}));
  EXPECT_EQ(body["usage"]["total_tokens"], 7);
  EXPECT_EQ(body["usage"]["energy_millijoules"], 2);
  EXPECT_TRUE(source->Take().empty());
}

StreamUpdate Prompt(const std::string& text) {
  StreamUpdate update = Text(text);
  update.prompt_logprobs = std::move(update.tokens);
  return {.prompt_logprobs = std::move(update.prompt_logprobs)};
}

// BOS, "\xc3\xbc" (a character of two tokens) and "b"; then "c" is drawn.
TEST_F(GenerationSourceTest, EchoBeginsWithThePromptWholeOrStreamed) {
  const std::vector<int32_t> prompt = {256, 0xc3, 0xbc, 'b'};
  for (const bool stream : {false, true}) {
    streams_.clear();
    const auto source = Make({.stream = stream, .logprobs = true, .echo = {prompt}});
    std::string body;
    const auto take = [&] {
      HttpPart part = source->Take();
      body += part.body;
      return part;
    };
    EXPECT_EQ(take().body, "");
    streams_[0]->Push(Prompt("\xc3"));
    EXPECT_EQ(take().body.empty(), !stream);
    streams_[0]->Push(
        Prompt("\xbc"
               "b"));
    EXPECT_EQ(take().body.empty(), !stream);
    streams_[0]->Push(Text("c"));
    streams_[0]->Push(End({.reason = FinishReason::kLength, .usage = SomeUsage(1)}));
    EXPECT_TRUE(take().end);
    const std::vector<Json> events = stream ? Events(body) : std::vector{Json::parse(body)};
    EXPECT_EQ(events.size(), stream ? 3u : 1u);
    std::string text;
    Json logprobs = Json::object();
    for (const Json& event : events) {
      text += event["choices"][0]["text"].get<std::string>();
      for (const auto& [name, values] : event["choices"][0]["logprobs"].items()) {
        for (const Json& value : values) logprobs[name].push_back(value);
      }
    }
    EXPECT_EQ(text,
              "\xc3\xbc"
              "bc");
    EXPECT_EQ(logprobs["tokens"], Json({"<s>", "bytes:\\xc3", "bytes:\\xbc", "b", "c"}));
    EXPECT_EQ(logprobs["token_logprobs"], Json({nullptr, -0.5, -0.5, -0.5, -0.5}));
    EXPECT_EQ(logprobs["text_offset"], Json({0, 0, 0, 1, 2}));
    EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
    EXPECT_EQ(logprobs["top_logprobs"].size(), 5u);
    EXPECT_EQ(logprobs["top_logprobs"][1].begin().value(), -0.25);
  }
}

TEST_F(GenerationSourceTest, EveryChoiceEchoesItsOwnPromptWithoutLogprobsToo) {
  const auto source = Make({.choices_per_prompt = 2, .echo = {{'a', 'b'}, {'c'}}}, 4);
  for (const auto& stream : streams_) {
    stream->Push(End({.reason = FinishReason::kLength, .usage = SomeUsage(0)}));
  }
  const Json body = Json::parse(source->Take().body);
  std::vector<std::string> texts;
  for (const Json& choice : body["choices"]) {
    texts.push_back(choice["text"]);
    EXPECT_TRUE(choice["logprobs"].is_null());
  }
  EXPECT_THAT(texts, ::testing::ElementsAre("ab", "ab", "c", "c"));
}

TEST_F(GenerationSourceTest, ChatStreamHasRoleThenTextThenUsage) {
  const auto source = Make({.chat = true, .stream = true, .include_usage = true});
  std::string body = source->Take().body;
  streams_[0]->Push(Text("a"));
  body += source->Take().body;
  streams_[0]->Push(Text("b"));
  streams_[0]->Push(End({.reason = FinishReason::kLength, .usage = SomeUsage(2)}));
  const HttpPart last = source->Take();
  EXPECT_TRUE(last.end && !last.close);
  body += last.body;
  EXPECT_THAT(body, ::testing::EndsWith("data: [DONE]\n\n"));
  const std::vector<Json> events = Events(body);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0]["choices"][0]["delta"], Json({{"role", "assistant"}, {"content", ""}}));
  EXPECT_EQ(events[1]["choices"][0]["delta"], Json({{"content", "a"}}));
  EXPECT_EQ(events[2]["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(events[2]["usage"].is_null());
  EXPECT_EQ(events[3]["choices"], Json::array());
  EXPECT_EQ(events[3]["usage"]["completion_tokens"], 2);
}

TEST_F(GenerationSourceTest, TokensWithoutTextMakeNoEventUnlessLogprobsDo) {
  StreamUpdate held;
  held.tokens = {{.id = 0xe2, .logprob = -1.0f, .top = {}}};
  {
    const auto source = Make({.stream = true});
    source->Take();
    streams_[0]->Push(held);
    EXPECT_TRUE(source->Take().empty());
  }
  streams_.clear();
  const auto source = Make({.chat = true, .stream = true, .logprobs = true});
  source->Take();
  streams_[0]->Push(held);
  const std::vector<Json> events = Events(source->Take().body);
  ASSERT_EQ(events.size(), 1u);
  const Json& entry = events[0]["choices"][0]["logprobs"]["content"][0];
  EXPECT_EQ(entry["token"], "bytes:\\xe2");
  EXPECT_EQ(entry["bytes"], Json({0xe2}));
}

TEST_F(GenerationSourceTest, FailureInMidStreamIsAnErrorEventAndEndsAll) {
  const auto source = Make({.stream = true}, 2);
  streams_[0]->Push(Text("a"));
  std::string body = source->Take().body;
  streams_[1]->Push(End({.reason = FinishReason::kFailed,
                         .error = MakeError(ErrorLabel::kInternal, "the device is lost")}));
  const HttpPart part = source->Take();
  EXPECT_TRUE(part.end && part.close);
  EXPECT_THAT(part.body, Not(HasSubstr("[DONE]")));
  const std::vector<Json> events = Events(part.body);
  EXPECT_EQ(events.back()["error"]["message"], "the device is lost");
  EXPECT_EQ(events.back()["error"]["code"], "internal");
  EXPECT_TRUE(streams_[0]->cancelled());
}

TEST_F(GenerationSourceTest, FailureBeforeTheHeadIsAnHttpError) {
  const auto source = Make({});
  streams_[0]->Push(End({.reason = FinishReason::kCancelled,
                         .error = MakeError(ErrorLabel::kCancelled, "shut down")}));
  const HttpPart part = source->Take();
  ASSERT_TRUE(part.head.has_value() && part.complete);
  EXPECT_EQ(part.head->code, 503);
}

TEST_F(GenerationSourceTest, DestroyedBeforeTheEndItCancels) {
  auto source = Make({.stream = true}, 2);
  int ready = 0;
  source->SetReadyCallback([&ready] { ++ready; });
  streams_[0]->Push(Text("a"));
  EXPECT_EQ(ready, 1);
  streams_[1]->Push(End({.reason = FinishReason::kStop, .usage = SomeUsage(0)}));
  source->Take();
  source.reset();
  EXPECT_TRUE(streams_[0]->cancelled());
  EXPECT_FALSE(streams_[1]->cancelled());
  const int before = ready;
  streams_[0]->Push(Text("b"));
  EXPECT_EQ(ready, before);
}

TEST(OpenAiResponse, EveryLabelHasACode) {
  const std::vector<std::pair<ErrorLabel, int>> kCodes = {{ErrorLabel::kInvalidRequest, 400},
                                                          {ErrorLabel::kModelNotFound, 404},
                                                          {ErrorLabel::kContextLengthExceeded, 400},
                                                          {ErrorLabel::kQueueFull, 429},
                                                          {ErrorLabel::kDraining, 503},
                                                          {ErrorLabel::kLoading, 503},
                                                          {ErrorLabel::kCancelled, 503},
                                                          {ErrorLabel::kInternal, 500}};
  for (const auto& [label, code] : kCodes) {
    const HttpResponse response = ErrorResponse(MakeError(label, "m", "p"));
    EXPECT_EQ(response.code, code) << ErrorLabelName(label);
    const Json error = Json::parse(response.body)["error"];
    EXPECT_EQ(error["code"], std::string(ErrorLabelName(label)));
    EXPECT_EQ(error["param"], "p");
    bool retry = false;
    for (const auto& [name, value] : response.headers) retry = retry || name == "Retry-After";
    EXPECT_EQ(retry, code == 429 || code == 503);
  }
}

TEST(OpenAiResponse, UsageCountsASharedPromptOnce) {
  const Json usage = UsageBody({SomeUsage(3), SomeUsage(4), SomeUsage(5), SomeUsage(6)}, 2);
  EXPECT_EQ(usage["prompt_tokens"], 10);
  EXPECT_EQ(usage["completion_tokens"], 18);
  EXPECT_EQ(usage["energy_millijoules"], 7);  // 6.8, rounded after adding up
}

}  // namespace
}  // namespace sterna
