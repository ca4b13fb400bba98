// UTF-8, RFC 3629: reading characters, finding what is invalid, replacing it as decoders should.
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_UTF8_H_
#define STERNA_ENGINE_TEXT_UTF8_H_

#include <cstddef>
#include <string>
#include <string_view>

namespace sterna {

// What stands at one position of a byte string.
struct Utf8Unit {
  enum Kind {
    kCharacter,   // `length` bytes are the character `code_point`
    kInvalid,     // `length` bytes are the beginning of no character (a "maximal subpart")
    kIncomplete,  // the string ends after `length` bytes that more bytes could make a character
  };
  Kind kind;
  size_t length;  // at least 1
  char32_t code_point;
};

// Needs pos < text.size().
Utf8Unit ReadUtf8(std::string_view text, size_t pos);

// Where the character that ends before `pos` begins; needs pos > 0 and valid UTF-8 before it.
size_t PreviousCharacter(std::string_view text, size_t pos);

void AppendUtf8(char32_t code_point, std::string* out);

// Moves the text that `held` completes out of it: invalid sequences become U+FFFD, an incomplete
// character at the end (at most 3 bytes) stays in `held`.
std::string TakeCompleteText(std::string* held);

// `bytes` with everything invalid, an incomplete end included, replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view bytes);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_UTF8_H_
