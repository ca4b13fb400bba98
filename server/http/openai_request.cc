#include "server/http/openai_request.h"

#include <array>
#include <charconv>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/errors.h"
#include "server/http/json_reader.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxMessages = 4096;

// Fields of OpenAI's API that say nothing about the text: accounting, storage, routing.
constexpr std::array<std::string_view, 8> kHarmless = {"user",
                                                       "metadata",
                                                       "store",
                                                       "service_tier",
                                                       "safety_identifier",
                                                       "prompt_cache_key",
                                                       "prompt_cache_retention",
                                                       "prompt_cache_options"};

void ReadStop(JsonObjectReader& reader, std::vector<std::string>* out) {
  const Json* stop = reader.Get("stop");
  if (stop == nullptr) return;
  if (stop->is_string()) {
    out->push_back(stop->get<std::string>());
    return;
  }
  if (!stop->is_array()) {
    return reader.Fail("stop", absl::StrCat("is ", JsonTypeText(*stop),
                                            "; it must be a string or an array of strings"));
  }
  for (size_t i = 0; i < stop->size(); ++i) {
    if (!(*stop)[i].is_string()) {
      return reader.Fail(absl::StrCat("stop[", i, "]"),
                         absl::StrCat("is ", JsonTypeText((*stop)[i]), "; it must be a string"));
    }
    out->push_back((*stop)[i].get<std::string>());
  }
}

void ReadLogitBias(JsonObjectReader& reader, std::vector<std::pair<int64_t, double>>* out) {
  const Json* bias = reader.Get("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) {
    return reader.Fail("logit_bias", absl::StrCat("is ", JsonTypeText(*bias),
                                                  "; it must be an object of token id to number"));
  }
  for (const auto& [key, value] : bias->items()) {
    int64_t token = 0;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), token);
    const std::string path = absl::StrCat("logit_bias.", key.substr(0, 32));
    if (error != std::errc() || end != key.data() + key.size()) {
      return reader.Fail(path, "is no token id; keys must be integers in quotes");
    }
    if (!value.is_number()) {
      return reader.Fail(path, absl::StrCat("is ", JsonTypeText(value), "; it must be a number"));
    }
    out->emplace_back(token, value.get<double>());
  }
}

void ReadStream(JsonObjectReader& reader, OpenAiOptions* out) {
  reader.Read("stream", &out->stream);
  const Json* options = reader.Get("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) {
    return reader.Fail("stream_options",
                       absl::StrCat("is ", JsonTypeText(*options), "; it must be an object"));
  }
  if (!out->stream) return reader.Fail("stream_options", "is only allowed with stream: true");
  JsonObjectReader nested(*options, "stream_options");
  nested.Read("include_usage", &out->include_usage);
  constexpr std::array<std::string_view, 1> kIgnored = {"include_obfuscation"};
  nested.Ignore(kIgnored);
  reader.Fail(nested.Finish());
}

void ReadN(JsonObjectReader& reader, OpenAiOptions* out) {
  std::optional<int64_t> n;
  reader.Read("n", &n);
  if (!n.has_value()) return;
  if (*n < 1 || *n > kMaxChoices) {
    return reader.Fail("n", absl::StrCat("is ", *n, "; it must be from 1 to ", kMaxChoices));
  }
  out->n = *n;
}

// Everything but the prompt, logprobs and what only one of the two calls knows.
void ReadCommon(JsonObjectReader& reader, OpenAiOptions* out) {
  std::optional<std::string> model;
  reader.Read("model", &model);
  out->model = model.value_or("");
  GenerationParameters& p = out->parameters;
  reader.Read("temperature", &p.temperature);
  reader.Read("top_p", &p.top_p);
  reader.Read("top_k", &p.top_k);
  reader.Read("min_p", &p.min_p);
  reader.Read("repetition_penalty", &p.repetition_penalty);
  reader.Read("presence_penalty", &p.presence_penalty);
  reader.Read("frequency_penalty", &p.frequency_penalty);
  ReadLogitBias(reader, &p.logit_bias);
  std::optional<int64_t> seed;
  reader.Read("seed", &seed);
  // OpenAI's seeds are signed; the bits are what counts.
  if (seed.has_value()) p.seed = static_cast<uint64_t>(*seed);
  reader.Read("max_tokens", &p.max_tokens);
  ReadStop(reader, &p.stop);
  reader.Read("stop_token_ids", &p.stop_token_ids);
  reader.Read("ignore_eos", &p.ignore_eos);
  reader.Read("include_stop_str_in_output", &p.include_stop);
  reader.Read("priority", &p.priority);
  ReadN(reader, out);
  ReadStream(reader, out);
  reader.Ignore(kHarmless);
}

