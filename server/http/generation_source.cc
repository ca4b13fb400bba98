#include "server/http/generation_source.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/detokenizer.h"
#include "server/http/json_reader.h"
#include "server/http/openai_response.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

// One output in progress.
struct Choice {
  std::shared_ptr<TokenStream> stream;
  std::string text;  // when not streaming: all of it
  Json logprobs;     // of all tokens, or when streaming of those of the current event
  // For text_offset: what the tokens so far stand for, before stop strings are cut off. That of the
  // prompt is there until the first token of the output.
  std::unique_ptr<IncrementalDetokenizer> prompt_detokenizer;
  std::unique_ptr<IncrementalDetokenizer> detokenizer;
  int64_t num_characters = 0;
  const std::vector<int32_t>* echo = nullptr;  // the prompt, until it has been repeated
  std::optional<Completion> end;
};

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

class GenerationSource final : public HttpSource {
 public:
  GenerationSource(GenerationReplyOptions options,
                   std::vector<std::shared_ptr<TokenStream>> streams, const Tokenizer* tokenizer)
      : options_(std::move(options)), tokenizer_(tokenizer) {
    for (size_t i = 0; i < streams.size(); ++i) {
      Choice& choice = choices_.emplace_back();
      choice.stream = std::move(streams[i]);
      choice.detokenizer = std::make_unique<IncrementalDetokenizer>(tokenizer, true);
      if (options_.echo.empty()) continue;
      choice.echo = &options_.echo[i / static_cast<size_t>(options_.choices_per_prompt)];
      choice.prompt_detokenizer = std::make_unique<IncrementalDetokenizer>(tokenizer, false);
    }
  }
  ~GenerationSource() override {
    for (Choice& choice : choices_) {
      choice.stream->SetReadyCallback(nullptr);
      if (!choice.end.has_value()) choice.stream->Cancel();
    }
  }

  void SetReadyCallback(std::function<void()> on_ready) override {
    for (Choice& choice : choices_) choice.stream->SetReadyCallback(on_ready);
  }
  HttpPart Take() override;

 private:
  void Begin(HttpPart& part);
  void Absorb(size_t index, StreamUpdate update, HttpPart& part);
  // The prompt's text, the first time, where it is to be repeated.
  std::string TakeEcho(Choice& choice);
  void AddLogprobs(Choice& choice, const StreamUpdate& update);
  void AddCompletionLogprob(Choice& choice, IncrementalDetokenizer& detokenizer,
                            const OutputToken& token);
  void Finish(HttpPart& part);
  void Fail(const Status& error, HttpPart& part);

  // The object of an event or of the whole response, with these choices.
  Json Envelope(Json choices) const;
  // A choice of an event: what was added, and why it ended.
  Json Delta(size_t index, std::string_view text, bool with_role) const;
  Json WholeChoice(size_t index) const;
  void SetFinish(const Choice& choice, Json& out) const;
  Json LogprobsOf(const Choice& choice) const;
  Json UsageOfAll() const;

  const GenerationReplyOptions options_;
  const Tokenizer* const tokenizer_;
  std::vector<Choice> choices_;
  bool begun_ = false;
  bool finished_ = false;
};

HttpPart GenerationSource::Take() {
  HttpPart part;
  if (finished_) return part;
  if (options_.stream && !begun_) Begin(part);
  bool all_ended = true;
  for (size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = choices_[i];
    if (choice.end.has_value()) continue;
    StreamUpdate update = choice.stream->Take();
    if (!update.empty()) {
      const bool failed =
          update.end.has_value() && (update.end->reason == FinishReason::kFailed ||
                                     update.end->reason == FinishReason::kCancelled);
      if (failed) {
        choice.end = std::move(update.end);
        Fail(choice.end->error, part);
        return part;
      }
      Absorb(i, std::move(update), part);
    }
    all_ended = all_ended && choice.end.has_value();
  }
  if (all_ended) Finish(part);
  return part;
}

void GenerationSource::Begin(HttpPart& part) {
  begun_ = true;
  part.head = {.code = 200,
               .headers = {{"Content-Type", "text/event-stream; charset=utf-8"},
                           {"Cache-Control", "no-cache"},
                           {"X-Accel-Buffering", "no"}}};
  if (!options_.chat) return;
  for (size_t i = 0; i < choices_.size(); ++i) {
    part.body += ServerSentEvent(JsonText(Envelope(Json::array({Delta(i, "", true)}))));
  }
}

std::string GenerationSource::TakeEcho(Choice& choice) {
  if (choice.echo == nullptr) return "";
  const std::vector<int32_t>& prompt = *std::exchange(choice.echo, nullptr);
  if (options_.logprobs) {
    AppendFirstPromptToken(*tokenizer_, prompt[0], &choice.logprobs);
    choice.num_characters += CountCharacters(choice.prompt_detokenizer->Append(prompt[0]));
  }
  return Decode(*tokenizer_, prompt);
}

void GenerationSource::AddCompletionLogprob(Choice& choice, IncrementalDetokenizer& detokenizer,
                                            const OutputToken& token) {
  AppendCompletionLogprob(*tokenizer_, token, choice.num_characters, &choice.logprobs);
  choice.num_characters += CountCharacters(detokenizer.Append(token.id));
}

