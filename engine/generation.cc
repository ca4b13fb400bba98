#include "engine/generation.h"

#include <algorithm>
#include <utility>

namespace sterna {
namespace {

OutputToken ToOutputToken(SampleResult result) {
  return {.id = result.token, .logprob = result.logprob, .top = std::move(result.top)};
}

}  // namespace

Generation::Generation(Request request, std::shared_ptr<TokenStream> stream, int64_t arrival_ns,
                       uint64_t order, BlockPool* pool, const Tokenizer* tokenizer,
                       const std::vector<int32_t>& eos_token_ids)
    : Sequence(std::move(request.prompt), request.priority, order, pool,
               request.sampling.num_prompt_logprobs >= 0 ? request.sampling.prompt_logprobs_from
                                                         : kScoresNone),
      sampling_(std::move(request.sampling)),
      stop_(std::move(request.stop)),
      end_tokens_(stop_.stop_token_ids),
      stream_(std::move(stream)),
      detokenizer_(tokenizer, /*continues_text=*/true),
      matcher_(stop_.stop_strings, stop_.include_stop_string),
      counts_tokens_(sampling_.repetition_penalty != 1.0f || sampling_.presence_penalty != 0.0f ||
                     sampling_.frequency_penalty != 0.0f),
      arrival_ns_(arrival_ns),
      last_token_ns_(arrival_ns) {
  if (!stop_.ignore_eos) {
    end_tokens_.insert(end_tokens_.end(), eos_token_ids.begin(), eos_token_ids.end());
  }
  if (counts_tokens_) {
    for (const int32_t token : tokens()) CountToken(token, /*is_output=*/false);
  }
}

bool Generation::MarkScheduled() { return !std::exchange(scheduled_, true); }

int64_t Generation::MarkToken(int64_t now_ns) {
  return now_ns - std::exchange(last_token_ns_, now_ns);
}

StepWork Generation::WorkOf(int64_t num_tokens) const {
  // The token at position p attends to p + 1 positions.
  const int64_t first = num_computed() + 1;
  const int64_t last = num_computed() + num_tokens;
  StepWork work{.context_tokens = (first + last) * num_tokens / 2};
  const bool is_decode =
      num_tokens == 1 && num_computed() >= num_prompt_tokens() && num_computed() >= high_water();
  (is_decode ? work.output_tokens : work.prompt_tokens) = num_tokens;
  return work;
}

StepTokens Generation::CountTokens(int64_t num_tokens) const {
  const int64_t end = num_computed() + num_tokens;
  const int64_t again = std::clamp<int64_t>(high_water() - num_computed(), 0, num_tokens);
  const int64_t first_new = num_computed() + again;
  return {.prompt = std::max<int64_t>(std::min(end, num_prompt_tokens()) - first_new, 0),
          .recomputed = again};
}

SampleParams Generation::SampleOf(int64_t position) {
  if (position < num_prompt_tokens()) {
    return {.num_logprobs = sampling_.num_prompt_logprobs,
            .target = tokens()[static_cast<size_t>(position)]};
  }
  if (counts_tokens_) {
    counts_.resize(count_index_.size());
    const int32_t last = tokens().back();
    if (IsDrawnToken(last)) counts_.push_back({.token = last, .in_output = 1});
  }
  return {.temperature = sampling_.temperature,
          .top_k = sampling_.top_k,
          .top_p = sampling_.top_p,
          .min_p = sampling_.min_p,
          .repetition_penalty = sampling_.repetition_penalty,
          .presence_penalty = sampling_.presence_penalty,
          .frequency_penalty = sampling_.frequency_penalty,
          .logit_bias = sampling_.logit_bias,
          .token_counts = counts_,
          .seed = sampling_.seed,
          .position = static_cast<uint64_t>(position),
          .num_logprobs = sampling_.num_logprobs};
}

void Generation::AcceptPromptLogprob(SampleResult result) {
  StreamUpdate update;
  update.prompt_logprobs.push_back(ToOutputToken(std::move(result)));
  stream_->Push(std::move(update));
}

std::optional<Completion> Generation::Accept(SampleResult result) {
  if (!has_output()) return Completion{.reason = FinishReason::kLength};
  const int32_t token = result.token;
  AppendToken(token);
  if (counts_tokens_) CountToken(token, /*is_output=*/true);
  StreamUpdate update;
  update.tokens.push_back(ToOutputToken(std::move(result)));

  std::optional<Completion> end;
  if (IsEndToken(token)) {
    end = Completion{.reason = FinishReason::kStop, .stop_token = token};
  } else {
    StopStringMatcher::Result matched = matcher_.Append(detokenizer_.Append(token));
    update.text = std::move(matched.text);
    if (matched.stop) {
      end = Completion{.reason = FinishReason::kStop, .stop_string = std::move(matched.stop)};
    } else if (num_output_tokens() >= stop_.max_tokens) {
      end = Completion{.reason = FinishReason::kLength};
    }
  }
  if (!end) {
    stream_->Push(std::move(update));
    return std::nullopt;
  }
  last_update_ = std::move(update);
  return end;
}

Usage Generation::UsageSoFar(std::string energy_method) const {
  return {.prompt_tokens = num_prompt_tokens(),
          .completion_tokens = num_output_tokens(),
          .energy_nj = energy_nj_,
          .energy_method = std::move(energy_method)};
}

void Generation::PushEnd(Completion completion) {
  // What was held back as a possible beginning of a character or stop string is text after all,
  // unless a stop string has ended it.
  if (!completion.stop_string) {
    StopStringMatcher::Result matched = matcher_.Append(detokenizer_.Finish());
    last_update_.text += matched.text;
    if (!matched.stop) last_update_.text += matcher_.Finish();
  }
  last_update_.end = std::move(completion);
  stream_->Push(std::move(last_update_));
}

bool Generation::IsEndToken(int32_t token) const {
  return std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

void Generation::CountToken(int32_t token, bool is_output) {
  counts_.resize(count_index_.size());
  const auto [it, inserted] = count_index_.try_emplace(token, counts_.size());
  if (inserted) counts_.push_back({.token = token, .in_output = 0});
  if (is_output) ++counts_[it->second].in_output;
}

}  // namespace sterna
