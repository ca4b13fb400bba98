// The tokenizer and the chat template in a GGUF file's metadata.
// Source: see gguf_vocabulary.h, pre_tokenizer_names.h.
//
// Use: both from the metadata of an open file (gguf.h), which may be closed afterwards. Tokens that
// end an answer: ReadGgufEndTokenIds in gguf_vocabulary.h.
// Thread contract: pure functions, but for the log.
#ifndef STERNA_ENGINE_TEXT_GGUF_TOKENIZER_H_
#define STERNA_ENGINE_TEXT_GGUF_TOKENIZER_H_

#include <memory>

#include "base/status.h"
#include "engine/model/gguf_metadata.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace sterna {

// `tokenizer.ggml.model` is `llama`, SentencePiece BPE, or `gpt2`, byte-level BPE. Control and
// unknown tokens are special, user-defined ones are found in a text before anything else is done
// with it. Without `add_bos_token` a BOS goes in front of SentencePiece's text, and of that of the
// pre-tokenizers for which llama.cpp says so. A byte-level file without `tokenizer.ggml.pre`, as
// family A's own is, is taken for Llama 3's, with a warning, if it has Llama 3's BOS, and is
// refused if not.
// NotFound for an absent key, InvalidArgument for anything else that is wrong; messages name file
// and key, and for an unknown pre-tokenizer those that are known.
StatusOr<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const GgufMetadata& metadata);

// `tokenizer.chat_template`; NotFound when there is none. The template in the GGUF file of family A
// (microsoft/bitnet-b1.58-2B-4T-gguf) is not the one that the model was trained with and makes it
// run on: it is replaced, with a warning.
StatusOr<ChatTemplate> LoadGgufChatTemplate(const GgufMetadata& metadata);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_GGUF_TOKENIZER_H_
