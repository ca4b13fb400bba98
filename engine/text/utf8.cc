#include "engine/text/utf8.h"

#include <cstdint>

#include "engine/text/tokenizer.h"

namespace sterna {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Appends the complete text at the front of `bytes`; returns how many bytes that used up.
size_t AppendCompleteText(std::string_view bytes, std::string* out) {
  size_t pos = 0;
  while (pos < bytes.size()) {
    const Utf8Unit unit = ReadUtf8(bytes, pos);
    if (unit.kind == Utf8Unit::kIncomplete) break;
    if (unit.kind == Utf8Unit::kCharacter) {
      out->append(bytes.substr(pos, unit.length));
    } else {
      out->append(kReplacement);
    }
    pos += unit.length;
  }
  return pos;
}

}  // namespace

Utf8Unit ReadUtf8(std::string_view text, size_t pos) {
  const uint8_t lead = static_cast<uint8_t>(text[pos]);
  if (lead < 0x80) return {Utf8Unit::kCharacter, 1, lead};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Unit::kInvalid, 1, 0};
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what is above U+10FFFF.
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t code_point = lead & (0x7F >> length);
  for (size_t i = 1; i < length; ++i) {
    if (pos + i == text.size()) return {Utf8Unit::kIncomplete, i, 0};
    const uint8_t byte = static_cast<uint8_t>(text[pos + i]);
    if (byte < low || byte > high) return {Utf8Unit::kInvalid, i, 0};
    code_point = code_point << 6 | (byte & 0x3F);
    low = 0x80;
    high = 0xBF;
  }
  return {Utf8Unit::kCharacter, length, code_point};
}

size_t PreviousCharacter(std::string_view text, size_t pos) {
  do {
    --pos;
  } while ((static_cast<unsigned char>(text[pos]) & 0xC0) == 0x80);
  return pos;
}

void AppendUtf8(char32_t code_point, std::string* out) {
  if (code_point < 0x80) {
    out->push_back(static_cast<char>(code_point));
    return;
  }
  const int tail = code_point < 0x800 ? 1 : code_point < 0x10000 ? 2 : 3;
  const uint8_t lead_mark = tail == 1 ? 0xC0 : tail == 2 ? 0xE0 : 0xF0;
  out->push_back(static_cast<char>(lead_mark | code_point >> 6 * tail));
  for (int i = tail - 1; i >= 0; --i) {
    out->push_back(static_cast<char>(0x80 | (code_point >> 6 * i & 0x3F)));
  }
}

std::string TakeCompleteText(std::string* held) {
  std::string text;
  held->erase(0, AppendCompleteText(*held, &text));
  return text;
}

std::string ReplaceInvalidUtf8(std::string_view bytes) {
  std::string text;
  if (AppendCompleteText(bytes, &text) < bytes.size()) text.append(kReplacement);
  return text;
}

size_t FindInvalidUtf8(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    const Utf8Unit unit = ReadUtf8(text, pos);
    if (unit.kind != Utf8Unit::kCharacter) return pos;
    pos += unit.length;
  }
  return std::string_view::npos;
}

}  // namespace sterna
