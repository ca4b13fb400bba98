// Items of multiple-choice and last-word tasks: read from a file, encoded and judged as
// EleutherAI's lm-evaluation-harness does, so that the figures are the same.
//
// A file is JSON Lines, an object an item, or one JSON object whose "samples" is an array of them.
// An item has a context, "query", "context" or "prompt"; and either "continuation", the words that
// follow, or an array of strings, "choices" or "options", with the index of the right one, "gold"
// or "input_label". Other members are not looked at. What follows the context is joined to it by
// one space, unless it begins with one itself.
#ifndef STERNA_SERVER_EVAL_ITEMS_H_
#define STERNA_SERVER_EVAL_ITEMS_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/text/tokenizer.h"
#include "server/eval/scoring.h"

namespace sterna {

struct EvalItem {
  std::string context;
  std::vector<std::string> choices;  // or the one continuation
  std::optional<size_t> gold;        // of choices; nothing: there is but a continuation
};

// Items of one kind, at least one; `limit` of them at most, 0: all. InvalidArgument names the line
// or sample and the member; `name` is the file's.
StatusOr<std::vector<EvalItem>> ReadItems(std::string_view text, const std::string& name,
                                          int64_t limit);

// A prompt for every choice. Context and choice are encoded together and split where the context's
// own tokens end; white space that the context ends with is encoded with the choice. `add_special`:
// with the special tokens the tokenizer adds (BOS). At most `most_tokens`: what is longer loses its
// beginning. InvalidArgument where nothing is left to score by.
StatusOr<std::vector<ScoringPrompt>> EncodeItem(const Tokenizer& tokenizer, const EvalItem& item,
                                                bool add_special, int64_t most_tokens);

// Shares of the items, 0 to 1.
struct ChoiceFigures {
  double acc = 0;        // the right choice is the likeliest
  double acc_norm = 0;   // the same by log-likelihood over the choice's characters
  double acc_bytes = 0;  // and over its bytes
};
// `scores`: of all prompts of all items in their order; the same below. Of equals the first wins.
ChoiceFigures JudgeChoices(const std::vector<EvalItem>& items, std::span<const PromptScore> scores);

struct ContinuationFigures {
  double acc = 0;         // the continuation is what greedy decoding gives
  double perplexity = 0;  // exp(-mean log-likelihood of a continuation)
};
ContinuationFigures JudgeContinuations(std::span<const PromptScore> scores);

// Of a share over `count` items, by the sample's variance; 0 for one item.
double StandardError(double share, size_t count);

}  // namespace sterna

#endif  // STERNA_SERVER_EVAL_ITEMS_H_
