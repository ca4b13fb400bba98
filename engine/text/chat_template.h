// Renders a conversation with the model's own chat template: the subset of Jinja that published
// templates use, with Transformers' settings (trim_blocks, lstrip_blocks, its tojson filter,
// raise_exception, strftime_now).
//
// Lifetime: compiled once at load. Thread contract: const; Render may be called from any thread.
#ifndef STERNA_ENGINE_TEXT_CHAT_TEMPLATE_H_
#define STERNA_ENGINE_TEXT_CHAT_TEMPLATE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sterna {

// What a template sees. Conversations arrive as JSON text, so that tool definitions and structured
// contents reach the template unchanged and in order.
struct ChatTemplateInput {
  std::string messages_json;   // a JSON array of {"role", "content", ...}
  std::string tools_json;      // a JSON array; empty: tools is none
  std::string documents_json;  // a JSON array; empty: documents is none
  bool add_generation_prompt = true;
  // Further variables by name, each a JSON value ("chat_template_kwargs": enable_thinking, ...).
  std::map<std::string, std::string> extra_json;
  int64_t now_unix_seconds = 0;  // what strftime_now reads, UTC
};

class ChatTemplate {
 public:
  // `source`: the template's text. InvalidArgument with line and the construct's name for what the
  // subset lacks or what is no Jinja. `bos_token`, `eos_token`: spellings the template may print.
  static StatusOr<ChatTemplate> Compile(std::string_view source, std::string bos_token,
                                        std::string eos_token);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // The text it was compiled from.
  const std::string& source() const;

  // InvalidArgument with the template's own message when it calls raise_exception, or with the line
  // of a construct that fails (an undefined attribute called, ...). Bounded in output size and
  // steps, so that no template or message makes it run for ever.
  StatusOr<std::string> Render(const ChatTemplateInput& input) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// A template as a checkpoint has it, not yet compiled.
struct ChatTemplateSource {
  std::string where;  // file, and key where there is one, for messages
  std::string text;
  std::string bos_token, eos_token;
};

// The template of a Hugging Face directory: chat_template.jinja, else chat_template in
// tokenizer_config.json (a string, or a list of named ones of which "default" is taken). NotFound
// when the checkpoint has none.
StatusOr<ChatTemplateSource> ReadChatTemplate(const std::string& model_dir);

// Compile, with errors that begin with `where`.
StatusOr<ChatTemplate> CompileChatTemplate(const ChatTemplateSource& source);

// Both of them.
StatusOr<ChatTemplate> LoadChatTemplate(const std::string& model_dir);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_CHAT_TEMPLATE_H_
