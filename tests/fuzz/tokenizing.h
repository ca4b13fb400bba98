// Works a tokenizer through everything that requests do with one.
#ifndef STERNA_TESTS_FUZZ_TOKENIZING_H_
#define STERNA_TESTS_FUZZ_TOKENIZING_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"

namespace sterna::testing {

// Encodes `text` and some of our own, with and without special tokens, and decodes what comes out,
// at once and as a stream.
inline void Tokenize(const Tokenizer& tokenizer, std::string_view text) {
  const std::string special = tokenizer.IdToToken(tokenizer.vocab_size() - 1) +
                              tokenizer.IdToToken(tokenizer.bos_id().value_or(0));
  const std::array<std::string_view, 3> texts = {
      text, special, "Once upon a time, 1234 caf\u00e9s\t\n  \u4f60\u597d \U0001F600<s></s>"};
  for (const std::string_view encoded : texts) {
    for (const bool parse_special : {false, true}) {
      const auto ids = tokenizer.Encode(encoded, /*add_special=*/true, parse_special);
      if (!ids.ok()) continue;
      Decode(tokenizer, *ids);
      IncrementalDetokenizer stream(&tokenizer, /*continues_text=*/false);
      for (const int32_t id : *ids) stream.Append(id);
      stream.Finish();
    }
  }
  for (int32_t id = -1; id <= std::min(tokenizer.vocab_size(), 500); ++id) {
    tokenizer.TokenBytes(id);
    tokenizer.IsSpecial(id);
  }
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_FUZZ_TOKENIZING_H_