// One element of an array of prompts, or the only prompt.
StatusOr<PromptInput> ReadPrompt(const Json& value, const std::string& path) {
  if (value.is_string()) return PromptInput(value.get<std::string>());
  const auto invalid = [&path](std::string_view message) {
    return MakeError(ErrorLabel::kInvalidRequest, absl::StrCat(path, " ", std::string(message)),
                     path);
  };
  if (!value.is_array()) {
    return invalid(
        absl::StrCat("is ", JsonTypeText(value), "; it must be a string or an array of token ids"));
  }
  if (value.empty()) return invalid("is empty; it needs at least one token id");
  std::vector<int64_t> ids;
  for (const Json& id : value) {
    const bool fits =
        id.is_number_integer() && !(id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX);
    if (!fits) {
      return invalid(absl::StrCat("holds ", JsonTypeText(id), " among token ids"));
    }
    ids.push_back(id.get<int64_t>());
  }
  return PromptInput(std::move(ids));
}

void ReadPrompts(JsonObjectReader& reader, std::vector<PromptInput>* out) {
  const Json* prompt = reader.Get("prompt");
  if (prompt == nullptr) return reader.Fail("prompt", "is missing");
  const bool several = prompt->is_array() && !prompt->empty() && !(*prompt)[0].is_number();
  const size_t count = several ? prompt->size() : 1;
  if (static_cast<int64_t>(count) > kMaxTotalChoices) {
    return reader.Fail("prompt", absl::StrCat("has ", count, " prompts; at most ", kMaxTotalChoices,
                                              " are allowed"));
  }
  for (size_t i = 0; i < count; ++i) {
    StatusOr<PromptInput> input = several
                                      ? ReadPrompt((*prompt)[i], absl::StrCat("prompt[", i, "]"))
                                      : ReadPrompt(*prompt, "prompt");
    if (!input.ok()) return reader.Fail(input.status());
    out->push_back(*std::move(input));
  }
}

// A message's content is a string, null, or an array of text parts, which are joined: templates
// expect a string.
Status NormaliseContent(Json& message, const std::string& path) {
  const auto it = message.find("content");
  if (it == message.end() || it->is_null() || it->is_string()) return absl::OkStatus();
  const auto invalid = [](const std::string& at, std::string_view message) {
    return MakeError(ErrorLabel::kInvalidRequest, absl::StrCat(at, " ", std::string(message)), at);
  };
  if (!it->is_array()) {
    return invalid(path, absl::StrCat("is ", JsonTypeText(*it),
                                      "; it must be a string or an array of text parts"));
  }
  std::string text;
  for (size_t i = 0; i < it->size(); ++i) {
    const Json& part = (*it)[i];
    const std::string part_path = absl::StrCat(path, "[", i, "]");
    if (!part.is_object() || !part.contains("type") || part["type"] != "text") {
      return invalid(part_path,
                     "must be an object of type \"text\"; other parts are not supported");
    }
    if (!part.contains("text") || !part["text"].is_string()) {
      return invalid(absl::StrCat(part_path, ".text"), "must be a string");
    }
    text += part["text"].get<std::string>();
  }
  *it = text;
  return absl::OkStatus();
}

void ReadMessages(JsonObjectReader& reader, ChatTemplateInput* out) {
  const Json* messages = reader.Get("messages");
  if (messages == nullptr) return reader.Fail("messages", "is missing");
  if (!messages->is_array() || messages->empty()) {
    return reader.Fail(
        "messages",
        absl::StrCat("is ", messages->is_array() ? "an empty array" : JsonTypeText(*messages),
                     "; it must be an array of at least one message"));
  }
  if (static_cast<int64_t>(messages->size()) > kMaxMessages) {
    return reader.Fail("messages", absl::StrCat("has ", messages->size(), " messages; at most ",
                                                kMaxMessages, " are allowed"));
  }
  Json normalised = *messages;
  for (size_t i = 0; i < normalised.size(); ++i) {
    Json& message = normalised[i];
    const std::string path = absl::StrCat("messages[", i, "]");
    if (!message.is_object()) {
      return reader.Fail(path,
                         absl::StrCat("is ", JsonTypeText(message), "; it must be an object"));
    }
    if (!message.contains("role") || !message["role"].is_string()) {
      return reader.Fail(path + ".role", "must be a string such as \"user\"");
    }
    const bool calls_tools = message.contains("tool_calls");
    if (!calls_tools && (!message.contains("content") || message["content"].is_null())) {
      return reader.Fail(path + ".content", "is missing; it must be a string");
    }
    reader.Fail(NormaliseContent(message, path + ".content"));
    if (reader.failed()) return;
  }
  out->messages_json = JsonText(normalised);
}

