#include "engine/text/stop_strings.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <string>
#include <vector>

namespace sterna {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> stop;
};

// Feeds `pieces` as an engine does: stops at a match, else finishes.
Outcome RunMatcher(StopStringMatcher matcher, const std::vector<std::string>& pieces) {
  Outcome outcome;
  for (const std::string& piece : pieces) {
    const StopStringMatcher::Result result = matcher.Append(piece);
    outcome.text += result.text;
    if (result.stop) {
      outcome.stop = result.stop;
      return outcome;
    }
  }
  outcome.text += matcher.Finish();
  return outcome;
}

// The definition: the match that ends first, the longest among those that end together.
Outcome Naive(const std::vector<std::string>& stops, bool include_stop, const std::string& text) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::string best;
    for (const std::string& stop : stops) {
      if (stop.size() <= end && stop.size() > best.size() &&
          text.compare(end - stop.size(), stop.size(), stop) == 0) {
        best = stop;
      }
    }
    if (!best.empty()) {
      return {text.substr(0, include_stop ? end : end - best.size()), best};
    }
  }
  return {text, std::nullopt};
}

TEST(StopStringMatcherTest, WithoutStopsEverythingPasses) {
  StopStringMatcher matcher({});
  const auto result = matcher.Append("hello");
  EXPECT_EQ(result.text, "hello");
  EXPECT_FALSE(result.stop);
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopStringMatcherTest, HoldsBackJustWhatMayBecomeAStop) {
  StopStringMatcher matcher({"</end>", "\n\n"});
  EXPECT_EQ(matcher.Append("once <").text, "once ");
  EXPECT_EQ(matcher.Append("/e").text, "");
  EXPECT_EQ(matcher.Append("x").text, "</ex");
  EXPECT_EQ(matcher.Append("\n").text, "");
  EXPECT_EQ(matcher.Append("<").text, "\n");
  EXPECT_EQ(matcher.Finish(), "<");
}

TEST(StopStringMatcherTest, IncludesTheStopWhenAsked) {
  const auto result = StopStringMatcher({"STOP"}, true).Append("a STOP b");
  EXPECT_EQ(result.text, "a STOP");
  EXPECT_EQ(result.stop, "STOP");
}

TEST(StopStringMatcherTest, TheLongestWinsAmongThoseThatEndTogether) {
  const auto result = StopStringMatcher({"c", "abc", "bc"}).Append("xabcy");
  EXPECT_EQ(result.text, "x");
  EXPECT_EQ(result.stop, "abc");
}

TEST(StopStringMatcherTest, EqualsTheNaiveSearchHoweverTheTextIsCut) {
  std::mt19937 random(11);
  const auto word = [&](size_t length) {
    std::string result;
    for (size_t i = 0; i < length; ++i) result += "ab\xC3\xA9"[random() % 4];
    return result;
  };
  int matched = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) stops.push_back(word(1 + random() % 6));
    const std::string text = word(random() % 24);
    std::vector<std::string> pieces;
    for (size_t pos = 0; pos < text.size();) {
      const size_t length = 1 + random() % 4;
      pieces.push_back(text.substr(pos, length));
      pos += length;
    }
    const bool include_stop = random() % 2 == 0;
    const Outcome got = RunMatcher(StopStringMatcher(stops, include_stop), pieces);
    const Outcome want = Naive(stops, include_stop, text);
    ASSERT_EQ(got.text, want.text) << ::testing::PrintToString(stops) << " in " << text;
    ASSERT_EQ(got.stop, want.stop);
    matched += want.stop.has_value();
  }
  EXPECT_GT(matched, 5000);
  EXPECT_LT(matched, 19000);
}

}  // namespace
}  // namespace sterna
