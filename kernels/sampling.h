// What the Sample op needs to know of one sequence, and what it answers. Plain data.
#ifndef STERNA_KERNELS_SAMPLING_H_
#define STERNA_KERNELS_SAMPLING_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sterna {

// Stands for the token that row `row` of the Sample call before draws, as long as only the device
// knows it (Ops::runs_ahead). -1 is a padding token (kernels/ops.h).
constexpr int32_t DrawnToken(int64_t row) { return static_cast<int32_t>(-2 - row); }
constexpr bool IsDrawnToken(int32_t id) { return id <= -2; }
// Its row.
constexpr int64_t RowOfDrawnToken(int32_t id) { return -2 - static_cast<int64_t>(id); }

struct TokenCount {
  int32_t token;
  int32_t in_output;  // times generated so far; 0 when it only stands in the prompt
};

// One row of a Sample call. Steps are applied in this order, the order vLLM documents:
//   1. logit_bias is added;
//   2. repetition_penalty r (Keskar et al. 2019, arXiv:1909.05858, section 4.1): logits of tokens
//   in
//      prompt or output are divided by r when positive, multiplied when negative;
//   3. frequency_penalty * in_output and presence_penalty * [in_output > 0] are subtracted
//   (OpenAI);
//   4. temperature 0 takes the largest logit, the lowest id among equals; otherwise logits are
//      divided by the temperature;
//   5. min_p keeps tokens with probability >= min_p * the largest; 6. top_k; 7. top_p keeps the
//      shortest run of most likely tokens whose probability reaches top_p;
//   8. one token is drawn with the uniform number of (seed, position).
struct SampleParams {
  float temperature = 1.0f;
  int32_t top_k = 0;  // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  std::span<const std::pair<int32_t, float>> logit_bias;  // (token, added to its logit)
  // Every token of prompt and output once; may be empty when the three penalties are off. The last
  // may be a DrawnToken, in_output 1: that token once more, whether it is among the others or not.
  std::span<const TokenCount> token_counts;
  uint64_t seed = 0;
  uint64_t position = 0;      // index of the token to be drawn within its sequence
  int32_t num_logprobs = -1;  // -1: none; n >= 0: the drawn token's and the n most likely
  // -1: none; else this token is the one that is "drawn", whatever the rest says: what comes next
  // is known, as in a prompt, and its logprobs are wanted.
  int32_t target = -1;
};

struct TokenLogprob {
  int32_t token;
  float logprob;  // natural log
};

// Logprobs are log-softmax of the model's own logits: before bias, penalties and temperature.
struct SampleResult {
  int32_t token = -1;
  float logprob = 0.0f;           // of `token`; meaningful when num_logprobs >= 0
  std::vector<TokenLogprob> top;  // num_logprobs entries, most likely first, ties by lower id
};

}  // namespace sterna

#endif  // STERNA_KERNELS_SAMPLING_H_