void GenerationSource::AddLogprobs(Choice& choice, const StreamUpdate& update) {
  if (!options_.logprobs) return;
  for (const OutputToken& token : update.prompt_logprobs) {
    AddCompletionLogprob(choice, *choice.prompt_detokenizer, token);
  }
  for (const OutputToken& token : update.tokens) {
    if (options_.chat) {
      choice.logprobs.push_back(ChatLogprob(*tokenizer_, token));
      continue;
    }
    if (choice.prompt_detokenizer != nullptr) {
      choice.num_characters += CountCharacters(choice.prompt_detokenizer->Finish());
      choice.prompt_detokenizer = nullptr;
    }
    AddCompletionLogprob(choice, *choice.detokenizer, token);
  }
}

void GenerationSource::Absorb(size_t index, StreamUpdate update, HttpPart& part) {
  Choice& choice = choices_[index];
  choice.end = std::move(update.end);
  const std::string text = TakeEcho(choice) + update.text;
  AddLogprobs(choice, update);
  if (!options_.stream) {
    choice.text += text;
    return;
  }
  // Tokens whose text is still held back make no event of their own, unless their logprobs do.
  if (text.empty() && !choice.end.has_value() && choice.logprobs.is_null()) return;
  part.body += ServerSentEvent(JsonText(Envelope(Json::array({Delta(index, text, false)}))));
  choice.logprobs = nullptr;
}

void GenerationSource::Finish(HttpPart& part) {
  finished_ = true;
  part.end = true;
  if (!options_.stream) {
    Json choices = Json::array();
    for (size_t i = 0; i < choices_.size(); ++i) choices.push_back(WholeChoice(i));
    Json body = Envelope(std::move(choices));
    body["usage"] = UsageOfAll();
    HttpResponse response = JsonResponse(200, body);
    part.body = std::move(response.body);
    part.head = std::move(response);
    part.complete = true;
    return;
  }
  if (options_.include_usage) {
    Json body = Envelope(Json::array());
    body["usage"] = UsageOfAll();
    part.body += ServerSentEvent(JsonText(body));
  }
  part.body += ServerSentEvent("[DONE]");
}

void GenerationSource::Fail(const Status& error, HttpPart& part) {
  finished_ = true;
  part.end = true;
  part.close = true;
  for (Choice& choice : choices_) choice.stream->Cancel();
  if (options_.stream) {
    part.body += ServerSentEvent(JsonText(ErrorBody(error)));
    return;
  }
  HttpResponse response = ErrorResponse(error);
  part.body = std::move(response.body);
  part.head = std::move(response);
  part.complete = true;
}

Json GenerationSource::Envelope(Json choices) const {
  const char* object = "text_completion";
  if (options_.chat) object = options_.stream ? "chat.completion.chunk" : "chat.completion";
  Json out = {{"id", options_.id},
              {"object", object},
              {"created", options_.created_unix_seconds},
              {"model", options_.model},
              {"system_fingerprint", "sterna-" STERNA_VERSION},
              {"choices", std::move(choices)}};
  if (options_.stream && options_.include_usage) out["usage"] = nullptr;
  return out;
}

void GenerationSource::SetFinish(const Choice& choice, Json& out) const {
  out["finish_reason"] = nullptr;
  if (!choice.end.has_value()) return;
  out["finish_reason"] = std::string(FinishReasonName(choice.end->reason));
  // Which stop string or token it was.
  out["stop_reason"] = nullptr;
  if (choice.end->stop_string.has_value()) {
    out["stop_reason"] = *choice.end->stop_string;
  } else if (choice.end->stop_token.has_value()) {
    out["stop_reason"] = *choice.end->stop_token;
  }
}

Json GenerationSource::LogprobsOf(const Choice& choice) const {
  if (!options_.logprobs || (options_.stream && choice.logprobs.is_null())) return nullptr;
  if (!options_.chat) return choice.logprobs;
  return {{"content", choice.logprobs.is_null() ? Json::array() : choice.logprobs},
          {"refusal", nullptr}};
}

Json GenerationSource::Delta(size_t index, std::string_view text, bool with_role) const {
  const Choice& choice = choices_[index];
  Json out = {{"index", index}};
  if (options_.chat) {
    Json delta = Json::object();
    if (with_role) delta["role"] = "assistant";
    if (with_role || !text.empty()) delta["content"] = std::string(text);
    out["delta"] = std::move(delta);
  } else {
    out["text"] = std::string(text);
  }
  out["logprobs"] = LogprobsOf(choice);
  SetFinish(choice, out);
  return out;
}

Json GenerationSource::WholeChoice(size_t index) const {
  const Choice& choice = choices_[index];
  Json out = {{"index", index}};
  if (options_.chat) {
    out["message"] = {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}};
  } else {
    out["text"] = choice.text;
  }
  out["logprobs"] = LogprobsOf(choice);
  SetFinish(choice, out);
  return out;
}

Json GenerationSource::UsageOfAll() const {
  std::vector<Usage> usage;
  for (const Choice& choice : choices_) usage.push_back(choice.end->usage);
  return UsageBody(usage, options_.choices_per_prompt);
}

}  // namespace

std::string ServerSentEvent(std::string_view data) {
  return absl::StrCat("data: ", std::string(data), "\n\n");
}

std::unique_ptr<HttpSource> MakeGenerationSource(GenerationReplyOptions options,
                                                 std::vector<std::shared_ptr<TokenStream>> streams,
                                                 const Tokenizer* tokenizer) {
  return std::make_unique<GenerationSource>(std::move(options), std::move(streams), tokenizer);
}

}  // namespace sterna
