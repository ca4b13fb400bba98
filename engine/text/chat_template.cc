#include "engine/text/chat_template.h"

#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/text/jinja/interpreter.h"
#include "engine/text/jinja/json_value.h"
#include "engine/text/jinja/parser.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_files.h"

namespace sterna {
namespace {

using jinja::Value;

// Transformers lets templates read a message's reasoning under any of its names: `thinking` first,
// if it was not there, then the message's own fields, and `reasoning_content` set.
StatusOr<Value> AliasReasoning(const Value& message) {
  const Value* reasoning = nullptr;
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    const Value* found = message.dict().Find(name);
    if (reasoning == nullptr && found != nullptr && !found->is_none()) reasoning = found;
  }
  if (reasoning == nullptr) return message;
  std::vector<std::pair<Value, Value>> entries = {{Value::String("thinking"), *reasoning}};
  for (const auto& entry : message.dict().entries) entries.push_back(entry);
  entries.emplace_back(Value::String("reasoning_content"), *reasoning);
  return Value::MakeDict(std::move(entries));
}

StatusOr<Value> ParseMessages(const std::string& json) {
  STERNA_ASSIGN_OR_RETURN(const Value messages, jinja::ParseJsonValue("messages", json));
  if (!messages.is_sequence()) return absl::InvalidArgumentError("messages must be a list");
  std::vector<Value> aliased;
  for (size_t i = 0; i < messages.items().size(); ++i) {
    if (!messages.items()[i].is_dict()) {
      return absl::InvalidArgumentError(absl::StrCat("messages[", i, "] must be an object"));
    }
    STERNA_ASSIGN_OR_RETURN(Value message, AliasReasoning(messages.items()[i]));
    aliased.push_back(std::move(message));
  }
  return Value::List(std::move(aliased));
}

StatusOr<Value> ParseOptionalList(const std::string& what, const std::string& json) {
  if (json.empty()) return Value();
  STERNA_ASSIGN_OR_RETURN(Value value, jinja::ParseJsonValue(what, json));
  if (value.is_sequence() || value.is_none()) return value;
  return absl::InvalidArgumentError(what + " must be a list");
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Body body;
  std::string source;
  std::string bos_token, eos_token;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

StatusOr<ChatTemplate> ChatTemplate::Compile(std::string_view source, std::string bos_token,
                                             std::string eos_token) {
  if (const size_t bad = FindInvalidUtf8(source); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("the chat template is not valid UTF-8 at byte ", bad));
  }
  auto impl = std::make_unique<Impl>();
  STERNA_ASSIGN_OR_RETURN(impl->body, jinja::Parse(source));
  impl->source = source;
  impl->bos_token = std::move(bos_token);
  impl->eos_token = std::move(eos_token);
  return ChatTemplate(std::move(impl));
}

const std::string& ChatTemplate::source() const { return impl_->source; }

StatusOr<std::string> ChatTemplate::Render(const ChatTemplateInput& input) const {
  std::vector<std::pair<std::string, Value>> variables;
  variables.emplace_back("bos_token", Value::String(impl_->bos_token));
  variables.emplace_back("eos_token", Value::String(impl_->eos_token));
  for (const auto& [name, json] : input.extra_json) {
    STERNA_ASSIGN_OR_RETURN(Value value, jinja::ParseJsonValue(name, json));
    variables.emplace_back(name, std::move(value));
  }
  STERNA_ASSIGN_OR_RETURN(Value messages, ParseMessages(input.messages_json));
  STERNA_ASSIGN_OR_RETURN(Value tools, ParseOptionalList("tools", input.tools_json));
  STERNA_ASSIGN_OR_RETURN(Value documents, ParseOptionalList("documents", input.documents_json));
  variables.emplace_back("messages", std::move(messages));
  variables.emplace_back("tools", std::move(tools));
  variables.emplace_back("documents", std::move(documents));
  variables.emplace_back("add_generation_prompt", Value::Bool(input.add_generation_prompt));
  return jinja::Run(impl_->body, std::move(variables), input.now_unix_seconds);
}

StatusOr<ChatTemplateSource> ReadChatTemplate(const std::string& model_dir) {
  const std::string config_path = model_dir + "/tokenizer_config.json";
  const std::string template_path = model_dir + "/chat_template.jinja";
  TokenizerConfig config;
  if (std::filesystem::exists(config_path)) {
    STERNA_ASSIGN_OR_RETURN(config, ReadTokenizerConfig(config_path));
  }
  ChatTemplateSource source{config_path, config.chat_template.value_or(""), config.bos_token,
                            config.eos_token};
  if (std::filesystem::exists(template_path)) {
    STERNA_ASSIGN_OR_RETURN(source.text, ReadTextFile(template_path));
    source.where = template_path;
  } else if (!config.chat_template) {
    return absl::NotFoundError(absl::StrCat(model_dir, " has no chat template: neither ",
                                            "chat_template.jinja nor chat_template in ",
                                            "tokenizer_config.json"));
  }
  return source;
}

StatusOr<ChatTemplate> CompileChatTemplate(const ChatTemplateSource& source) {
  StatusOr<ChatTemplate> result =
      ChatTemplate::Compile(source.text, source.bos_token, source.eos_token);
  if (result.ok()) return result;
  return Annotate(result.status(), source.where);
}

StatusOr<ChatTemplate> LoadChatTemplate(const std::string& model_dir) {
  STERNA_ASSIGN_OR_RETURN(const ChatTemplateSource source, ReadChatTemplate(model_dir));
  return CompileChatTemplate(source);
}

}  // namespace sterna
