#include "server/eval/scoring.h"

#include <deque>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

Request ScoringRequest(ScoringPrompt prompt, int64_t index) {
  Request request;
  request.id = absl::StrCat("eval-", index);
  request.prompt = std::move(prompt.tokens);
  request.sampling.temperature = 0;
  request.sampling.num_prompt_logprobs = 1;
  request.sampling.prompt_logprobs_from = static_cast<int32_t>(prompt.first_scored);
  request.stop.max_tokens = 0;
  return request;
}

StatusOr<PromptScore> ReadScore(TokenStream& stream) {
  PromptScore score;
  while (true) {
    const StreamUpdate update = stream.WaitAndTake();
    for (const OutputToken& token : update.prompt_logprobs) {
      score.log_likelihood += static_cast<double>(token.logprob);
      ++score.num_tokens;
      score.is_greedy = score.is_greedy && token.logprob == token.top[0].logprob;
    }
    if (!update.end.has_value()) continue;
    if (!update.end->error.ok()) return update.end->error;
    return score;
  }
}

}  // namespace

StatusOr<std::vector<PromptScore>> ScorePrompts(
    Engine& engine, int64_t count, const std::function<ScoringPrompt(int64_t index)>& prompt,
    const std::function<void(int64_t done)>& on_scored) {
  std::vector<PromptScore> scores;
  std::deque<std::shared_ptr<TokenStream>> in_flight;
  int64_t next = 0;
  while (std::ssize(scores) < count) {
    while (next < count && std::ssize(in_flight) < kMostPromptsInFlight) {
      STERNA_ASSIGN_OR_RETURN(std::shared_ptr<TokenStream> stream,
                              engine.Submit(ScoringRequest(prompt(next), next)));
      in_flight.push_back(std::move(stream));
      ++next;
    }
    STERNA_ASSIGN_OR_RETURN(const PromptScore score, ReadScore(*in_flight.front()));
    in_flight.pop_front();
    scores.push_back(score);
    on_scored(std::ssize(scores));
  }
  return scores;
}

}  // namespace sterna
