#include "server/http/json_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/errors.h"
#include "server/http/openai_request.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;

std::string ParseError(const std::string& text) {
  const auto object = ParseJsonObject(text);
  EXPECT_FALSE(object.ok()) << text.substr(0, 100);
  EXPECT_EQ(ErrorLabelOf(object.status()), ErrorLabel::kInvalidRequest);
  return std::string(object.status().message());
}

std::string Nested(int depth) {
  return absl::StrCat("{\"a\":", std::string(depth - 1, '['), std::string(depth - 1, ']'), "}");
}

TEST(ParseJsonObject, Limits) {
  EXPECT_TRUE(ParseJsonObject(Nested(kMaxJsonDepth)).ok());
  EXPECT_THAT(ParseError(Nested(kMaxJsonDepth + 1)), HasSubstr("deeper than 64"));
  EXPECT_THAT(ParseError(std::string(1 << 20, '[')), HasSubstr("deeper than 64"));
  std::string members;
  for (int i = 0; i < kMaxJsonMembers; ++i) absl::StrAppend(&members, "\"", i, "\":0,");
  EXPECT_TRUE(ParseJsonObject(absl::StrCat("{", members.substr(0, members.size() - 1), "}")).ok());
  EXPECT_THAT(ParseError(absl::StrCat("{", members, "\"x\":0}")), HasSubstr("1024 members"));
}

TEST(ParseJsonObject, RefusesWhatIsNoJsonObject) {
  EXPECT_THAT(ParseError(""), HasSubstr("no valid JSON"));
  EXPECT_THAT(ParseError("{\"a\": }"), HasSubstr("byte 7"));
  EXPECT_THAT(ParseError("{} {}"), HasSubstr("no valid JSON"));
  EXPECT_THAT(ParseError("3"), HasSubstr("is an integer; it must be a JSON object"));
  EXPECT_THAT(ParseError("{\"a\": \"\xff\"}"), HasSubstr("UTF-8"));
  EXPECT_THAT(ParseError("{\"a\": NaN}"), HasSubstr("no valid JSON"));
  EXPECT_THAT(ParseError("{\"a\": 1, \"b\": {\"a\": 1}, \"a\": 2}"), HasSubstr("'a' stands twice"));
}

TEST(JsonObjectReader, TypesAndPaths) {
  const auto object = nlohmann::ordered_json::parse(
      R"({"i": 3, "f": 1.5, "s": "x", "b": true, "n": null, "big": 18446744073709551615,
          "list": [1, "x"]})");
  const auto error = [&object](auto* out, const char* name) {
    JsonObjectReader reader(object, "outer");
    reader.Read(name, out);
    for (const auto& [key, value] : object.items()) reader.Get(key);
    const Status status = reader.Finish();
    EXPECT_EQ(ErrorParamOf(status), status.ok() ? "" : absl::StrCat("outer.", name)) << status;
    return std::string(status.message());
  };
  std::optional<int64_t> i;
  std::optional<double> f;
  std::optional<std::string> s;
  std::optional<bool> b;
  EXPECT_EQ(error(&i, "i"), "");
  EXPECT_EQ(i, 3);
  EXPECT_EQ(error(&f, "i"), "");
  EXPECT_EQ(f, 3.0);
  EXPECT_EQ(error(&s, "s"), "");
  EXPECT_EQ(error(&b, "b"), "");
  EXPECT_EQ(error(&b, "missing"), "");
  std::optional<int64_t> absent;
  EXPECT_EQ(error(&absent, "n"), "");
  EXPECT_FALSE(absent.has_value());
  EXPECT_EQ(error(&i, "f"), "outer.f is a number; it must be an integer");
  EXPECT_EQ(error(&f, "s"), "outer.s is a string; it must be a number");
  EXPECT_EQ(error(&s, "i"), "outer.i is an integer; it must be a string");
  EXPECT_EQ(error(&b, "i"), "outer.i is an integer; it must be a boolean");
  EXPECT_THAT(error(&i, "big"), HasSubstr("out of range"));
}

TEST(JsonObjectReader, UnknownMembersAreNamed) {
  const auto object = nlohmann::ordered_json::parse(R"({"temprature": 1})");
  JsonObjectReader reader(object, "");
  std::optional<double> temperature;
  reader.Read("temperature", &temperature);
  EXPECT_EQ(std::string(reader.Finish().message()),
            "temprature is no field of this request; did you mean temperature?");
}

TEST(OpenAiRequest, ChatKeepsOrderAndJoinsParts) {
  const StatusOr<ChatCall> call = ReadChatCall(R"({
      "messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
                                                {"type": "text", "text": "b"}], "name": "z"}],
      "tools": [{"type": "function", "function": {"name": "f", "b": 1, "a": 2}}],
      "chat_template_kwargs": {"enable_thinking": false},
      "max_completion_tokens": 9, "seed": -1})");
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->input.messages_json, R"([{"role":"user","content":"ab","name":"z"}])");
  EXPECT_EQ(call->input.tools_json, R"([{"type":"function","function":{"name":"f","b":1,"a":2}}])");
  EXPECT_EQ(call->input.extra_json.at("enable_thinking"), "false");
  EXPECT_EQ(call->options.parameters.max_tokens, 9);
  EXPECT_EQ(call->options.parameters.seed, UINT64_MAX);
  EXPECT_FALSE(call->add_special_tokens);
}

TEST(OpenAiRequest, PromptsInAllFourForms) {
  const auto prompts = [](const std::string& json) {
    const StatusOr<CompletionCall> call =
        ReadCompletionCall(absl::StrCat("{\"prompt\":", json, "}"));
    EXPECT_TRUE(call.ok()) << json << call.status();
    return call->prompts;
  };
  using Ids = std::vector<int64_t>;
  EXPECT_EQ(prompts(R"("a")"), std::vector<PromptInput>{"a"});
  EXPECT_EQ(prompts(R"(["a", "b"])"), (std::vector<PromptInput>{"a", "b"}));
  EXPECT_EQ(prompts("[1, 2]"), std::vector<PromptInput>{Ids({1, 2})});
  EXPECT_EQ(prompts(R"([[1], "b"])"), (std::vector<PromptInput>{Ids{1}, "b"}));
}

TEST(OpenAiRequest, TooManyChoices) {
  std::string prompts = "[\"a\"";
  for (int i = 0; i < 10; ++i) prompts += ",\"a\"";
  const Status status =
      ReadCompletionCall(absl::StrCat("{\"n\":8,\"prompt\":", prompts, "]}")).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("makes 88 choices; at most 64"));
}

}  // namespace
}  // namespace sterna
