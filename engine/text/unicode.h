// The Unicode facts tokenizers need beyond UTF-8: normalisation form C and character classes.
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_UNICODE_H_
#define STERNA_ENGINE_TEXT_UNICODE_H_

#include <string>
#include <string_view>

namespace sterna {

// Canonical decomposition followed by canonical composition. `text` is valid UTF-8. Takes
// O(n log n) time on every input, long runs of combining marks included.
std::string NormalizeNfc(std::string_view text);

// The White_Space property.
bool IsUnicodeSpace(char32_t c);
// A letter, mark, number or connector: what \w means in Unicode regular expressions.
bool IsUnicodeWord(char32_t c);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_UNICODE_H_
