#include "server/http/openai_response.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/errors.h"
#include "server/http/json_reader.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no infinity; OpenAI's API uses this for "impossible".
constexpr double kLowestLogprob = -9999.0;

double Finite(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : kLowestLogprob;
}

struct CodeAndType {
  int code;
  std::string_view type;
};

CodeAndType HttpCodeOf(ErrorLabel label) {
  switch (label) {
    case ErrorLabel::kInvalidRequest:
    case ErrorLabel::kContextLengthExceeded:
      return {400, "invalid_request_error"};
    case ErrorLabel::kModelNotFound:
      return {404, "invalid_request_error"};
    case ErrorLabel::kQueueFull:
      return {429, "rate_limit_error"};
    // A client that went away reads nothing; who reads this was cancelled by a shutdown.
    case ErrorLabel::kCancelled:
    case ErrorLabel::kDraining:
    case ErrorLabel::kLoading:
      return {503, "service_unavailable_error"};
    case ErrorLabel::kInternal:
      return {500, "server_error"};
  }
  return {500, "server_error"};
}

Json MakeErrorBody(std::string_view message, std::string_view type, Json param, Json code) {
  return {{"error",
           {{"message", std::string(message)},
            {"type", std::string(type)},
            {"param", std::move(param)},
            {"code", std::move(code)}}}};
}

Json BytesOrNull(const std::string& bytes) {
  if (bytes.empty()) return nullptr;
  Json out = Json::array();
  for (const char c : bytes) out.push_back(static_cast<int>(static_cast<unsigned char>(c)));
  return out;
}

Json TopEntry(const Tokenizer& tokenizer, int32_t id, float logprob) {
  return {{"token", TokenText(tokenizer, id)},
          {"logprob", Finite(logprob)},
          {"bytes", BytesOrNull(tokenizer.TokenBytes(id))}};
}

void AppendToken(std::string text, Json logprob, Json top, int64_t text_offset, Json* logprobs) {
  if (logprobs->is_null()) {
    *logprobs = {{"tokens", Json::array()},
                 {"token_logprobs", Json::array()},
                 {"top_logprobs", Json::array()},
                 {"text_offset", Json::array()}};
  }
  (*logprobs)["tokens"].push_back(std::move(text));
  (*logprobs)["token_logprobs"].push_back(std::move(logprob));
  (*logprobs)["top_logprobs"].push_back(std::move(top));
  (*logprobs)["text_offset"].push_back(text_offset);
}

}  // namespace

HttpResponse JsonResponse(int code, const Json& body) {
  return {.code = code,
          .headers = {{"Content-Type", std::string(kJsonType)}},
          .body = JsonText(body) + "\n"};
}

Json ErrorBody(const Status& status) {
  const ErrorLabel label = ErrorLabelOf(status);
  const std::string param = ErrorParamOf(status);
  return MakeErrorBody(std::string(status.message()), HttpCodeOf(label).type,
                       param.empty() ? Json(nullptr) : Json(param),
                       std::string(ErrorLabelName(label)));
}

HttpResponse ErrorResponse(const Status& status) {
  HttpResponse response = JsonResponse(HttpCodeOf(ErrorLabelOf(status)).code, ErrorBody(status));
  if (response.code == 429 || response.code == 503) {
    response.headers.emplace_back("Retry-After", "1");
  }
  return response;
}

HttpResponse PlainErrorResponse(int code, std::string_view message) {
  const bool ours = code >= 500;
  HttpResponse response =
      JsonResponse(code, MakeErrorBody(message, ours ? "server_error" : "invalid_request_error",
                                       nullptr, ours ? Json(nullptr) : Json("invalid_request")));
  if (code == 503) response.headers.emplace_back("Retry-After", "1");
  return response;
}

Json UsageBody(const std::vector<Usage>& choices, int64_t choices_per_prompt) {
  int64_t prompt = 0;
  int64_t completion = 0;
  int64_t energy_nj = 0;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (static_cast<int64_t>(i) % choices_per_prompt == 0) prompt += choices[i].prompt_tokens;
    completion += choices[i].completion_tokens;
    energy_nj += choices[i].energy_nj;
  }
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"energy_millijoules", (energy_nj + 500'000) / 1'000'000},
          {"energy_method", choices.empty() ? "" : choices[0].energy_method}};
}

std::string TokenText(const Tokenizer& tokenizer, int32_t id) {
  std::string bytes = tokenizer.TokenBytes(id);
  if (bytes.empty()) return tokenizer.IdToToken(id);
  if (FindInvalidUtf8(bytes) == std::string_view::npos) return bytes;
  std::string text = "bytes:";
  for (const char c : bytes) {
    absl::StrAppendFormat(&text, "\\x%02x", static_cast<unsigned char>(c));
  }
  return text;
}

Json ChatLogprob(const Tokenizer& tokenizer, const OutputToken& token) {
  Json entry = TopEntry(tokenizer, token.id, token.logprob);
  Json top = Json::array();
  for (const TokenLogprob& t : token.top) top.push_back(TopEntry(tokenizer, t.token, t.logprob));
  entry["top_logprobs"] = std::move(top);
  return entry;
}

void AppendCompletionLogprob(const Tokenizer& tokenizer, const OutputToken& token,
                             int64_t text_offset, Json* logprobs) {
  Json top = Json::object();
  // Tokens may have the same text; the likeliest of them stands for it.
  for (const TokenLogprob& t : token.top) {
    top.emplace(TokenText(tokenizer, t.token), Finite(t.logprob));
  }
  top.emplace(TokenText(tokenizer, token.id), Finite(token.logprob));
  AppendToken(TokenText(tokenizer, token.id), Finite(token.logprob), std::move(top), text_offset,
              logprobs);
}

void AppendFirstPromptToken(const Tokenizer& tokenizer, int32_t id, Json* logprobs) {
  AppendToken(TokenText(tokenizer, id), nullptr, nullptr, /*text_offset=*/0, logprobs);
}

Json ModelBody(const std::string& name, int64_t created, const Runtime& runtime) {
  const ModelInfo& info = runtime.info();
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "sterna"},
          {"max_model_len", info.max_context_tokens},
          {"family", info.family},
          {"architecture", info.architecture},
          {"device", info.device},
          {"parameters", info.parameters},
          {"vocab_size", info.vocab_size},
          {"energy_method", runtime.energy_meter().method()},
          {"energy_scope", runtime.energy_meter().scope()}};
}

}  // namespace sterna
