#include "engine/text/byte_level.h"

#include <array>

#include "engine/text/utf8.h"

namespace sterna {
namespace {

constexpr char32_t kFirstMoved = 0x100;
constexpr int kMovedCount = 68;

constexpr bool StandsForItself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<char32_t, 256> character{};
  std::array<uint8_t, kMovedCount> moved_byte{};
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  int moved = 0;
  for (int byte = 0; byte < 256; ++byte) {
    if (StandsForItself(byte)) {
      alphabet.character[byte] = byte;
    } else {
      alphabet.moved_byte[moved] = byte;
      alphabet.character[byte] = kFirstMoved + moved++;
    }
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();
static_assert(kAlphabet.character[' '] == 0x120 && kAlphabet.character['\n'] == 0x10A);
static_assert(kAlphabet.character[0xAD] == kFirstMoved + kMovedCount - 1);

}  // namespace

char32_t ByteLevelCharacter(uint8_t byte) { return kAlphabet.character[byte]; }

std::optional<uint8_t> ByteLevelByte(char32_t character) {
  if (character < 256) {
    if (!StandsForItself(static_cast<int>(character))) return std::nullopt;
    return static_cast<uint8_t>(character);
  }
  if (character >= kFirstMoved + kMovedCount) return std::nullopt;
  return kAlphabet.moved_byte[character - kFirstMoved];
}

std::optional<std::string> ByteLevelDecode(std::string_view token) {
  std::string bytes;
  for (size_t pos = 0; pos < token.size();) {
    const Utf8Unit unit = ReadUtf8(token, pos);
    const std::optional<uint8_t> byte = ByteLevelByte(unit.code_point);
    if (unit.kind != Utf8Unit::kCharacter || !byte) return std::nullopt;
    bytes.push_back(static_cast<char>(*byte));
    pos += unit.length;
  }
  return bytes;
}

}  // namespace sterna
