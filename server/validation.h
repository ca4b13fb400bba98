// From what a client asked for to an engine Request: ranges, defaults and limits, the same for both
// transports.
#ifndef STERNA_SERVER_VALIDATION_H_
#define STERNA_SERVER_VALIDATION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/request.h"

namespace sterna {

// Largest number of stop strings and of bytes in one of them; of stop token ids; of choices (`n`),
// and of choices over all prompts of a request; of alternatives per token.
inline constexpr int64_t kMaxStopStrings = 16;
inline constexpr int64_t kMaxStopStringBytes = 1024;
inline constexpr int64_t kMaxStopTokens = 64;
inline constexpr int64_t kMaxChoices = 8;
inline constexpr int64_t kMaxTotalChoices = 64;
inline constexpr int64_t kMaxLogprobs = 20;
inline constexpr int64_t kMaxLogitBias = 1024;

// What a client sent, unset where it said nothing. Not validated.
struct GenerationParameters {
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::vector<std::pair<int64_t, double>> logit_bias;
  std::optional<uint64_t> seed;
  std::optional<int64_t> num_logprobs;
  std::optional<int64_t> num_prompt_logprobs;
  std::optional<int64_t> max_tokens;
  bool allows_no_output = false;  // max_tokens may be 0: something is told of the prompt
  std::vector<std::string> stop;
  std::vector<int64_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;
  std::optional<int64_t> priority;
};

// Sampling that a checkpoint's generation_config.json recommends; unset where it says nothing.
struct GenerationDefaults {
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
};

// Reads generation_config.json of a model's directory; no such file, or a GGUF file instead of a
// directory: all unset. `do_sample` is not looked at: a request that wants greedy decoding says
// temperature 0. InvalidArgument names the file and the field.
StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& model);

struct ModelLimits {
  int64_t vocab_size = 0;
  int64_t max_context_tokens = 0;
};

// The request for one output over `prompt`. `default_max_tokens`: for a client that gave none (cut
// to what the context leaves); unset: all that the context leaves. Draws a seed when there is none.
// Errors are kInvalidRequest with the field's name; whether prompt and max_tokens fit is for
// Engine::Submit to say.
StatusOr<Request> BuildRequest(const GenerationParameters& parameters,
                               const GenerationDefaults& defaults, const ModelLimits& limits,
                               std::vector<int32_t> prompt,
                               std::optional<int64_t> default_max_tokens);

// Token ids from a client, each checked against the vocabulary; `param` names the field.
StatusOr<std::vector<int32_t>> CheckTokenIds(const std::vector<int64_t>& ids,
                                             const ModelLimits& limits, std::string_view param);

// From the system's generator.
uint64_t RandomUint64();
// `prefix` and 24 random hexadecimal digits.
std::string RandomId(std::string_view prefix);

}  // namespace sterna

#endif  // STERNA_SERVER_VALIDATION_H_
