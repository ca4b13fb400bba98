#include "server/http/api_handler.h"

#include <algorithm>
#include <array>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/logging.h"
#include "engine/errors.h"
#include "server/http/generation_source.h"
#include "server/http/http_text.h"
#include "server/http/index_page.h"
#include "server/http/json_reader.h"
#include "server/http/openai_request.h"
#include "server/http/openai_response.h"
#include "server/prompt.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kDefaultCompletionTokens = 16;  // OpenAI's
constexpr size_t kMaxRequestIdBytes = 128;
constexpr std::string_view kModelsPrefix = "/v1/models/";

class ApiHandler final : public HttpHandler {
 public:
  ApiHandler(ModelService* service, const std::string& cors_allow_origin) : service_(service) {
    for (absl::string_view origin :
         absl::StrSplit(cors_allow_origin, ',', absl::SkipWhitespace())) {
      origins_.emplace_back(absl::StripAsciiWhitespace(origin));
    }
  }

  bool IsQuick(const HttpRequest& request) const override {
    return request.target.starts_with("/health/") || request.method == "OPTIONS";
  }
  HttpReply Handle(const HttpRequest& request) override;
  HttpResponse Error(int code, std::string_view message) const override {
    return PlainErrorResponse(code, message);
  }
  void Count(std::string_view route, std::string_view method, int code) override {
    // Methods are the client's words: one series for all that no route has.
    const bool known =
        method == "GET" || method == "POST" || method == "HEAD" || method == "OPTIONS";
    service_->metrics().CountHttpRequest(route, known ? method : "other", code);
  }

 private:
  struct Route {
    std::string_view pattern;
    std::string_view method;
    HttpReply (ApiHandler::*handle)(const HttpRequest&, const std::string& path);
  };
  static const std::array<Route, 11> kRoutes;

  HttpReply Dispatch(const HttpRequest& request);
  HttpReply Preflight(const HttpRequest& request, const std::string& allowed) const;
  HttpHeaders CommonHeaders(const HttpRequest& request) const;
  // Counts and answers an error of a request that never reached the engine.
  HttpReply Refuse(const Status& status);

  HttpReply Index(const HttpRequest& request, const std::string& path);
  HttpReply Live(const HttpRequest& request, const std::string& path);
  HttpReply Ready(const HttpRequest& request, const std::string& path);
  HttpReply Metrics(const HttpRequest& request, const std::string& path);
  HttpReply ListModels(const HttpRequest& request, const std::string& path);
  HttpReply GetModel(const HttpRequest& request, const std::string& path);
  HttpReply Completions(const HttpRequest& request, const std::string& path);
  HttpReply Chat(const HttpRequest& request, const std::string& path);
  HttpReply Tokenize(const HttpRequest& request, const std::string& path);
  HttpReply Detokenize(const HttpRequest& request, const std::string& path);

  StatusOr<std::vector<Request>> BuildCompletions(const CompletionCall& call);
  StatusOr<std::vector<Request>> BuildChat(ChatCall& call);
  // Submits and makes the source of the response.
  HttpReply Generate(const OpenAiOptions& options, bool chat, bool echo,
                     std::vector<Request> requests);

  ModelService* const service_;
  std::vector<std::string> origins_;
};

const std::array<ApiHandler::Route, 11> ApiHandler::kRoutes = {{
    {"/", "GET", &ApiHandler::Index},
    {"/health/live", "GET", &ApiHandler::Live},
    {"/health/ready", "GET", &ApiHandler::Ready},
    {"/metrics", "GET", &ApiHandler::Metrics},
    {"/v1/models", "GET", &ApiHandler::ListModels},
    {"/v1/models/{id}", "GET", &ApiHandler::GetModel},
    {"/v1/completions", "POST", &ApiHandler::Completions},
    {"/v1/chat/completions", "POST", &ApiHandler::Chat},
    {"/tokenize", "POST", &ApiHandler::Tokenize},
    {"/detokenize", "POST", &ApiHandler::Detokenize},
    {"/health", "GET", &ApiHandler::Ready},
}};

bool Matches(std::string_view pattern, std::string_view path) {
  if (pattern == "/v1/models/{id}") {
    return path.starts_with(kModelsPrefix) && path.size() > kModelsPrefix.size();
  }
  return pattern == path;
}

HttpReply Whole(HttpResponse response) {
  return {.response = std::move(response), .source = nullptr, .headers = {}};
}

