#include "engine/text/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <vector>

namespace sterna {
namespace {

StatusOr<PreTokenizer> DigitsAndWords() {
  return PreTokenizer::Create({{PreTokenizerStep::kSplit, kNumberRegex},
                               {PreTokenizerStep::kSplit, kGpt2WordsRegex},
                               {PreTokenizerStep::kByteMap, ""}});
}

std::vector<std::string> WordsOf(const PreTokenizer::Words& words) {
  std::vector<std::string> result;
  size_t begin = 0;
  for (const size_t end : words.ends) {
    result.push_back(words.text.substr(begin, end - begin));
    begin = end;
  }
  return result;
}

TEST(PreTokenizerTest, EachStepCutsTheWordsOfTheOneBefore) {
  const auto pre_tokenizer = DigitsAndWords();
  ASSERT_TRUE(pre_tokenizer.ok());
  const auto words = pre_tokenizer->Split("it's 12 ab  c");
  ASSERT_TRUE(words.ok());
  const std::string space = "\xC4\xA0";  // in the byte alphabet
  EXPECT_EQ(WordsOf(*words), (std::vector<std::string>{"it", "'s", space, "1", "2", space + "ab",
                                                       space, space + "c"}));
}

// Every step searches each word on its own: what a search needs must cost little to make. Two words
// for each two bytes took 10 s of a megabyte when each search made a stack of 8 MiB.
TEST(PreTokenizerTest, AMegabyteOfShortWordsIsQuick) {
  const auto pre_tokenizer = DigitsAndWords();
  ASSERT_TRUE(pre_tokenizer.ok());
  std::string text;
  while (text.size() < 1'000'000) text += "1 ";
  const std::clock_t start = std::clock();
  const auto words = pre_tokenizer->Split(text);
  ASSERT_TRUE(words.ok());
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 3);
  EXPECT_EQ(words->ends.size(), text.size());
}

// The thread's own stack is too small for this search, which then takes a larger one, and for the
// longest the heap.
TEST(PreTokenizerTest, LongMatchesOfNestedGroupsAreFound) {
  const auto pre_tokenizer =
      PreTokenizer::Create({{PreTokenizerStep::kSplit, "(?:(a|b)(?:c|d))+e"}});
  ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  for (const size_t pairs : {10u, 10'000u, 1'000'000u}) {
    std::string text = "x";
    for (size_t i = 0; i < pairs; ++i) text += i % 3 == 0 ? "ac" : "bd";
    text += "ef";
    const auto words = pre_tokenizer->Split(text);
    ASSERT_TRUE(words.ok()) << words.status();
    EXPECT_EQ(words->ends, (std::vector<size_t>{1, text.size() - 1, text.size()})) << pairs;
  }
}

}  // namespace
}  // namespace sterna
