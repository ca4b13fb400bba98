#include "server/eval/items.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"
#include "server/http/json_reader.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

Status Invalid(const std::string& where, std::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(where, ": ", std::string(message)));
}

// The member that has one of the names; null where there is none.
const Json* Find(const Json& item, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto it = item.find(name);
    if (it != item.end()) return &*it;
  }
  return nullptr;
}

bool IsSpace(char32_t c) { return IsUnicodeSpace(c) || (c >= 0x1c && c <= 0x1f); }

// Where the white space that `text` ends with begins.
size_t TrailingSpace(std::string_view text) {
  size_t end = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, pos);
    pos += unit.length;
    if (unit.kind != Utf8Unit::kCharacter || !IsSpace(unit.code_point)) end = pos;
  }
  return end;
}

StatusOr<std::vector<std::string>> ReadChoices(const Json& choices, const std::string& where) {
  if (!choices.is_array() || choices.empty()) {
    return Invalid(where, "its choices are no array of strings with at least one");
  }
  std::vector<std::string> out;
  for (const Json& choice : choices) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty()) {
      return Invalid(where, "one of its choices is no text of at least one character");
    }
    out.push_back(choice.get<std::string>());
  }
  return out;
}

StatusOr<EvalItem> ReadItem(const Json& json, const std::string& where) {
  if (!json.is_object()) return Invalid(where, "is no JSON object");
  const Json* context = Find(json, {"query", "context", "prompt"});
  if (context == nullptr || !context->is_string()) {
    return Invalid(where, "has no context: a string \"query\", \"context\" or \"prompt\"");
  }
  EvalItem item = {.context = context->get<std::string>()};
  const Json* choices = Find(json, {"choices", "options"});
  const Json* continuation = Find(json, {"continuation"});
  if ((choices == nullptr) == (continuation == nullptr)) {
    return Invalid(where,
                   "must have \"choices\" (or \"options\") or \"continuation\", one of them");
  }
  if (continuation != nullptr) {
    STERNA_ASSIGN_OR_RETURN(item.choices, ReadChoices(Json::array({*continuation}), where));
    return item;
  }
  STERNA_ASSIGN_OR_RETURN(item.choices, ReadChoices(*choices, where));
  const Json* gold = Find(json, {"gold", "input_label"});
  if (gold == nullptr || !gold->is_number_unsigned() ||
      gold->get<uint64_t>() >= item.choices.size()) {
    return Invalid(where, absl::StrCat("its \"gold\" (or \"input_label\") is not the index of a "
                                       "choice, 0 to ",
                                       item.choices.size() - 1));
  }
  item.gold = gold->get<size_t>();
  return item;
}

// Items with where they stand.
class ItemList {
 public:
  explicit ItemList(int64_t limit) : limit_(limit) {}
  bool full() const { return limit_ > 0 && std::ssize(items_) >= limit_; }
  Status Add(const Json& json, const std::string& where) {
    STERNA_ASSIGN_OR_RETURN(EvalItem item, ReadItem(json, where));
    if (!items_.empty() && items_[0].gold.has_value() != item.gold.has_value()) {
      return Invalid(where, "is of another kind than those before it: choices or a continuation");
    }
    items_.push_back(std::move(item));
    return absl::OkStatus();
  }
  StatusOr<std::vector<EvalItem>> Take(const std::string& name) {
    if (items_.empty()) return Invalid(name, "has no items");
    return std::move(items_);
  }

 private:
  int64_t limit_;
  std::vector<EvalItem> items_;
};

