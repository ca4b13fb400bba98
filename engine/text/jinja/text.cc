#include "engine/text/jinja/text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

namespace sterna::jinja {
namespace {

// What str.splitlines() takes for the end of a line.
bool IsLineEnd(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

void AppendUpper(char32_t c, std::string* out) {
  if (c == 0xDF) {
    *out += "SS";  // the one common letter whose upper case is two
  } else {
    AppendUtf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), out);
  }
}

void AppendLower(char32_t c, std::string* out) {
  AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))), out);
}

bool IsCased(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

// Calls fn(code point, its bytes) for each character.
template <typename Fn>
void ForEachCharacter(std::string_view text, Fn fn) {
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, pos);
    fn(unit.code_point, text.substr(pos, unit.length));
    pos += unit.length;
  }
}

// The words between runs of white space; from the right, the rest is at the left.
std::vector<std::string> SplitAtSpace(std::string_view text, int64_t max_splits, bool from_right) {
  std::vector<std::string> parts;
  std::string_view rest = Strip(text, std::nullopt, !from_right, from_right);
  while (!rest.empty()) {
    if (max_splits >= 0 && static_cast<int64_t>(parts.size()) == max_splits) {
      parts.emplace_back(rest);
      break;
    }
    size_t cut = std::string_view::npos, after = 0;
    for (size_t pos = from_right ? rest.size() : 0; from_right ? pos > 0 : pos < rest.size();) {
      if (from_right) pos = PreviousCharacter(rest, pos);
      const Utf8Unit unit = ReadUtf8(rest, pos);
      if (IsSpace(unit.code_point)) {
        cut = pos;
        after = pos + unit.length;
        break;
      }
      if (!from_right) pos += unit.length;
    }
    if (cut == std::string_view::npos) {
      parts.emplace_back(rest);
      break;
    }
    parts.emplace_back(from_right ? rest.substr(after) : rest.substr(0, cut));
    rest = from_right ? Strip(rest.substr(0, cut), std::nullopt, false, true)
                      : Strip(rest.substr(after), std::nullopt, true, false);
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::string ReversedBytes(std::string_view text) { return {text.rbegin(), text.rend()}; }

}  // namespace

bool IsSpace(char32_t c) { return IsUnicodeSpace(c) || (c >= 0x1C && c <= 0x1F); }

bool IsPrintable(char32_t c) {
  if (c == ' ') return true;
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category < UTF8PROC_CATEGORY_ZS;
}

bool IsDigit(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_ND;
}

bool IsAlpha(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool IsAlnum(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return IsAlpha(c) || (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO);
}

bool IsUpper(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LU;
}

bool IsLower(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c)) == UTF8PROC_CATEGORY_LL;
}

size_t CodePointCount(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

std::u32string ToCodePoints(std::string_view text) {
  std::u32string result;
  ForEachCharacter(text, [&](char32_t c, std::string_view) { result += c; });
  return result;
}

std::string FromCodePoints(std::u32string_view code_points) {
  std::string result;
  for (const char32_t c : code_points) AppendUtf8(c, &result);
  return result;
}

size_t FindText(std::string_view text, std::string_view sub, size_t from) {
  // A comparison of a few bytes at each place is linear too, and where matches are many it has less
  // to begin with (a sanitizer's memmem looks at the whole text each time).
  constexpr size_t kFewBytes = 32;
  if (sub.size() <= kFewBytes) return text.find(sub, from);
  const void* found = memmem(text.data() + from, text.size() - from, sub.data(), sub.size());
  if (found == nullptr) return std::string_view::npos;
  return static_cast<const char*>(found) - text.data();
}

size_t FindLastText(std::string_view text, std::string_view sub) {
  const size_t found = FindText(ReversedBytes(text), ReversedBytes(sub));
  return found == std::string_view::npos ? found : text.size() - sub.size() - found;
}

std::string_view Strip(std::string_view text, std::optional<std::string_view> chars, bool left,
                       bool right) {
  std::u32string set;
  if (chars) set = ToCodePoints(*chars);
  std::sort(set.begin(), set.end());
  const auto strips = [&](char32_t c) {
    return chars ? std::binary_search(set.begin(), set.end(), c) : IsSpace(c);
  };
  while (left && !text.empty()) {
    const Utf8Unit unit = ReadUtf8(text, 0);
    if (!strips(unit.code_point)) break;
    text.remove_prefix(unit.length);
  }
  while (right && !text.empty()) {
    const size_t last = PreviousCharacter(text, text.size());
    if (!strips(ReadUtf8(text, last).code_point)) break;
    text = text.substr(0, last);
  }
  return text;
}

std::vector<std::string> Split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t max_splits, bool from_right) {
  if (!separator) return SplitAtSpace(text, max_splits, from_right);
  std::vector<std::string> parts;
  if (from_right) {
    parts = Split(ReversedBytes(text), ReversedBytes(*separator), max_splits, false);
    for (std::string& part : parts) std::reverse(part.begin(), part.end());
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  while (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t cut = FindText(text, *separator);
    if (cut == std::string_view::npos) break;
    parts.emplace_back(text.substr(0, cut));
    text = text.substr(cut + separator->size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, pos);
    const size_t line_end = pos;
    pos += unit.length;
    if (!IsLineEnd(unit.code_point)) continue;
    if (unit.code_point == '\r' && pos < text.size() && text[pos] == '\n') ++pos;
    lines.emplace_back(text.substr(begin, (keep_ends ? pos : line_end) - begin));
    begin = pos;
  }
  if (begin < text.size()) lines.emplace_back(text.substr(begin));
  return lines;
}

std::string Replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t count) {
  std::string result;
  size_t pos = 0;
  if (from.empty()) {  // Python then inserts before every character and at the end
    while (count != 0) {
      --count;
      result += to;
      if (pos == text.size()) return result;
      const size_t length = ReadUtf8(text, pos).length;
      result += text.substr(pos, length);
      pos += length;
    }
    return result.append(text.substr(pos));
  }
  for (; count != 0; --count) {
    const size_t found = FindText(text, from, pos);
    if (found == std::string_view::npos) break;
    result.append(text.substr(pos, found - pos)).append(to);
    pos = found + from.size();
  }
  return result.append(text.substr(pos));
}

std::string Upper(std::string_view text) {
  std::string result;
  ForEachCharacter(text, [&](char32_t c, std::string_view) { AppendUpper(c, &result); });
  return result;
}

std::string Lower(std::string_view text) {
  std::string result;
  ForEachCharacter(text, [&](char32_t c, std::string_view) { AppendLower(c, &result); });
  return result;
}

std::string Capitalize(std::string_view text) {
  std::string result;
  bool first = true;
  ForEachCharacter(text, [&](char32_t c, std::string_view) {
    first ? AppendUpper(c, &result) : AppendLower(c, &result);
    first = false;
  });
  return result;
}

std::string TitleMethod(std::string_view text) {
  std::string result;
  bool in_word = false;
  ForEachCharacter(text, [&](char32_t c, std::string_view) {
    in_word ? AppendLower(c, &result) : AppendUpper(c, &result);
    in_word = IsCased(c);
  });
  return result;
}

std::string TitleFilter(std::string_view text) {
  std::string result;
  bool word_begins = true;
  ForEachCharacter(text, [&](char32_t c, std::string_view) {
    const bool separates = IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    word_begins ? AppendUpper(c, &result) : AppendLower(c, &result);
    word_begins = separates;
  });
  return result;
}

std::string EscapeHtml(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '\'':
        result += "&#39;";
        break;
      case '"':
        result += "&#34;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

}  // namespace sterna::jinja