// Echoed so that clients and gateways can follow a request; only if it is safe to print.
bool IsPrintableId(std::string_view id) {
  return !id.empty() && id.size() <= kMaxRequestIdBytes &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

bool IsJsonType(std::string_view content_type) {
  const std::string_view type = content_type.substr(0, content_type.find(';'));
  const absl::string_view trimmed =
      absl::StripAsciiWhitespace(absl::string_view(type.data(), type.size()));
  return trimmed.empty() || EqualsIgnoreCase({trimmed.data(), trimmed.size()}, kJsonType);
}

HttpHeaders ApiHandler::CommonHeaders(const HttpRequest& request) const {
  HttpHeaders headers;
  const std::string_view id = request.Header("x-request-id");
  headers.emplace_back("x-request-id", IsPrintableId(id) ? std::string(id) : RandomId("req-"));
  if (origins_.empty()) return headers;
  const std::string_view origin = request.Header("Origin");
  if (origins_[0] == "*") {
    headers.emplace_back("Access-Control-Allow-Origin", "*");
  } else {
    headers.emplace_back("Vary", "Origin");
    if (std::find(origins_.begin(), origins_.end(), origin) == origins_.end()) return headers;
    headers.emplace_back("Access-Control-Allow-Origin", std::string(origin));
  }
  headers.emplace_back("Access-Control-Expose-Headers", "x-request-id, Retry-After");
  return headers;
}

HttpReply ApiHandler::Preflight(const HttpRequest& request, const std::string& allowed) const {
  HttpReply reply = Whole({.code = 204, .headers = {{"Allow", allowed}}, .body = ""});
  if (origins_.empty()) return reply;
  HttpHeaders& headers = reply.response.headers;
  headers.emplace_back("Access-Control-Allow-Methods", allowed);
  const std::string_view asked = request.Header("Access-Control-Request-Headers");
  if (!asked.empty()) headers.emplace_back("Access-Control-Allow-Headers", std::string(asked));
  headers.emplace_back("Access-Control-Max-Age", "600");
  return reply;
}

HttpReply ApiHandler::Handle(const HttpRequest& request) {
  HttpReply reply;
  try {
    reply = Dispatch(request);
  } catch (const std::exception& e) {
    // Libraries may throw (out of memory, most likely); no request may take the server down.
    STERNA_LOG(kError, "a request to ", request.target.substr(0, 128), " failed: ", e.what());
    reply = Whole(PlainErrorResponse(500, "the server failed to answer this request"));
  }
  const HttpHeaders common = CommonHeaders(request);
  reply.headers.insert(reply.headers.end(), common.begin(), common.end());
  return reply;
}

HttpReply ApiHandler::Dispatch(const HttpRequest& request) {
  const std::optional<std::string> path = TargetPath(request.target);
  std::vector<std::string> methods;
  std::string pattern = "other";
  // HEAD is GET whose body the connection leaves out.
  const std::string_view method =
      request.method == "HEAD" ? "GET" : std::string_view(request.method);
  for (const Route& route : kRoutes) {
    if (!path.has_value() || !Matches(route.pattern, *path)) continue;
    pattern = std::string(route.pattern);
    methods.emplace_back(route.method);
    if (route.method == "GET") methods.emplace_back("HEAD");
    if (route.method != method) continue;
    HttpReply reply;
    if (method == "POST" && !IsJsonType(request.Header("Content-Type"))) {
      reply =
          Whole(PlainErrorResponse(415, absl::StrCat("the body's Content-Type is '",
                                                     std::string(request.Header("Content-Type")),
                                                     "'; it must be application/json")));
    } else {
      reply = (this->*route.handle)(request, *path);
    }
    reply.route = pattern;
    return reply;
  }
  HttpReply reply;
  methods.emplace_back("OPTIONS");
  const std::string allowed = absl::StrJoin(methods, ", ");
  if (pattern == "other") {
    reply = Whole(
        PlainErrorResponse(404, absl::StrCat("there is nothing at ", request.target.substr(0, 256),
                                             "; GET / lists what there is")));
  } else if (request.method == "OPTIONS") {
    reply = Preflight(request, allowed);
  } else {
    reply = Whole(PlainErrorResponse(
        405, absl::StrCat(pattern, " does not take ", request.method.substr(0, 32), "; it takes ",
                          allowed)));
    reply.response.headers.emplace_back("Allow", allowed);
  }
  reply.route = pattern;
  return reply;
}

HttpReply ApiHandler::Refuse(const Status& status) {
  service_->CountRefused(status);
  return Whole(ErrorResponse(status));
}

HttpReply ApiHandler::Index(const HttpRequest&, const std::string&) {
  return Whole({.code = 200,
                .headers = {{"Content-Type", "text/html; charset=utf-8"}},
                .body = IndexPage(service_->name())});
}

HttpReply ApiHandler::Live(const HttpRequest&, const std::string&) {
  const bool failed = service_->state() == ModelService::State::kFailed;
  return Whole(JsonResponse(failed ? 503 : 200, {{"status", failed ? "failed" : "live"}}));
}

HttpReply ApiHandler::Ready(const HttpRequest&, const std::string&) {
  switch (service_->state()) {
    case ModelService::State::kReady:
      return Whole(JsonResponse(200, {{"status", "ready"}}));
    case ModelService::State::kLoading:
      return Whole(JsonResponse(503, {{"status", "loading"},
                                      {"loaded_bytes", service_->load_done_bytes()},
                                      {"total_bytes", service_->load_total_bytes()}}));
    case ModelService::State::kLoadFailed:
      return Whole(
          JsonResponse(503, {{"status", "load_failed"}, {"reason", service_->load_failure()}}));
    case ModelService::State::kDraining:
      return Whole(JsonResponse(503, {{"status", "draining"}}));
    case ModelService::State::kFailed:
      break;
  }
  return Whole(JsonResponse(503, {{"status", "failed"}}));
}

HttpReply ApiHandler::Metrics(const HttpRequest&, const std::string&) {
  return Whole({.code = 200,
                .headers = {{"Content-Type", std::string(MetricsRegistry::kContentType)}},
                .body = service_->metrics().Render()});
}

HttpReply ApiHandler::ListModels(const HttpRequest&, const std::string&) {
  const StatusOr<Runtime*> runtime = service_->Find("");
  if (!runtime.ok()) return Refuse(runtime.status());
  const Json model = ModelBody(service_->name(), service_->created_unix_seconds(), **runtime);
  return Whole(JsonResponse(200, {{"object", "list"}, {"data", Json::array({model})}}));
}

HttpReply ApiHandler::GetModel(const HttpRequest&, const std::string& path) {
  const StatusOr<Runtime*> runtime = service_->Find(path.substr(kModelsPrefix.size()));
  if (!runtime.ok()) return Refuse(runtime.status());
  return Whole(
      JsonResponse(200, ModelBody(service_->name(), service_->created_unix_seconds(), **runtime)));
}

// Adds `n` requests that differ in the seed alone: choice i draws with seed + i.
void AddChoices(const Request& base, int64_t n, std::vector<Request>* out) {
  for (int64_t i = 0; i < n; ++i) {
    out->push_back(base);
    out->back().sampling.seed += static_cast<uint64_t>(i);
  }
}

StatusOr<std::vector<Request>> ApiHandler::BuildCompletions(const CompletionCall& call) {
  STERNA_ASSIGN_OR_RETURN(Runtime * runtime, service_->Find(call.options.model));
  std::vector<Request> requests;
  for (size_t i = 0; i < call.prompts.size(); ++i) {
    const std::string param = call.prompts.size() == 1 ? "prompt" : absl::StrCat("prompt[", i, "]");
    StatusOr<std::vector<int32_t>> ids;
    if (const auto* text = std::get_if<std::string>(&call.prompts[i])) {
      ids = EncodePrompt(*runtime, *text, call.add_special_tokens, param);
    } else {
      ids =
          CheckTokenIds(std::get<std::vector<int64_t>>(call.prompts[i]), service_->limits(), param);
    }
    if (!ids.ok()) return ids.status();
    STERNA_ASSIGN_OR_RETURN(
        const Request base,
        BuildRequest(call.options.parameters, service_->defaults(), service_->limits(),
                     *std::move(ids), kDefaultCompletionTokens));
    AddChoices(base, call.options.n, &requests);
  }
  return requests;
}

StatusOr<std::vector<Request>> ApiHandler::BuildChat(ChatCall& call) {
  STERNA_ASSIGN_OR_RETURN(Runtime * runtime, service_->Find(call.options.model));
  STERNA_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          EncodeChat(*runtime, std::move(call.input), call.add_special_tokens,
                                     ModelService::NowUnixSeconds()));
  STERNA_ASSIGN_OR_RETURN(const Request base,
                          BuildRequest(call.options.parameters, service_->defaults(),
                                       service_->limits(), std::move(ids), std::nullopt));
  std::vector<Request> requests;
  AddChoices(base, call.options.n, &requests);
  return requests;
}

