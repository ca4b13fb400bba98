// The byte alphabet of byte-level BPE: each of the 256 bytes stands as one printable character in
// vocabulary files ("Ġ" is the space), so that tokens which are no whole UTF-8 can be written in
// JSON.
//
// The bytes '!'..'~', 0xA1..0xAC and 0xAE..0xFF are the characters of the same number; the other
// 68, in order, are U+0100, U+0101, ... Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_BYTE_LEVEL_H_
#define STERNA_ENGINE_TEXT_BYTE_LEVEL_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace sterna {

// The character that stands for `byte`; below U+0144.
char32_t ByteLevelCharacter(uint8_t byte);

// The byte that `character` stands for, if it is one of the 256.
std::optional<uint8_t> ByteLevelByte(char32_t character);

// The bytes a vocabulary entry (valid UTF-8) stands for; nullopt when it has a character outside
// the alphabet.
std::optional<std::string> ByteLevelDecode(std::string_view token);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_BYTE_LEVEL_H_
