#include "server/eval/perplexity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace sterna {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Text(int count) {
  std::vector<int32_t> text(static_cast<size_t>(count));
  std::iota(text.begin(), text.end(), 0);
  return text;
}

constexpr int32_t kBos = 99;

std::vector<ScoringPrompt> Windows(const std::vector<int32_t>& text, const WindowOptions& options) {
  const TextWindows windows(text, options);
  std::vector<ScoringPrompt> all;
  for (int64_t i = 0; i < windows.size(); ++i) all.push_back(windows[i]);
  return all;
}

TEST(TextWindows, BosInFrontOfEachAndEveryTokenOnce) {
  const auto windows = Windows(Text(7), {.context = 4, .stride = 0, .bos = kBos});
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_THAT(windows[0].tokens, ElementsAre(kBos, 0, 1, 2));
  EXPECT_THAT(windows[1].tokens, ElementsAre(kBos, 3, 4, 5));
  EXPECT_THAT(windows[2].tokens, ElementsAre(kBos, 6));
  for (const ScoringPrompt& window : windows) EXPECT_EQ(window.first_scored, 1);
}

TEST(TextWindows, AStrideScoresTheLastTokensAlone) {
  const auto windows = Windows(Text(8), {.context = 5, .stride = 2, .bos = kBos});
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_THAT(windows[0].tokens, ElementsAre(kBos, 0, 1, 2, 3));
  EXPECT_EQ(windows[0].first_scored, 1);
  EXPECT_THAT(windows[1].tokens, ElementsAre(kBos, 2, 3, 4, 5));
  EXPECT_EQ(windows[1].first_scored, 3);
  EXPECT_THAT(windows[2].tokens, ElementsAre(kBos, 4, 5, 6, 7));
  EXPECT_EQ(windows[2].first_scored, 3);
}

TEST(TextWindows, WithoutBosAWindowsFirstTokenHasNothingBeforeIt) {
  const auto apart = Windows(Text(5), {.context = 3, .stride = 0, .bos = {}});
  ASSERT_EQ(apart.size(), 2u);
  EXPECT_THAT(apart[0].tokens, ElementsAre(0, 1, 2));
  EXPECT_EQ(apart[0].first_scored, 1);
  EXPECT_THAT(apart[1].tokens, ElementsAre(3, 4));
  EXPECT_EQ(apart[1].first_scored, 1);
  const auto overlapping = Windows(Text(5), {.context = 3, .stride = 2, .bos = {}});
  ASSERT_EQ(overlapping.size(), 2u);
  EXPECT_THAT(overlapping[1].tokens, ElementsAre(2, 3, 4));
  EXPECT_EQ(overlapping[1].first_scored, 1);
}

// Whatever the lengths, every token that can be is scored once, and the last window is the text's
// end.
TEST(TextWindows, ScoresEveryTokenOnce) {
  for (int count = 1; count < 20; ++count) {
    for (int context = 2; context < 8; ++context) {
      for (int stride = 0; stride < context; ++stride) {
        const auto windows =
            Windows(Text(count), {.context = context, .stride = stride, .bos = kBos});
        std::vector<int32_t> scored;
        for (const ScoringPrompt& window : windows) {
          EXPECT_LE(std::ssize(window.tokens), context);
          scored.insert(scored.end(), window.tokens.begin() + window.first_scored,
                        window.tokens.end());
        }
        EXPECT_EQ(scored, Text(count)) << context << " " << stride;
      }
    }
  }
  EXPECT_TRUE(Windows({}, {.context = 4, .stride = 0, .bos = kBos}).empty());
}

}  // namespace
}  // namespace sterna
