#include "engine/text/added_tokens.h"

#include <gtest/gtest.h>

#include <ctime>
#include <string>
#include <utility>
#include <vector>

namespace sterna {
namespace {

AddedToken Token(int32_t id, const std::string& content) {
  AddedToken token;
  token.id = id;
  token.content = content;
  return token;
}

// The pieces as text: "abc|7:<x>", each token's id before what it covers.
std::string Pieces(const AddedTokens& tokens, std::string_view text, bool parse_special = true,
                   bool normalized = false) {
  std::string result;
  for (const AddedTokens::Piece& piece : tokens.Split(text, parse_special, normalized)) {
    if (!result.empty()) result += '|';
    if (piece.id != AddedTokens::kOrdinaryText) result += std::to_string(piece.id) + ':';
    result += piece.text;
  }
  return result;
}

TEST(AddedTokensTest, TheLongestSpellingAtEachPlace) {
  const AddedTokens tokens({Token(1, "<a"), Token(2, "<ab>"), Token(3, "<a>"), Token(4, "b"),
                            Token(5, "\xC3\xA9"), Token(6, "<ab>cdef")},
                           /*nfc=*/false);
  EXPECT_EQ(Pieces(tokens, ""), "");
  EXPECT_EQ(Pieces(tokens, "xyz"), "xyz");
  EXPECT_EQ(Pieces(tokens, "x<ab>y<a>z<a"), "x|2:<ab>|y|3:<a>|z|1:<a");
  EXPECT_EQ(Pieces(tokens, "<<ab>cde<ab>cdef"), "<|2:<ab>|cde|6:<ab>cdef");
  EXPECT_EQ(Pieces(tokens, "<ac\xC3\xA9\xC3\xA8"), "1:<a|c|5:\xC3\xA9|\xC3\xA8");
}

TEST(AddedTokensTest, ATokenThatDoesNotCountHidesNoShorterOne) {
  AddedToken special = Token(2, "wordy");
  special.special = true;
  AddedToken alone = Token(3, "wordyes");
  alone.single_word = true;
  AddedToken normalized = Token(4, "words");
  normalized.normalized = true;
  const AddedTokens tokens({Token(1, "word"), special, alone, normalized}, /*nfc=*/false);
  EXPECT_EQ(Pieces(tokens, "wordyes"), "3:wordyes");
  EXPECT_EQ(Pieces(tokens, "wordyesx"), "2:wordy|esx");
  EXPECT_EQ(Pieces(tokens, "wordyesx", /*parse_special=*/false), "1:word|yesx");
  EXPECT_EQ(Pieces(tokens, "words word"), "1:word|s |1:word");
  EXPECT_EQ(Pieces(tokens, "words word", true, /*normalized=*/true), "4:words| word");
}

TEST(AddedTokensTest, OfEqualSpellingsTheFirstCounts) {
  AddedToken first = Token(1, "<x>");
  first.special = true;
  const AddedTokens tokens({first, Token(1, "<x>")}, /*nfc=*/false);
  EXPECT_EQ(Pieces(tokens, "a<x>"), "a|1:<x>");
  EXPECT_EQ(Pieces(tokens, "a<x>", /*parse_special=*/false), "a<x>");
  EXPECT_TRUE(tokens.Find(1)->special);
}

// As Hugging Face's: the search goes on behind the spelling, not behind the space taken with it.
TEST(AddedTokensTest, SpaceThatOneTokenTakesMayBeginTheNext) {
  AddedToken right = Token(1, "<r>");
  right.rstrip = true;
  AddedToken left = Token(2, "<l>");
  left.lstrip = true;
  const AddedTokens tokens({right, left, Token(3, " sp")}, /*nfc=*/false);
  EXPECT_EQ(Pieces(tokens, "a <r> \n b"), "a |1:<r> \n |b");
  EXPECT_EQ(Pieces(tokens, "a \n <l> b"), "a|2: \n <l>| b");
  EXPECT_EQ(Pieces(tokens, "<r>  <l>"), "1:<r>  |2:<l>");
  EXPECT_EQ(Pieces(tokens, "<r> spx"), "1:<r> |3: sp|x");
}

TEST(AddedTokensTest, WithNfcNormalizedTokensAreLookedForInThatForm) {
  AddedToken token = Token(1, "e\xCC\x81q");
  token.normalized = true;
  EXPECT_EQ(Pieces(AddedTokens({token}, true), "\xC3\xA9q", true, true), "1:\xC3\xA9q");
  EXPECT_EQ(Pieces(AddedTokens({token}, false), "e\xCC\x81q", true, true), "1:e\xCC\x81q");
  EXPECT_EQ(AddedTokens({token}, true).Find(1)->content, token.content);
}

// Trying each token at each place would take minutes.
TEST(AddedTokensTest, ManyTokensTakeNoLongerThanFew) {
  std::vector<AddedToken> list;
  for (int i = 0; i < 60'000; ++i) list.push_back(Token(i, "<|unused_" + std::to_string(i)));
  const AddedTokens tokens(std::move(list), /*nfc=*/false);
  for (const std::string unit : {"<", "<|unused_", "<|unused_7"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    const std::clock_t start = std::clock();
    const auto pieces = tokens.Split(text, true, false);
    EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 10) << unit;
    EXPECT_EQ(pieces.size(), unit.ends_with('7') ? text.size() / unit.size() : 1u) << unit;
  }
}

}  // namespace
}  // namespace sterna
