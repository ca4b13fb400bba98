#include "server/validation.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "engine/errors.h"
#include "engine/text/tokenizer.h"

namespace sterna {
namespace {

Status Invalid(std::string_view message, std::string_view param) {
  return MakeError(ErrorLabel::kInvalidRequest, message, param);
}

// A number's allowed range; `open_min`: the lower end itself is not allowed.
struct Range {
  std::string_view name;
  double min;
  double max;
  bool open_min = false;
};

constexpr Range kTemperature = {"temperature", 0, 2};
constexpr Range kTopK = {"top_k", 0, std::numeric_limits<int32_t>::max()};
constexpr Range kTopP = {"top_p", 0, 1, true};
constexpr Range kMinP = {"min_p", 0, 1};
constexpr Range kRepetitionPenalty = {"repetition_penalty", 0, 2, true};
constexpr Range kPresencePenalty = {"presence_penalty", -2, 2};
constexpr Range kFrequencyPenalty = {"frequency_penalty", -2, 2};
constexpr Range kLogprobs = {"logprobs", 0, kMaxLogprobs};
constexpr Range kPromptLogprobs = {"prompt_logprobs", 0, kMaxLogprobs};
constexpr Range kMaxTokens = {"max_tokens", 1, std::numeric_limits<int32_t>::max()};
constexpr Range kMaxTokensOrNone = {"max_tokens", 0, std::numeric_limits<int32_t>::max()};
constexpr Range kPriority = {"priority", -1000000, 1000000};
constexpr Range kBias = {"logit_bias", -100, 100};

template <typename T>
Status CheckRange(T value, const Range& range) {
  const double v = static_cast<double>(value);
  // Written so that NaN fails.
  if ((range.open_min ? v > range.min : v >= range.min) && v <= range.max) return absl::OkStatus();
  return Invalid(
      absl::StrCat(std::string(range.name), " is ", value, "; it must be ",
                   range.open_min ? "above " : "from ", range.min,
                   range.open_min ? " and at most " : " to ", absl::StrFormat("%.10g", range.max)),
      range.name);
}

// `asked` if set, else the checkpoint's recommendation, else `*value` stays; checked either way.
template <typename T, typename U>
Status Choose(const std::optional<T>& asked, const std::optional<T>& recommended,
              const Range& range, U* value) {
  const std::optional<T>& chosen = asked.has_value() ? asked : recommended;
  if (!chosen.has_value()) return absl::OkStatus();
  STERNA_RETURN_IF_ERROR(CheckRange(*chosen, range));
  *value = static_cast<U>(*chosen);
  return absl::OkStatus();
}

StatusOr<SamplingOptions> BuildSampling(const GenerationParameters& p,
                                        const GenerationDefaults& defaults,
                                        const ModelLimits& limits) {
  SamplingOptions out;
  STERNA_RETURN_IF_ERROR(
      Choose(p.temperature, defaults.temperature, kTemperature, &out.temperature));
  STERNA_RETURN_IF_ERROR(Choose(p.top_k, defaults.top_k, kTopK, &out.top_k));
  STERNA_RETURN_IF_ERROR(Choose(p.top_p, defaults.top_p, kTopP, &out.top_p));
  STERNA_RETURN_IF_ERROR(Choose(p.min_p, defaults.min_p, kMinP, &out.min_p));
  STERNA_RETURN_IF_ERROR(Choose(p.repetition_penalty, defaults.repetition_penalty,
                                kRepetitionPenalty, &out.repetition_penalty));
  STERNA_RETURN_IF_ERROR(Choose(p.presence_penalty, {}, kPresencePenalty, &out.presence_penalty));
  STERNA_RETURN_IF_ERROR(
      Choose(p.frequency_penalty, {}, kFrequencyPenalty, &out.frequency_penalty));
  STERNA_RETURN_IF_ERROR(Choose(p.num_logprobs, {}, kLogprobs, &out.num_logprobs));
  STERNA_RETURN_IF_ERROR(
      Choose(p.num_prompt_logprobs, {}, kPromptLogprobs, &out.num_prompt_logprobs));
  if (p.logit_bias.size() > kMaxLogitBias) {
    return Invalid(absl::StrCat("logit_bias has ", p.logit_bias.size(), " entries; at most ",
                                kMaxLogitBias, " are allowed"),
                   "logit_bias");
  }
  std::set<int64_t> biased;
  for (const auto& [token, bias] : p.logit_bias) {
    if (token < 0 || token >= limits.vocab_size) {
      return Invalid(absl::StrCat("logit_bias names token ", token, "; the vocabulary is 0 to ",
                                  limits.vocab_size - 1),
                     "logit_bias");
    }
    if (!biased.insert(token).second) {
      return Invalid(absl::StrCat("logit_bias names token ", token, " twice"), "logit_bias");
    }
    STERNA_RETURN_IF_ERROR(CheckRange(bias, kBias));
    out.logit_bias.emplace_back(static_cast<int32_t>(token), static_cast<float>(bias));
  }
  out.seed = p.seed.has_value() ? *p.seed : RandomUint64();
  return out;
}

Status CheckStopStrings(const std::vector<std::string>& stops) {
  if (static_cast<int64_t>(stops.size()) > kMaxStopStrings) {
    return Invalid(absl::StrCat("stop has ", stops.size(), " strings; at most ", kMaxStopStrings,
                                " are allowed"),
                   "stop");
  }
  for (const std::string& stop : stops) {
    if (stop.empty())
      return Invalid("stop holds an empty string, which would match anywhere", "stop");
    if (static_cast<int64_t>(stop.size()) > kMaxStopStringBytes) {
      return Invalid(absl::StrCat("a stop string has ", stop.size(), " bytes; at most ",
                                  kMaxStopStringBytes, " are allowed"),
                     "stop");
    }
    if (FindInvalidUtf8(stop) != std::string_view::npos) {
      return Invalid("a stop string is not valid UTF-8", "stop");
    }
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::vector<int32_t>> CheckTokenIds(const std::vector<int64_t>& ids,
                                             const ModelLimits& limits, std::string_view param) {
  std::vector<int32_t> out;
  out.reserve(ids.size());
  for (const int64_t id : ids) {
    if (id < 0 || id >= limits.vocab_size) {
      return Invalid(absl::StrCat(std::string(param), " holds token id ", id,
                                  "; the vocabulary is 0 to ", limits.vocab_size - 1),
                     param);
    }
    out.push_back(static_cast<int32_t>(id));
  }
  return out;
}

StatusOr<Request> BuildRequest(const GenerationParameters& p, const GenerationDefaults& defaults,
                               const ModelLimits& limits, std::vector<int32_t> prompt,
                               std::optional<int64_t> default_max_tokens) {
  Request request;
  STERNA_ASSIGN_OR_RETURN(request.sampling, BuildSampling(p, defaults, limits));
  STERNA_RETURN_IF_ERROR(CheckStopStrings(p.stop));
  request.stop.stop_strings = p.stop;
  request.stop.include_stop_string = p.include_stop;
  request.stop.ignore_eos = p.ignore_eos;
  if (static_cast<int64_t>(p.stop_token_ids.size()) > kMaxStopTokens) {
    return Invalid(absl::StrCat("stop_token_ids has ", p.stop_token_ids.size(),
                                " entries; at most ", kMaxStopTokens, " are allowed"),
                   "stop_token_ids");
  }
  STERNA_ASSIGN_OR_RETURN(request.stop.stop_token_ids,
                          CheckTokenIds(p.stop_token_ids, limits, "stop_token_ids"));
  STERNA_RETURN_IF_ERROR(Choose(p.priority, {}, kPriority, &request.priority));

  if (p.max_tokens.has_value()) {
    STERNA_RETURN_IF_ERROR(
        CheckRange(*p.max_tokens, p.allows_no_output ? kMaxTokensOrNone : kMaxTokens));
    request.stop.max_tokens = static_cast<int32_t>(*p.max_tokens);
  } else {
    // A prompt that fills the context keeps max_tokens 1, which Submit refuses with the numbers.
    const int64_t left = limits.max_context_tokens - static_cast<int64_t>(prompt.size());
    request.stop.max_tokens = static_cast<int32_t>(
        std::max<int64_t>(1, std::min(left, default_max_tokens.value_or(left))));
  }
  request.prompt = std::move(prompt);
  return request;
}

uint64_t RandomUint64() {
  uint64_t value = 0;
  STERNA_CHECK(getentropy(&value, sizeof(value)) == 0);
  return value;
}

std::string RandomId(std::string_view prefix) {
  std::array<uint32_t, 3> bits;
  STERNA_CHECK(getentropy(bits.data(), sizeof(bits)) == 0);
  return absl::StrFormat("%s%08x%08x%08x", std::string(prefix), bits[0], bits[1], bits[2]);
}

}  // namespace sterna
