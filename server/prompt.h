// Prompts: from text or a conversation to the token ids the model reads.
#ifndef STERNA_SERVER_PROMPT_H_
#define STERNA_SERVER_PROMPT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/runtime.h"

namespace sterna {

// The BOS token, where the tokenizer puts one in front of what it encodes; many know a BOS token
// and do not.
std::optional<int32_t> AddedBos(const Tokenizer& tokenizer);

// `add_special`: with the special tokens that the tokenizer adds, but no second BOS. Errors are
// kInvalidRequest, naming `param`: an empty text, bytes that are no UTF-8, a text so long that its
// tokens cannot fit, which is not encoded.
StatusOr<std::vector<int32_t>> EncodePrompt(const Runtime& runtime, std::string_view text,
                                            bool add_special, std::string_view param);

// Renders `input` with the model's chat template and encodes it, special tokens included. `now`:
// for templates that print the date. Errors are kInvalidRequest: no template, or the template
// refused, or what it rendered is too long, as above.
StatusOr<std::vector<int32_t>> EncodeChat(const Runtime& runtime, ChatTemplateInput input,
                                          bool add_special, int64_t now_unix_seconds);

}  // namespace sterna

#endif  // STERNA_SERVER_PROMPT_H_
