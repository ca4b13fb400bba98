// The bodies of the HTTP API's requests, read and checked for form: names, types, and fields that
// are known but not supported. Ranges and the model are for server/validation.h.
#ifndef STERNA_SERVER_HTTP_OPENAI_REQUEST_H_
#define STERNA_SERVER_HTTP_OPENAI_REQUEST_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"
#include "engine/text/chat_template.h"
#include "server/validation.h"

namespace sterna {

// What completions and chat have in common.
struct OpenAiOptions {
  std::string model;  // empty: the served one
  int64_t n = 1;
  bool stream = false;
  bool include_usage = false;
  GenerationParameters parameters;
};

// A prompt: text, or token ids.
using PromptInput = std::variant<std::string, std::vector<int64_t>>;

struct CompletionCall {
  OpenAiOptions options;
  std::vector<PromptInput> prompts;  // at least one
  bool add_special_tokens = true;
  bool echo = false;  // the answer begins with the prompt, and its logprobs if any are wanted
};

struct ChatCall {
  OpenAiOptions options;
  ChatTemplateInput input;
  bool add_special_tokens = false;  // templates print BOS themselves
};

struct TokenizeCall {
  std::string model;
  // One of the two: a text, or a conversation.
  std::variant<std::string, ChatTemplateInput> input;
  bool add_special_tokens = true;
  bool return_token_strs = false;
};

struct DetokenizeCall {
  std::string model;
  std::vector<int64_t> tokens;
};

// Errors are kInvalidRequest with the path of the field, e.g. "messages[1].content".
StatusOr<CompletionCall> ReadCompletionCall(std::string_view body);
StatusOr<ChatCall> ReadChatCall(std::string_view body);
StatusOr<TokenizeCall> ReadTokenizeCall(std::string_view body);
StatusOr<DetokenizeCall> ReadDetokenizeCall(std::string_view body);

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_OPENAI_REQUEST_H_
