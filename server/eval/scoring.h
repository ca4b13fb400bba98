// How likely a model finds tokens that are given: many prompts through the engine at once, for
// `sterna eval`.
#ifndef STERNA_SERVER_EVAL_SCORING_H_
#define STERNA_SERVER_EVAL_SCORING_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "base/status.h"
#include "engine/engine.h"

namespace sterna {

struct ScoringPrompt {
  std::vector<int32_t> tokens;
  int64_t first_scored = 1;  // position of the first that is scored, at least 1
};

// Of the tokens that are scored, each given all before it.
struct PromptScore {
  double log_likelihood = 0;  // natural, of all together
  int64_t num_tokens = 0;
  bool is_greedy = true;  // no other token was likelier than any of them
};

// Of prompts 0 to `count` - 1, each asked for when it is its turn; `on_scored` hears how many are
// done. The engine's queue must hold
// kMostPromptsInFlight.
inline constexpr int64_t kMostPromptsInFlight = 128;
StatusOr<std::vector<PromptScore>> ScorePrompts(
    Engine& engine, int64_t count, const std::function<ScoringPrompt(int64_t index)>& prompt,
    const std::function<void(int64_t done)>& on_scored);

}  // namespace sterna

#endif  // STERNA_SERVER_EVAL_SCORING_H_