HttpReply ApiHandler::Generate(const OpenAiOptions& options, bool chat, bool echo,
                               std::vector<Request> requests) {
  std::vector<std::vector<int32_t>> prompts;
  for (size_t i = 0; echo && i < requests.size(); i += static_cast<size_t>(options.n)) {
    prompts.push_back(requests[i].prompt);
  }
  const std::string id = RandomId(chat ? "chatcmpl-" : "cmpl-");
  for (size_t i = 0; i < requests.size(); ++i) requests[i].id = absl::StrCat(id, "-", i);
  StatusOr<std::vector<std::shared_ptr<TokenStream>>> streams =
      service_->Submit(std::move(requests));
  if (!streams.ok()) return Whole(ErrorResponse(streams.status()));
  const StatusOr<Runtime*> runtime = service_->Find("");
  HttpReply reply;
  reply.source = MakeGenerationSource({.chat = chat,
                                       .stream = options.stream,
                                       .include_usage = options.include_usage,
                                       .logprobs = options.parameters.num_logprobs.has_value(),
                                       .choices_per_prompt = options.n,
                                       .echo = std::move(prompts),
                                       .id = id,
                                       .model = service_->name(),
                                       .created_unix_seconds = ModelService::NowUnixSeconds()},
                                      *std::move(streams), &(*runtime)->tokenizer());
  return reply;
}

