#include "engine/request.h"

#include "absl/strings/str_cat.h"
#include "engine/errors.h"

namespace sterna {

Status CheckRequest(const Request& request, int64_t vocab_size, int64_t max_context_tokens) {
  if (request.prompt.empty()) {
    return MakeError(ErrorLabel::kInvalidRequest, "the prompt has no tokens; it needs at least one",
                     "prompt");
  }
  for (const int32_t token : request.prompt) {
    if (token < 0 || token >= vocab_size) {
      return MakeError(ErrorLabel::kInvalidRequest,
                       absl::StrCat("prompt token ", token, " is not in the vocabulary of 0 to ",
                                    vocab_size - 1),
                       "prompt");
    }
  }
  if (request.sampling.prompt_logprobs_from < 1) {
    return MakeError(ErrorLabel::kInvalidRequest,
                     absl::StrCat("prompt_logprobs_from is ", request.sampling.prompt_logprobs_from,
                                  "; it must be at least 1"),
                     "prompt_logprobs_from");
  }
  const int32_t max_tokens = request.stop.max_tokens;
  if (max_tokens < 0) {
    return MakeError(ErrorLabel::kInvalidRequest,
                     absl::StrCat("max_tokens is ", max_tokens, "; it must be at least 0"),
                     "max_tokens");
  }
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt + max_tokens > max_context_tokens) {
    return MakeError(
        ErrorLabel::kContextLengthExceeded,
        absl::StrCat("the prompt's ", prompt, " tokens and max_tokens ", max_tokens, " are ",
                     prompt + max_tokens, " together; at most ", max_context_tokens, " fit"),
        prompt >= max_context_tokens ? "prompt" : "max_tokens");
  }
  return absl::OkStatus();
}

}  // namespace sterna
