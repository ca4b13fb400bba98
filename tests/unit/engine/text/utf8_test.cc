#include "engine/text/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/tokenizer.h"

namespace sterna {
namespace {

constexpr size_t kValid = std::string_view::npos;

struct Case {
  std::string text;
  size_t first_bad;      // FindInvalidUtf8
  std::string replaced;  // ReplaceInvalidUtf8; "?" stands for U+FFFD
};

std::string ExpandMarks(std::string_view text) {
  std::string result;
  for (const char c : text) result += c == '?' ? std::string("\xEF\xBF\xBD") : std::string(1, c);
  return result;
}

TEST(Utf8Test, FindsAndReplacesWhatRfc3629Forbids) {
  const std::vector<Case> cases = {
      {"", kValid, ""},
      {"plain", kValid, "plain"},
      {std::string("a\0b", 3), kValid, std::string("a\0b", 3)},
      {"\xC2\x80\xDF\xBF", kValid, "\xC2\x80\xDF\xBF"},
      {"\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80", kValid, "\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80"},
      {"\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", kValid, "\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"},
      {"ab\x80", 2, "ab?"},             // a continuation alone
      {"\xC0\xAF", 0, "??"},            // overlong, two bytes
      {"\xC1\xBF", 0, "??"},            //
      {"\xE0\x9F\xBF", 0, "???"},       // overlong, three bytes
      {"\xF0\x8F\xBF\xBF", 0, "????"},  // overlong, four bytes
      {"x\xED\xA0\x80y", 1, "x???y"},   // a surrogate
      {"\xF4\x90\x80\x80", 0, "????"},  // above U+10FFFF
      {"\xF5\x80\x80\x80", 0, "????"},  //
      {"\xFF", 0, "?"},                 //
      {"a\xE2\x82", 1, "a?"},           // cut short: one mark for the whole beginning
      {"a\xE2\x82z", 1, "a?z"},         //
      {"\xF0\x9F\xA6", 0, "?"},         //
      {"\xF0\x9F\xA6\xC3\xA9", 0, "?\xC3\xA9"},
      {"ok\xC3", 2, "ok?"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(FindInvalidUtf8(c.text), c.first_bad) << ::testing::PrintToString(c.text);
    EXPECT_EQ(ReplaceInvalidUtf8(c.text), ExpandMarks(c.replaced))
        << ::testing::PrintToString(c.text);
  }
}

TEST(Utf8Test, EveryCodePointRoundTrips) {
  for (char32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    std::string text;
    AppendUtf8(c, &text);
    const Utf8Unit unit = ReadUtf8(text, 0);
    ASSERT_EQ(unit.kind, Utf8Unit::kCharacter);
    ASSERT_EQ(unit.length, text.size());
    ASSERT_EQ(unit.code_point, c);
  }
}

TEST(Utf8Test, PiecesGiveWhatTheWholeGives) {
  std::mt19937 random(7);
  // Bytes that begin, continue and break characters.
  const std::string alphabet = "a\x80\xBF\xC0\xC3\xE0\xA0\xE2\x82\xED\x9F\xF0\x90\xF4\x8F\xFF";
  for (int round = 0; round < 20000; ++round) {
    std::string whole, held, text;
    for (int i = 0; i < 12; ++i) {
      const char byte = alphabet[random() % alphabet.size()];
      whole += byte;
      held += byte;
      text += TakeCompleteText(&held);
      ASSERT_LE(held.size(), 3u);
      ASSERT_EQ(FindInvalidUtf8(text), kValid);
    }
    text += ReplaceInvalidUtf8(held);
    ASSERT_EQ(text, ReplaceInvalidUtf8(whole)) << ::testing::PrintToString(whole);
  }
}

}  // namespace
}  // namespace sterna
