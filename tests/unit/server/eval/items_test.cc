#include "server/eval/items.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/testing/tiny_model.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<EvalItem> Read(std::string_view text, int64_t limit = 0) {
  StatusOr<std::vector<EvalItem>> items = ReadItems(text, "f", limit);
  EXPECT_TRUE(items.ok()) << items.status();
  return items.ok() ? *std::move(items) : std::vector<EvalItem>();
}

TEST(ReadItems, LinesOfEveryConvention) {
  const auto items = Read(
      "{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 1, \"other\": 5}\n"
      "\n"
      "{\"prompt\": \"p\", \"options\": [\" A\"], \"input_label\": 0}");
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0].context, "q");
  EXPECT_THAT(items[0].choices, ElementsAre("a", "b"));
  EXPECT_EQ(items[0].gold, 1u);
  EXPECT_EQ(items[1].context, "p");
  EXPECT_THAT(items[1].choices, ElementsAre(" A"));
  const auto words = Read("{\"context\": \"c\", \"continuation\": \"w\"}\r\n");
  ASSERT_EQ(words.size(), 1u);
  EXPECT_THAT(words[0].choices, ElementsAre("w"));
  EXPECT_FALSE(words[0].gold.has_value());
}

TEST(ReadItems, SamplesOfOneObjectAndALimit) {
  const std::string item = "{\"prompt\": \"p\", \"continuation\": \"w\"}";
  const std::string samples = "{\n\"samples\": [\n" + item + ",\n" + item + "]}";
  EXPECT_EQ(Read(samples).size(), 2u);
  EXPECT_EQ(Read(samples, 1).size(), 1u);
  EXPECT_EQ(Read(item + "\n" + item + "\nno JSON", 2).size(), 2u) << "what follows is not read";
}

TEST(ReadItems, SaysWhereAndWhatIsWrong) {
  const struct {
    std::string text;
    std::string words;
  } kCases[] = {
      {"", "f: has no items"},
      {"\n\nnonsense", "f:3"},
      {"[1]", "f:1"},
      {"{\"choices\": [\"a\"], \"gold\": 0}", "f:1: has no context"},
      {"{\"query\": 5, \"choices\": [\"a\"], \"gold\": 0}", "has no context"},
      {"{\"query\": \"q\"}", "one of them"},
      {"{\"query\": \"q\", \"choices\": [\"a\"], \"gold\": 0, \"continuation\": \"w\"}",
       "one of them"},
      {"{\"query\": \"q\", \"choices\": [], \"gold\": 0}", "at least one"},
      {"{\"query\": \"q\", \"choices\": [\"\"], \"gold\": 0}", "one character"},
      {"{\"query\": \"q\", \"choices\": [\"a\", 2], \"gold\": 0}", "is no text"},
      {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"]}", "0 to 1"},
      {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": 2}", "0 to 1"},
      {"{\"query\": \"q\", \"choices\": [\"a\", \"b\"], \"gold\": -1}", "0 to 1"},
      {"{\"query\": \"q\", \"continuation\": \"w\"}\n"
       "{\"query\": \"q\", \"choices\": [\"a\"], \"gold\": 0}",
       "f:2: is of another kind"},
      {"{\"samples\": [{\"query\": \"q\"}]}", "f: samples[0]"},
  };
  for (const auto& c : kCases) {
    const auto items = ReadItems(c.text, "f", 0);
    EXPECT_EQ(items.status().code(), absl::StatusCode::kInvalidArgument) << c.text;
    EXPECT_THAT(std::string(items.status().message()), HasSubstr(c.words));
  }
}

std::vector<ScoringPrompt> Encode(const std::string& context, std::vector<std::string> choices,
                                  bool add_special = true, int64_t most_tokens = 100) {
  const testing::ByteTokenizer tokenizer;
  StatusOr<std::vector<ScoringPrompt>> prompts = EncodeItem(
      tokenizer, {.context = context, .choices = std::move(choices)}, add_special, most_tokens);
  EXPECT_TRUE(prompts.ok()) << prompts.status();
  return prompts.ok() ? *std::move(prompts) : std::vector<ScoringPrompt>(1);
}

