// A Sequence with everything that turns its tokens into an answer: sampling state, stop checks,
// detokenisation, the stream, and what it has cost.
// Thread contract: the engine thread alone.
#ifndef STERNA_ENGINE_GENERATION_H_
#define STERNA_ENGINE_GENERATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/energy/energy_ledger.h"
#include "engine/request.h"
#include "engine/schedule/sequence.h"
#include "engine/text/detokenizer.h"
#include "engine/text/stop_strings.h"
#include "engine/token_stream.h"
#include "kernels/sampling.h"

namespace sterna {

// Tokens of one sequence in one step, each in exactly one account.
struct StepTokens {
  int64_t prompt = 0;      // computed for the first time
  int64_t recomputed = 0;  // had been computed before a preemption
};

class Generation final : public Sequence {
 public:
  // `tokenizer` and `pool` must outlive this; `eos_token_ids` end the text unless the request says
  // otherwise.
  Generation(Request request, std::shared_ptr<TokenStream> stream, int64_t arrival_ns,
             uint64_t order, BlockPool* pool, const Tokenizer* tokenizer,
             const std::vector<int32_t>& eos_token_ids);

  const TokenStream& stream() const { return *stream_; }
  int64_t arrival_ns() const { return arrival_ns_; }

  // True the first time only.
  bool MarkScheduled();
  // A token is there at `now_ns`; returns the time since the one before it, or since arrival.
  int64_t MarkToken(int64_t now_ns);
  // What computing `num_tokens` more costs and counts as; both before Advance.
  StepWork WorkOf(int64_t num_tokens) const;
  StepTokens CountTokens(int64_t num_tokens) const;
  void AddEnergy(int64_t nanojoules) { energy_nj_ += nanojoules; }

  // Parameters of the row of logits that tells of the token at `position`: how likely it is where
  // it stands in the prompt, else the next one, to be drawn; valid until the next call of this or
  // of Accept.
  SampleParams SampleOf(int64_t position);
  // Whether there is any output; without, what is drawn after the prompt only ends the request.
  bool has_output() const { return stop_.max_tokens > 0; }
  // Once the next token is drawn: whether another may follow.
  bool may_go_on() const { return num_tokens() + 1 - num_prompt_tokens() < stop_.max_tokens; }
  // Streams how likely the next token of the prompt is.
  void AcceptPromptLogprob(SampleResult result);
  // Appends the drawn token and streams what it completes. Returns the completion, its usage still
  // empty, when the token ends the text.
  std::optional<Completion> Accept(SampleResult result);

  Usage UsageSoFar(std::string energy_method) const;
  // The last thing the stream gets.
  void PushEnd(Completion completion);

 private:
  bool IsEndToken(int32_t token) const;
  void CountToken(int32_t token, bool is_output);

  SamplingOptions sampling_;
  StopOptions stop_;
  std::vector<int32_t> end_tokens_;
  std::shared_ptr<TokenStream> stream_;
  IncrementalDetokenizer detokenizer_;
  StopStringMatcher matcher_;
  // Occurrences for the penalties; kept only when one is on.
  bool counts_tokens_;
  std::vector<TokenCount> counts_;  // those of count_index_, then at most one DrawnToken
  absl::flat_hash_map<int32_t, size_t> count_index_;  // token -> its place in counts_

  int64_t arrival_ns_;
  int64_t last_token_ns_;
  bool scheduled_ = false;
  int64_t energy_nj_ = 0;
  StreamUpdate last_update_;  // pushed together with the completion
};

}  // namespace sterna

#endif  // STERNA_ENGINE_GENERATION_H_
