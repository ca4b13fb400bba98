// The tokenizer and the chat template of a model, whatever files it came in.
//
// Thread contract: free functions.
#ifndef STERNA_ENGINE_TEXT_MODEL_TEXT_H_
#define STERNA_ENGINE_TEXT_MODEL_TEXT_H_

#include <memory>

#include "base/status.h"
#include "engine/model/model_files.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace sterna {

// Those of the directory (tokenizer.h) or of the GGUF file's metadata (gguf_tokenizer.h), with
// their errors.
StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const ModelFiles& files);
// NotFound when the model has none.
StatusOr<ChatTemplate> LoadChatTemplate(const ModelFiles& files);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_MODEL_TEXT_H_
