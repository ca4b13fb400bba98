#include "engine/text/bpe_merges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

namespace sterna {
namespace {

struct NaiveRule {
  int32_t left, right, merged;
};

// The definition: while some rule fits, do the first rule's leftmost place.
std::vector<int32_t> Naive(const std::vector<NaiveRule>& rules, std::vector<int32_t> word) {
  while (true) {
    bool merged = false;
    for (const NaiveRule& rule : rules) {
      for (size_t i = 0; i + 1 < word.size() && !merged; ++i) {
        if (word[i] != rule.left || word[i + 1] != rule.right) continue;
        word[i] = rule.merged;
        word.erase(word.begin() + i + 1);
        merged = true;
      }
      if (merged) break;
    }
    if (!merged) return word;
  }
}

TEST(BpeMergesTest, EqualsTheDefinition) {
  std::mt19937 random(2);
  int changed = 0;
  for (int round = 0; round < 3000; ++round) {
    BpeMerges merges;
    std::vector<NaiveRule> rules;
    int32_t next = 4;
    for (int i = 0; i < 12; ++i) {
      const auto left = static_cast<int32_t>(random() % next);
      const auto right = static_cast<int32_t>(random() % next);
      const bool known = std::any_of(rules.begin(), rules.end(), [&](const NaiveRule& rule) {
        return rule.left == left && rule.right == right;
      });
      if (known) continue;
      rules.push_back({left, right, next});
      merges.Add(left, right, next++);
    }
    std::vector<int32_t> word;
    for (size_t n = random() % 16; n > 0; --n) word.push_back(static_cast<int32_t>(random() % 4));
    std::vector<int32_t> got = word;
    merges.Apply(&got);
    ASSERT_EQ(got, Naive(rules, word));
    changed += got != word;
  }
  EXPECT_GT(changed, 1500);
}

TEST(BpeMergesTest, APairAddedAgainKeepsItsFirstPlace) {
  BpeMerges merges;
  merges.Add(0, 1, 10);
  merges.Add(1, 2, 11);
  merges.Add(0, 1, 12);
  std::vector<int32_t> word = {0, 1, 2};
  merges.Apply(&word);
  EXPECT_EQ(word, (std::vector<int32_t>{10, 2}));
}

}  // namespace
}  // namespace sterna
