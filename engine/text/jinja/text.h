// Python's string operations on UTF-8 text. Positions and lengths count code points.
// Thread contract: pure functions; every text must be valid UTF-8.
#ifndef STERNA_ENGINE_TEXT_JINJA_TEXT_H_
#define STERNA_ENGINE_TEXT_JINJA_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sterna::jinja {

bool IsSpace(char32_t c);      // str.isspace
bool IsPrintable(char32_t c);  // str.isprintable
bool IsDigit(char32_t c);      // str.isdigit, for decimal digits
bool IsAlpha(char32_t c);      // str.isalpha
bool IsAlnum(char32_t c);      // str.isalnum
bool IsUpper(char32_t c);
bool IsLower(char32_t c);

size_t CodePointCount(std::string_view text);
std::u32string ToCodePoints(std::string_view text);
std::string FromCodePoints(std::u32string_view code_points);

// Where `sub` begins in `text`, at byte `from` or later, and where it begins last; npos when it
// does not. Linear time on every input, which std::string's own searches do not have.
size_t FindText(std::string_view text, std::string_view sub, size_t from = 0);
size_t FindLastText(std::string_view text, std::string_view sub);

// strip(), or strip(chars) where `chars` is given; one end only with the flag of the other false.
std::string_view Strip(std::string_view text, std::optional<std::string_view> chars, bool left,
                       bool right);
// split(separator, max_splits), or at runs of white space without a separator. max_splits < 0: all.
std::vector<std::string> Split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t max_splits, bool from_right);
std::vector<std::string> SplitLines(std::string_view text, bool keep_ends);
// At most `count` replacements; negative: all.
std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count);
std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string TitleMethod(std::string_view text);  // str.title()
std::string TitleFilter(std::string_view text);  // Jinja's title
// & < > ' " as HTML entities, as markupsafe writes them.
std::string EscapeHtml(std::string_view text);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_TEXT_H_