// The first index of the largest.
size_t Largest(const std::vector<double>& values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

int64_t Characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

StatusOr<std::vector<EvalItem>> ReadItems(std::string_view text, const std::string& name,
                                          int64_t limit) {
  ItemList items(limit);
  const StatusOr<Json> whole = ParseJsonObject(text);
  if (whole.ok() && whole->contains("samples") && (*whole)["samples"].is_array()) {
    const Json& samples = (*whole)["samples"];
    for (size_t i = 0; i < samples.size() && !items.full(); ++i) {
      STERNA_RETURN_IF_ERROR(items.Add(samples[i], absl::StrCat(name, ": samples[", i, "]")));
    }
    return items.Take(name);
  }
  for (int64_t number = 1; !text.empty() && !items.full(); ++number) {
    const std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (TrailingSpace(line) == 0) continue;
    const std::string where = absl::StrCat(name, ":", number);
    const StatusOr<Json> json = ParseJsonObject(line, "the line");
    if (!json.ok()) return Invalid(where, std::string(json.status().message()));
    STERNA_RETURN_IF_ERROR(items.Add(*json, where));
  }
  return items.Take(name);
}

StatusOr<std::vector<ScoringPrompt>> EncodeItem(const Tokenizer& tokenizer, const EvalItem& item,
                                                bool add_special, int64_t most_tokens) {
  const auto encode = [&](std::string_view text) {
    return tokenizer.Encode(text, add_special, /*parse_special=*/true);
  };
  const std::string_view context(item.context.data(), TrailingSpace(item.context));
  STERNA_ASSIGN_OR_RETURN(const std::vector<int32_t> context_ids, encode(context));
  std::vector<ScoringPrompt> prompts;
  for (const std::string& choice : item.choices) {
    STERNA_ASSIGN_OR_RETURN(
        const std::vector<int32_t> whole,
        encode(absl::StrCat(item.context, choice.starts_with(' ') ? "" : " ", choice)));
    ScoringPrompt prompt = {.tokens = context_ids, .first_scored = std::ssize(context_ids)};
    if (whole.size() > context_ids.size()) {
      prompt.tokens.insert(prompt.tokens.end(),
                           whole.begin() + static_cast<int64_t>(context_ids.size()), whole.end());
    }
    const int64_t lost = std::max<int64_t>(std::ssize(prompt.tokens) - most_tokens, 0);
    if (prompt.first_scored - lost < 1) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the context has ", prompt.first_scored, " tokens and what follows ",
          std::ssize(prompt.tokens) - prompt.first_scored, "; of ", most_tokens,
          " in all at least one must be left of the context, to score what follows by"));
    }
    prompt.tokens.erase(prompt.tokens.begin(), prompt.tokens.begin() + lost);
    prompt.first_scored -= lost;
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

ChoiceFigures JudgeChoices(const std::vector<EvalItem>& items,
                           std::span<const PromptScore> scores) {
  ChoiceFigures sums;
  for (const EvalItem& item : items) {
    std::vector<double> plain, by_character, by_byte;
    for (size_t i = 0; i < item.choices.size(); ++i) {
      const double likelihood = scores[i].log_likelihood;
      plain.push_back(likelihood);
      by_character.push_back(likelihood / static_cast<double>(Characters(item.choices[i])));
      by_byte.push_back(likelihood / static_cast<double>(item.choices[i].size()));
    }
    scores = scores.subspan(item.choices.size());
    sums.acc += Largest(plain) == item.gold ? 1 : 0;
    sums.acc_norm += Largest(by_character) == item.gold ? 1 : 0;
    sums.acc_bytes += Largest(by_byte) == item.gold ? 1 : 0;
  }
  const auto count = static_cast<double>(items.size());
  return {.acc = sums.acc / count,
          .acc_norm = sums.acc_norm / count,
          .acc_bytes = sums.acc_bytes / count};
}

ContinuationFigures JudgeContinuations(std::span<const PromptScore> scores) {
  double greedy = 0;
  double likelihood = 0;
  for (const PromptScore& score : scores) {
    greedy += score.is_greedy ? 1 : 0;
    likelihood += score.log_likelihood;
  }
  const auto count = static_cast<double>(scores.size());
  return {.acc = greedy / count, .perplexity = std::exp(-likelihood / count)};
}

double StandardError(double share, size_t count) {
  return count < 2 ? 0 : std::sqrt(share * (1 - share) / static_cast<double>(count - 1));
}

}  // namespace sterna
