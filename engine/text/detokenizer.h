// Turns generated tokens into text as they come, never emitting half a UTF-8 character: bytes that
// may still become one are held back, bytes that cannot are emitted as U+FFFD.
//
// Concatenated, everything Append and Finish returned equals what decoding all tokens at once
// gives.
// Thread contract: one per sequence, used by one thread at a time.
#ifndef STERNA_ENGINE_TEXT_DETOKENIZER_H_
#define STERNA_ENGINE_TEXT_DETOKENIZER_H_

#include <cstdint>
#include <string>

#include "engine/text/tokenizer.h"

namespace sterna {

class IncrementalDetokenizer {
 public:
  // `continues_text`: the tokens continue a prompt (a leading space is then text and kept).
  // `tokenizer` must outlive this.
  IncrementalDetokenizer(const Tokenizer* tokenizer, bool continues_text);

  // The text that `token` completed; may be empty.
  std::string Append(int32_t token);

  // What was held back, as U+FFFD where it is no complete character.
  std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  bool strip_next_space_;
  std::string held_;  // at most 3 bytes: an incomplete UTF-8 character
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_DETOKENIZER_H_
