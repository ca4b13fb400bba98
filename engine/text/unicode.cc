#include "engine/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/text/utf8.h"

namespace sterna {
namespace {

// Canonical ordering: runs of marks (combining class not 0) stand in order of class. utf8proc's own
// pass is an insertion sort, quadratic in the length of a run; a message may be one run.
void SortMarks(std::vector<utf8proc_int32_t>* code_points) {
  const auto combining_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  auto run = code_points->begin();
  while (run != code_points->end()) {
    run = std::find_if(run, code_points->end(),
                       [&](utf8proc_int32_t c) { return combining_class(c) != 0; });
    const auto end = std::find_if(run, code_points->end(),
                                  [&](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(run, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    run = end;
  }
}

// U+11A7 stands right before the Hangul trailing consonants and is none, so nothing composes with
// it or across it. utf8proc 2.8 takes it for one and drops it after a syllable.
constexpr utf8proc_int32_t kBeforeTrailingConsonants = 0x11A7;

// Canonical composition of what stands between those; appended to `text`.
void AppendComposed(std::vector<utf8proc_int32_t> code_points, std::string* text) {
  for (auto begin = code_points.begin(); begin != code_points.end();) {
    const auto end = std::find(begin, code_points.end(), kBeforeTrailingConsonants);
    const utf8proc_ssize_t length = utf8proc_normalize_utf32(
        &*begin, end - begin, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    STERNA_CHECK(length >= 0);
    for (auto it = begin; it != begin + length; ++it) {
      AppendUtf8(static_cast<char32_t>(*it), text);
    }
    begin = end;
    for (; begin != code_points.end() && *begin == kBeforeTrailingConsonants; ++begin) {
      AppendUtf8(static_cast<char32_t>(*begin), text);
    }
  }
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  // Characters below U+0300 are their own NFC, alone and beside each other.
  const bool simple = std::all_of(text.begin(), text.end(),
                                  [](char c) { return static_cast<unsigned char>(c) < 0xCC; });
  if (simple) return std::string(text);
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, pos);
    pos += unit.length;
    std::array<utf8proc_int32_t, 32> parts;  // the longest canonical decomposition has 4
    int last_boundary_class = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(unit.code_point), parts.data(), parts.size(),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &last_boundary_class);
    STERNA_CHECK(count > 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()));
    code_points.insert(code_points.end(), parts.begin(), parts.begin() + count);
  }
  SortMarks(&code_points);
  std::string normalized;
  normalized.reserve(text.size());
  AppendComposed(std::move(code_points), &normalized);
  return normalized;
}

bool IsUnicodeSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsUnicodeWord(char32_t c) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL) ||
         category == UTF8PROC_CATEGORY_PC;
}

}  // namespace sterna
