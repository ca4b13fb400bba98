// Turns the token streams of one completions or chat request into its response: server-sent events
// as tokens come, or one JSON object when all have ended.
#ifndef STERNA_SERVER_HTTP_GENERATION_SOURCE_H_
#define STERNA_SERVER_HTTP_GENERATION_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"
#include "engine/token_stream.h"
#include "server/http/http_types.h"

namespace sterna {

struct GenerationReplyOptions {
  bool chat = false;  // else completions
  bool stream = false;
  bool include_usage = false;  // streaming: one more event with it
  bool logprobs = false;
  int64_t choices_per_prompt = 1;
  // Completions: the tokens of every prompt, which its choices begin with; empty: they do not.
  std::vector<std::vector<int32_t>> echo;
  std::string id;  // "chatcmpl-..."
  std::string model;
  int64_t created_unix_seconds = 0;
};

// `streams`: one per choice, those of one prompt next to each other. `tokenizer` must outlive it.
std::unique_ptr<HttpSource> MakeGenerationSource(GenerationReplyOptions options,
                                                 std::vector<std::shared_ptr<TokenStream>> streams,
                                                 const Tokenizer* tokenizer);

// "data: <json>\n\n".
std::string ServerSentEvent(std::string_view data);

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_GENERATION_SOURCE_H_
