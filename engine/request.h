// What a client asks for, validated and in the engine's terms. Both transports build this and
// nothing else; immutable once submitted.
#ifndef STERNA_ENGINE_REQUEST_H_
#define STERNA_ENGINE_REQUEST_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace sterna {

// How the next token is chosen; kernels/sampling.h gives the order and the sources.
struct SamplingOptions {
  float temperature = 1.0f;                           // [0, 2]; 0 is greedy
  int32_t top_k = 0;                                  // 0: off
  float top_p = 1.0f;                                 // (0, 1]
  float min_p = 0.0f;                                 // [0, 1]
  float repetition_penalty = 1.0f;                    // (0, 2]
  float presence_penalty = 0.0f;                      // [-2, 2]
  float frequency_penalty = 0.0f;                     // [-2, 2]
  std::vector<std::pair<int32_t, float>> logit_bias;  // each token once; bias in [-100, 100]
  uint64_t seed = 0;          // the caller draws one when the client gave none
  int32_t num_logprobs = -1;  // -1: none; else the drawn token's and this many alternatives
  // The same for the prompt's tokens from position `prompt_logprobs_from` on: at least 1, as
  // nothing comes before the first.
  int32_t num_prompt_logprobs = -1;
  int32_t prompt_logprobs_from = 1;
};

struct StopOptions {
  int32_t max_tokens = 16;                // >= 0; prompt + max_tokens fit the model's context
  std::vector<std::string> stop_strings;  // non-empty each
  bool include_stop_string = false;       // whether the matched string is part of the text
  std::vector<int32_t> stop_token_ids;    // besides the model's own end tokens
  bool ignore_eos = false;                // the model's own end tokens do not end the text
};

struct Request {
  std::string id;               // "cmpl-...", unique among running requests
  std::vector<int32_t> prompt;  // 1 or more token ids, each in the vocabulary
  SamplingOptions sampling;
  StopOptions stop;
  int32_t priority = 0;  // higher runs first and is preempted last
};

// Whether a model of `vocab_size` tokens can run it within `max_context_tokens`: kInvalidRequest or
// kContextLengthExceeded, with the numbers.
Status CheckRequest(const Request& request, int64_t vocab_size, int64_t max_context_tokens);

}  // namespace sterna

#endif  // STERNA_ENGINE_REQUEST_H_