HttpReply ApiHandler::Completions(const HttpRequest& request, const std::string&) {
  StatusOr<CompletionCall> call = ReadCompletionCall(request.body);
  if (!call.ok()) return Refuse(call.status());
  StatusOr<std::vector<Request>> requests = BuildCompletions(*call);
  if (!requests.ok()) return Refuse(requests.status());
  return Generate(call->options, /*chat=*/false, call->echo, *std::move(requests));
}

HttpReply ApiHandler::Chat(const HttpRequest& request, const std::string&) {
  StatusOr<ChatCall> call = ReadChatCall(request.body);
  if (!call.ok()) return Refuse(call.status());
  StatusOr<std::vector<Request>> requests = BuildChat(*call);
  if (!requests.ok()) return Refuse(requests.status());
  return Generate(call->options, /*chat=*/true, /*echo=*/false, *std::move(requests));
}

HttpReply ApiHandler::Tokenize(const HttpRequest& request, const std::string&) {
  StatusOr<TokenizeCall> call = ReadTokenizeCall(request.body);
  if (!call.ok()) return Refuse(call.status());
  const StatusOr<Runtime*> runtime = service_->Find(call->model);
  if (!runtime.ok()) return Refuse(runtime.status());
  StatusOr<std::vector<int32_t>> ids;
  if (const auto* text = std::get_if<std::string>(&call->input)) {
    ids = EncodePrompt(**runtime, *text, call->add_special_tokens, "prompt");
  } else {
    ids = EncodeChat(**runtime, std::move(std::get<ChatTemplateInput>(call->input)),
                     call->add_special_tokens, ModelService::NowUnixSeconds());
  }
  if (!ids.ok()) return Refuse(ids.status());
  Json body = {{"count", ids->size()},
               {"max_model_len", service_->limits().max_context_tokens},
               {"tokens", *ids}};
  if (call->return_token_strs) {
    Json spellings = Json::array();
    for (const int32_t id : *ids) spellings.push_back((*runtime)->tokenizer().IdToToken(id));
    body["token_strs"] = std::move(spellings);
  }
  return Whole(JsonResponse(200, body));
}

HttpReply ApiHandler::Detokenize(const HttpRequest& request, const std::string&) {
  const StatusOr<DetokenizeCall> call = ReadDetokenizeCall(request.body);
  if (!call.ok()) return Refuse(call.status());
  const StatusOr<Runtime*> runtime = service_->Find(call->model);
  if (!runtime.ok()) return Refuse(runtime.status());
  const StatusOr<std::vector<int32_t>> ids =
      CheckTokenIds(call->tokens, service_->limits(), "tokens");
  if (!ids.ok()) return Refuse(ids.status());
  return Whole(JsonResponse(200, {{"prompt", Decode((*runtime)->tokenizer(), *ids)}}));
}

}  // namespace

std::unique_ptr<HttpHandler> MakeApiHandler(ModelService* service,
                                            const std::string& cors_allow_origin) {
  return std::make_unique<ApiHandler>(service, cors_allow_origin);
}

}  // namespace sterna
