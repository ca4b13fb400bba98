// Prompts for a load test, as they stand in the request's JSON.
#ifndef STERNA_LOADTEST_PROMPTS_H_
#define STERNA_LOADTEST_PROMPTS_H_

#include <string>
#include <vector>

#include "base/status.h"
#include "loadtest/http_client.h"
#include "loadtest/options.h"

namespace sterna {

// A prompt as a JSON value: a string, or for completions an array of token ids.
using PromptJson = std::string;

// From --prompts, or made up of random words and cut to --prompt-tokens by the server's /tokenize.
// At least one; requests use them in turn. Chat prompts are text, so the template adds to the
// count.
StatusOr<std::vector<PromptJson>> MakePrompts(const LoadtestOptions& options,
                                              const std::string& model, HttpClient& client);

// The lines of a prompts file that are not blank: a JSON string, an object with "prompt", or plain
// text. InvalidArgument names the line.
StatusOr<std::vector<PromptJson>> ParsePrompts(const std::string& text);

}  // namespace sterna

#endif  // STERNA_LOADTEST_PROMPTS_H_
