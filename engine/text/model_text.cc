#include "engine/text/model_text.h"

#include "engine/text/gguf_tokenizer.h"

namespace sterna {

StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const ModelFiles& files) {
  if (files.gguf() != nullptr) return LoadGgufTokenizer(files.gguf()->metadata());
  return LoadTokenizer(files.path());
}

StatusOr<ChatTemplate> LoadChatTemplate(const ModelFiles& files) {
  if (files.gguf() != nullptr) return LoadGgufChatTemplate(files.gguf()->metadata());
  return LoadChatTemplate(files.path());
}

}  // namespace sterna