// An array that is passed on to the template as it is.
void ReadArrayText(JsonObjectReader& reader, std::string_view name, std::string* out) {
  const Json* value = reader.Get(name);
  if (value == nullptr || (value->is_array() && value->empty())) return;
  if (!value->is_array()) {
    return reader.Fail(name, absl::StrCat("is ", JsonTypeText(*value), "; it must be an array"));
  }
  for (size_t i = 0; i < value->size(); ++i) {
    if (!(*value)[i].is_object()) {
      return reader.Fail(absl::StrCat(std::string(name), "[", i, "]"),
                         absl::StrCat("is ", JsonTypeText((*value)[i]), "; it must be an object"));
    }
  }
  *out = JsonText(*value);
}

// Messages and everything else a template sees.
void ReadTemplateInput(JsonObjectReader& reader, ChatTemplateInput* out) {
  ReadMessages(reader, out);
  ReadArrayText(reader, "tools", &out->tools_json);
  ReadArrayText(reader, "documents", &out->documents_json);
  reader.Read("add_generation_prompt", &out->add_generation_prompt);
  const Json* extra = reader.Get("chat_template_kwargs");
  if (extra == nullptr) return;
  if (!extra->is_object()) {
    return reader.Fail("chat_template_kwargs",
                       absl::StrCat("is ", JsonTypeText(*extra), "; it must be an object"));
  }
  for (const auto& [name, value] : extra->items()) out->extra_json[name] = JsonText(value);
}

void ReadChatLogprobs(JsonObjectReader& reader, GenerationParameters* out) {
  bool logprobs = false;
  std::optional<int64_t> top;
  reader.Read("logprobs", &logprobs);
  reader.Read("top_logprobs", &top);
  if (top.has_value() && !logprobs) {
    return reader.Fail("top_logprobs", "is only allowed with logprobs: true");
  }
  if (top.has_value() && (*top < 0 || *top > kMaxLogprobs)) {
    return reader.Fail("top_logprobs",
                       absl::StrCat("is ", *top, "; it must be from 0 to ", kMaxLogprobs));
  }
  if (logprobs) out->num_logprobs = top.value_or(0);
}

// max_tokens and its newer name must agree when both are given.
void ReadMaxCompletionTokens(JsonObjectReader& reader, GenerationParameters* out) {
  std::optional<int64_t> limit;
  reader.Read("max_completion_tokens", &limit);
  if (!limit.has_value()) return;
  if (out->max_tokens.has_value() && *out->max_tokens != *limit) {
    return reader.Fail("max_completion_tokens",
                       absl::StrCat("is ", *limit, " but max_tokens is ", *out->max_tokens,
                                    "; give one of them, or the same value"));
  }
  out->max_tokens = limit;
}

void RefuseChatFields(JsonObjectReader& reader) {
  struct Row {
    std::string_view name;
    std::vector<std::string_view> neutral;
    std::string_view supported;
  };
  static const std::array<Row, 12> kRows = {{
      {"response_format", {R"({"type":"text"})"}, "only {\"type\": \"text\"} is"},
      {"modalities", {R"(["text"])"}, "only [\"text\"] is"},
      {"audio", {}, "text is the only output"},
      {"functions", {"[]"}, "describe functions in tools, which the chat template renders"},
      {"function_call", {R"("none")", R"("auto")"}, "only \"none\" and \"auto\" are"},
      {"tool_choice", {R"("none")", R"("auto")"}, "only \"none\" and \"auto\" are"},
      {"prediction", {}, "leave it out"},
      {"reasoning_effort", {R"("none")"}, "pass what the template knows in chat_template_kwargs"},
      {"verbosity", {R"("medium")"}, "leave it out"},
      {"web_search_options", {}, "leave it out"},
      {"moderation", {}, "leave it out"},
      {"best_of", {"1"}, "use n"},
  }};
  for (const Row& row : kRows) reader.RefuseUnless(row.name, row.neutral, row.supported);
  constexpr std::array<std::string_view, 1> kIgnored = {"parallel_tool_calls"};
  reader.Ignore(kIgnored);
}