TEST(EncodeItem, OneSpaceJoinsUnlessThereIsOne) {
  const auto prompts = Encode("q", {"a", " b", "\nc"});
  ASSERT_EQ(prompts.size(), 3u);
  EXPECT_THAT(prompts[0].tokens, ElementsAre(256, 'q', ' ', 'a'));
  EXPECT_THAT(prompts[1].tokens, ElementsAre(256, 'q', ' ', 'b'));
  EXPECT_THAT(prompts[2].tokens, ElementsAre(256, 'q', ' ', '\n', 'c'));
  for (const ScoringPrompt& prompt : prompts) EXPECT_EQ(prompt.first_scored, 2);
  const ScoringPrompt without = Encode("q", {"a"}, /*add_special=*/false)[0];
  EXPECT_THAT(without.tokens, ElementsAre('q', ' ', 'a'));
  EXPECT_EQ(without.first_scored, 1);
}

TEST(EncodeItem, WhiteSpaceAtTheEndIsScoredWithTheChoice) {
  const ScoringPrompt prompt = Encode("q \n\xc2\xa0", {"a"})[0];  // a no-break space
  EXPECT_THAT(prompt.tokens, ElementsAre(256, 'q', ' ', '\n', 0xc2, 0xa0, ' ', 'a'));
  EXPECT_EQ(prompt.first_scored, 2);
}

TEST(EncodeItem, LosesItsBeginning) {
  const ScoringPrompt prompt = Encode("abcdef", {"xy"}, true, 5)[0];
  EXPECT_THAT(prompt.tokens, ElementsAre('e', 'f', ' ', 'x', 'y'));
  EXPECT_EQ(prompt.first_scored, 2);
  const testing::ByteTokenizer tokenizer;
  const auto none = EncodeItem(tokenizer, {.context = "abc", .choices = {"xyz"}}, true, 4);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("of 4 in all"));
  const auto empty = EncodeItem(tokenizer, {.context = "", .choices = {"x"}}, false, 50);
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr("the context has 0 tokens"));
  EXPECT_EQ(Encode("", {"x"})[0].first_scored, 1) << "BOS is context enough";
}

PromptScore Score(double log_likelihood, bool is_greedy = false) {
  return {.log_likelihood = log_likelihood, .num_tokens = 1, .is_greedy = is_greedy};
}

TEST(Judge, ChoicesByTheirLikelihoodPlainAndByLength) {
  const EvalItem item = {.context = "", .choices = {"ab", "\xc3\xbc", "abcdefgh"}, .gold = 0};
  std::vector<EvalItem> items(3, item);
  items[1].gold = 1;
  items[2].gold = 2;
  // By characters -2, -3, -1; by bytes -2, -1.5, -1; plain the first two are equal.
  const std::vector<PromptScore> one = {Score(-3), Score(-3), Score(-8)};
  std::vector<PromptScore> scores;
  for (int i = 0; i < 3; ++i) scores.insert(scores.end(), one.begin(), one.end());
  const ChoiceFigures figures = JudgeChoices(items, scores);
  EXPECT_NEAR(figures.acc, 1.0 / 3, 1e-12) << "of equals the first";
  EXPECT_NEAR(figures.acc_norm, 1.0 / 3, 1e-12);
  EXPECT_NEAR(figures.acc_bytes, 1.0 / 3, 1e-12);
  const std::vector<EvalItem> first(1, items[0]), second(1, items[1]), third(1, items[2]);
  EXPECT_EQ(JudgeChoices(first, one).acc, 1);
  EXPECT_EQ(JudgeChoices(second, one).acc, 0);
  EXPECT_EQ(JudgeChoices(third, one).acc_norm, 1);
  const std::vector<PromptScore> other = {Score(-3.5), Score(-3), Score(-17)};
  // By characters -1.75, -3, -2.1; by bytes -1.75, -1.5, -2.1.
  EXPECT_EQ(JudgeChoices(first, other).acc_norm, 1);
  EXPECT_EQ(JudgeChoices(second, other).acc_bytes, 1);
}

TEST(Judge, ContinuationsByGreedyDecodingAndPerplexity) {
  const std::vector<PromptScore> scores = {Score(-1, true), Score(-2), Score(-3), Score(-6)};
  const ContinuationFigures figures = JudgeContinuations(scores);
  EXPECT_EQ(figures.acc, 0.25);
  EXPECT_NEAR(figures.perplexity, std::exp(3.0), 1e-12);
  EXPECT_NEAR(StandardError(0.25, 4), 0.25, 1e-12);
  EXPECT_EQ(StandardError(1, 1), 0);
}

}  // namespace
}  // namespace sterna
