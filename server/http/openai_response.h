// The bodies of the HTTP API's responses.
#ifndef STERNA_SERVER_HTTP_OPENAI_RESPONSE_H_
#define STERNA_SERVER_HTTP_OPENAI_RESPONSE_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/runtime.h"
#include "engine/token_stream.h"
#include "server/http/http_types.h"

namespace sterna {

inline constexpr std::string_view kJsonType = "application/json";

HttpResponse JsonResponse(int code, const nlohmann::ordered_json& body);

// OpenAI's error object: {"error": {"message", "type", "param", "code"}}; `code` is the error's
// label.
nlohmann::ordered_json ErrorBody(const Status& status);
// The same with the status code that fits the label, and Retry-After where trying again may help.
HttpResponse ErrorResponse(const Status& status);
// For what has no label: 404 of a path, 405, 413, 415, ...
HttpResponse PlainErrorResponse(int code, std::string_view message);

// {"prompt_tokens", "completion_tokens", "total_tokens", "energy_millijoules", "energy_method"}.
// `choices_per_prompt` neighbours share a prompt, which counts once.
nlohmann::ordered_json UsageBody(const std::vector<Usage>& choices, int64_t choices_per_prompt);

// How a token is written in JSON, where strings are Unicode: its text, or "bytes:\xe2\x82" when it
// is part of a character; the spelling of a control token.
std::string TokenText(const Tokenizer& tokenizer, int32_t id);

// One element of a chat choice's logprobs.content.
nlohmann::ordered_json ChatLogprob(const Tokenizer& tokenizer, const OutputToken& token);

// Appends a token to a completion choice's logprobs object ({tokens, token_logprobs, top_logprobs,
// text_offset}; null before the first). `text_offset`: in characters of the choice's text.
void AppendCompletionLogprob(const Tokenizer& tokenizer, const OutputToken& token,
                             int64_t text_offset, nlohmann::ordered_json* logprobs);
// The same for the first token of a prompt, which has no logprobs: null takes their place.
void AppendFirstPromptToken(const Tokenizer& tokenizer, int32_t id,
                            nlohmann::ordered_json* logprobs);

// An element of /v1/models.
nlohmann::ordered_json ModelBody(const std::string& name, int64_t created, const Runtime& runtime);

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_OPENAI_RESPONSE_H_