void RefuseCompletionFields(JsonObjectReader& reader, int64_t n) {
  constexpr std::array<std::string_view, 1> kEmptyString = {R"("")"};
  reader.RefuseUnless("suffix", kEmptyString, "only text after the prompt is generated");
  const std::string n_text = absl::StrCat(n);
  const std::array<std::string_view, 1> same_as_n = {n_text};
  reader.RefuseUnless("best_of", same_as_n, "only the value of n is");
}

void ReadEcho(JsonObjectReader& reader, CompletionCall* out) {
  reader.Read("echo", &out->echo);
  if (!out->echo) return;
  GenerationParameters& p = out->options.parameters;
  p.num_prompt_logprobs = p.num_logprobs;
  p.allows_no_output = true;
}

}  // namespace

StatusOr<CompletionCall> ReadCompletionCall(std::string_view body) {
  STERNA_ASSIGN_OR_RETURN(const Json object, ParseJsonObject(body));
  JsonObjectReader reader(object, "");
  CompletionCall call;
  ReadCommon(reader, &call.options);
  ReadPrompts(reader, &call.prompts);
  reader.Read("add_special_tokens", &call.add_special_tokens);
  reader.Read("logprobs", &call.options.parameters.num_logprobs);
  ReadEcho(reader, &call);
  RefuseCompletionFields(reader, call.options.n);
  STERNA_RETURN_IF_ERROR(reader.Finish());
  const int64_t choices = call.options.n * static_cast<int64_t>(call.prompts.size());
  if (choices > kMaxTotalChoices) {
    return MakeError(ErrorLabel::kInvalidRequest,
                     absl::StrCat("n for each prompt makes ", choices, " choices; at most ",
                                  kMaxTotalChoices, " are allowed"),
                     "n");
  }
  return call;
}

StatusOr<ChatCall> ReadChatCall(std::string_view body) {
  STERNA_ASSIGN_OR_RETURN(const Json object, ParseJsonObject(body));
  JsonObjectReader reader(object, "");
  ChatCall call;
  ReadCommon(reader, &call.options);
  ReadMaxCompletionTokens(reader, &call.options.parameters);
  ReadChatLogprobs(reader, &call.options.parameters);
  ReadTemplateInput(reader, &call.input);
  reader.Read("add_special_tokens", &call.add_special_tokens);
  RefuseChatFields(reader);
  STERNA_RETURN_IF_ERROR(reader.Finish());
  return call;
}

StatusOr<TokenizeCall> ReadTokenizeCall(std::string_view body) {
  STERNA_ASSIGN_OR_RETURN(const Json object, ParseJsonObject(body));
  JsonObjectReader reader(object, "");
  TokenizeCall call;
  std::optional<std::string> model;
  reader.Read("model", &model);
  call.model = model.value_or("");
  std::optional<bool> add_special;
  reader.Read("add_special_tokens", &add_special);
  reader.Read("return_token_strs", &call.return_token_strs);
  if (object.contains("messages")) {
    ChatTemplateInput input;
    ReadTemplateInput(reader, &input);
    call.input = std::move(input);
  } else {
    std::optional<std::string> prompt;
    reader.Read("prompt", &prompt);
    if (!prompt.has_value()) reader.Fail("prompt", "is missing; give prompt or messages");
    call.input = prompt.value_or("");
  }
  // As the completions and chat calls do.
  call.add_special_tokens = add_special.value_or(std::holds_alternative<std::string>(call.input));
  STERNA_RETURN_IF_ERROR(reader.Finish());
  return call;
}

StatusOr<DetokenizeCall> ReadDetokenizeCall(std::string_view body) {
  STERNA_ASSIGN_OR_RETURN(const Json object, ParseJsonObject(body));
  JsonObjectReader reader(object, "");
  DetokenizeCall call;
  std::optional<std::string> model;
  reader.Read("model", &model);
  call.model = model.value_or("");
  if (!object.contains("tokens")) reader.Fail("tokens", "is missing");
  reader.Read("tokens", &call.tokens);
  STERNA_RETURN_IF_ERROR(reader.Finish());
  return call;
}

}  // namespace sterna
