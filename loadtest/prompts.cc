#include "loadtest/prompts.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"

namespace sterna {
namespace {

using Json = nlohmann::json;

constexpr std::chrono::seconds kTimeout(60);
// More differ from one another than any cache of prefixes needs to be fooled.
constexpr int64_t kMaxPrompts = 256;

constexpr std::array<const char*, 48> kWords = {
    "once", "upon", "time",  "little", "girl",   "boy",    "dog",   "cat",  "river",  "forest",
    "sun",  "rain", "happy", "sad",    "big",    "small",  "found", "lost", "friend", "mother",
    "ball", "tree", "house", "garden", "played", "ran",    "saw",   "said", "wanted", "asked",
    "the",  "a",    "and",   "but",    "with",   "under",  "over",  "near", "very",   "day",
    "red",  "blue", "bird",  "cake",   "gave",   "smiled", "home",  "story"};

// Field `name` of a JSON object in an answer of the server's.
StatusOr<Json> FieldOf(const std::string& body, const char* name) {
  const Json json = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains(name)) {
    return absl::InternalError(absl::StrCat("the answer has no \"", name, "\": ", body));
  }
  return json[name];
}

StatusOr<PromptJson> MakePrompt(const LoadtestOptions& options, const std::string& model,
                                HttpClient& client, std::mt19937_64& random) {
  // A word is a token or more.
  std::string text;
  for (int64_t i = 0; i < options.prompt_tokens; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : " ", kWords[random() % kWords.size()]);
  }
  const bool chat = options.endpoint == "chat";
  STERNA_ASSIGN_OR_RETURN(
      const std::string tokenized,
      client.Fetch("POST", "/tokenize",
                   Json{{"model", model}, {"prompt", text}, {"add_special_tokens", !chat}}.dump(),
                   kTimeout));
  STERNA_ASSIGN_OR_RETURN(Json ids, FieldOf(tokenized, "tokens"));
  const size_t wanted = static_cast<size_t>(options.prompt_tokens);
  if (!ids.is_array() || ids.size() < wanted) {
    return absl::InternalError(absl::StrCat("/tokenize makes ", ids.size(), " tokens of ", wanted,
                                            " words; give prompts with --prompts"));
  }
  ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(wanted), ids.end());
  if (!chat) return ids.dump();
  STERNA_ASSIGN_OR_RETURN(const std::string detokenized,
                          client.Fetch("POST", "/detokenize",
                                       Json{{"model", model}, {"tokens", ids}}.dump(), kTimeout));
  STERNA_ASSIGN_OR_RETURN(const Json prompt, FieldOf(detokenized, "prompt"));
  return prompt.dump();
}

}  // namespace

StatusOr<std::vector<PromptJson>> ParsePrompts(const std::string& text) {
  std::vector<PromptJson> prompts;
  std::istringstream lines(text);
  int64_t number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    const std::string stripped(absl::StripAsciiWhitespace(line));
    if (stripped.empty()) continue;
    Json prompt = stripped;
    if (stripped[0] == '{' || stripped[0] == '"') {
      prompt = Json::parse(stripped, nullptr, /*allow_exceptions=*/false);
      if (prompt.is_object() && prompt.contains("prompt")) prompt = Json(prompt["prompt"]);
    }
    if (!prompt.is_string() || prompt.get_ref<const std::string&>().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "line ", number,
          " of --prompts is neither text, a JSON string, nor an object with a string \"prompt\""));
    }
    // Bytes that are not UTF-8 become U+FFFD: the server would refuse them.
    prompts.push_back(prompt.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  if (prompts.empty()) return absl::InvalidArgumentError("--prompts holds no prompt");
  return prompts;
}

StatusOr<std::vector<PromptJson>> MakePrompts(const LoadtestOptions& options,
                                              const std::string& model, HttpClient& client) {
  if (!options.prompts_file.empty()) {
    STERNA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.prompts_file));
    return ParsePrompts(text);
  }
  std::mt19937_64 random(static_cast<uint64_t>(options.seed));
  const int64_t count =
      options.requests > 0 ? std::min(options.requests, kMaxPrompts) : kMaxPrompts;
  std::vector<PromptJson> prompts;
  for (int64_t i = 0; i < count; ++i) {
    STERNA_ASSIGN_OR_RETURN(PromptJson prompt, MakePrompt(options, model, client, random));
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace sterna
