// From the bytes of an answer to a result: the event parser and the answer's reader.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "loadtest/prometheus_text.h"
#include "loadtest/prompts.h"
#include "loadtest/run.h"
#include "loadtest/sse_parser.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Events(const std::string& bytes, std::mt19937* random) {
  std::vector<std::string> events;
  SseParser parser([&](std::string_view data) { events.emplace_back(data); });
  size_t at = 0;
  while (at < bytes.size()) {
    const size_t size = random == nullptr ? bytes.size() : 1 + (*random)() % 7;
    parser.Feed(std::string_view(bytes).substr(at, size));
    at += size;
  }
  return events;
}

TEST(SseParserTest, GivesTheSameEventsHoweverTheBytesAreSplit) {
  const std::string bytes =
      ": a comment\n\ndata: {\"a\":1}\n\ndata:no space\r\n\r\nevent: x\nid: 1\ndata: two\n"
      "data: lines\n\rdata\n\ndatabase: no\n\ndata:  kept\r\rdata: [DONE]\n\ndata: not ended\n";
  const std::vector<std::string> expected = {"{\"a\":1}", "no space", "two\nlines",
                                             "",          " kept",    "[DONE]"};
  EXPECT_EQ(Events(bytes, nullptr), expected);
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(Events(bytes, &random), expected);
}

std::string Event(const std::string& json) { return "data: " + json + "\n\n"; }
std::string Text(const std::string& text) {
  return Event("{\"choices\":[{\"text\":\"" + text + "\"}],\"usage\":null}");
}
constexpr char kUsage[] =
    "{\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":4,"
    "\"energy_millijoules\":120,\"energy_method\":\"modelled\"}}";

TEST(AnswerReaderTest, MeasuresAStreamedCompletion) {
  AnswerReader reader;
  reader.Feed(Event("{\"choices\":[{\"text\":\"\"}],\"usage\":null}"), 0.5);
  reader.Feed(Text("a"), 1.0);
  reader.Feed(Text("b") + Text("c"), 1.5);
  reader.Feed(Event(kUsage) + Event("[DONE]"), 2.0);
  const RequestResult r = reader.Finish(200, 2.25);
  EXPECT_EQ(r.error, "");
  EXPECT_EQ(r.ttft_seconds, 1.0);
  EXPECT_EQ(r.e2e_seconds, 2.25);
  EXPECT_THAT(r.gaps_seconds, ElementsAre(0.5, 0.0));
  EXPECT_EQ(r.pieces, 3);
  EXPECT_EQ(r.prompt_tokens, 5);
  EXPECT_EQ(r.output_tokens, 4);
  EXPECT_EQ(r.energy_millijoules, 120);
  EXPECT_EQ(r.energy_method, "modelled");
}

TEST(AnswerReaderTest, ChatRolesAreNotTokens) {
  AnswerReader reader;
  reader.Feed(Event("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}"), 1);
  reader.Feed(Event("{\"choices\":[{\"delta\":{\"content\":\"hi\"}}]}"), 2);
  reader.Feed(Event("{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}"), 3);
  reader.Feed(Event(kUsage) + Event("[DONE]"), 4);
  const RequestResult r = reader.Finish(200, 4);
  EXPECT_TRUE(r.ok()) << r.error;
  EXPECT_EQ(r.ttft_seconds, 2);
  EXPECT_EQ(r.pieces, 1);
}

TEST(AnswerReaderTest, NamesEachKindOfFailure) {
  const auto error = [](int code, const std::string& bytes) {
    AnswerReader reader;
    reader.Feed(bytes, 1);
    return reader.Finish(code, 2).error;
  };
  EXPECT_EQ(error(429, "{\"error\":{\"message\":\"m\",\"code\":\"queue_full\"}}"),
            "http 429 queue_full");
  EXPECT_EQ(error(502, "<html>"), "http 502");
  EXPECT_EQ(error(400, "[1]"), "http 400");
  EXPECT_EQ(error(200, Text("a")), "stream without [DONE]");
  EXPECT_EQ(error(200, Text("a") + Event("[DONE]")), "stream without usage");
  EXPECT_EQ(error(200, Event("{\"error\":{\"code\":\"internal\"}}")), "error in stream internal");
  EXPECT_EQ(error(200, Event("{oops")), "malformed event");
  std::string many;
  for (int i = 0; i < 6; ++i) many += Text("x");
  EXPECT_EQ(error(200, many + Event(kUsage) + Event("[DONE]")), "more pieces of text than tokens");
}

TEST(PrometheusTextTest, ReadsSamplesAndAddsThemUp) {
  const MetricSamples samples = ParsePrometheusText(
      "# HELP a_total x\n# TYPE a_total counter\na_total{m=\"x y\",p=\"1\"} 2.5\n"
      "a_total{m=\"z\",p=\"2\"} 1e3 1700000000\nb 7\na_total_more 100\nrubbish\n\nc NaN-ish\n");
  EXPECT_EQ(samples.at("b"), 7);
  EXPECT_EQ(SumOfSamples(samples, "a_total"), 1002.5);
  EXPECT_EQ(SumOfSamples(samples, "a_total", "p=\"2\""), 1000);
  EXPECT_EQ(SumOfSamples(samples, "b"), 7);
  EXPECT_EQ(SumOfSamples(samples, "missing"), 0);
  EXPECT_EQ(samples.size(), 4u);
}

TEST(ParsePromptsTest, TakesTextAndJsonLines) {
  const auto prompts =
      ParsePrompts("plain \"text\"\n\n{\"prompt\": \"one\\ntwo\", \"id\": 3}\r\n\"quoted\"\n");
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  EXPECT_THAT(*prompts, ElementsAre("\"plain \\\"text\\\"\"", "\"one\\ntwo\"", "\"quoted\""));
  EXPECT_THAT(ParsePrompts("ok\n{\"text\": 1}\n").status().message(), HasSubstr("line 2"));
  EXPECT_THAT(ParsePrompts("{\"prompt\": 5}").status().message(), HasSubstr("line 1"));
  EXPECT_THAT(ParsePrompts("\n \n").status().message(), HasSubstr("holds no prompt"));
}

}  // namespace
}  // namespace sterna
