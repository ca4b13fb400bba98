// The tokenizer and the chat template of a Hugging Face directory as GGUF metadata: what
// `sterna convert` writes. Read back (gguf_tokenizer.h), they are the same tokenizer and template;
// what GGUF cannot say is refused, by name.
//
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_GGUF_TOKENIZER_EXPORT_H_
#define STERNA_ENGINE_TEXT_GGUF_TOKENIZER_EXPORT_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/model/gguf_value.h"

namespace sterna {

// The keys `tokenizer.ggml.*`, and `tokenizer.chat_template` if the directory has one. Byte-level
// BPE comes from tokenizer.json, SentencePiece BPE from tokenizer.model, with the added tokens of
// the JSON files.
//   vocab_size      rows of the model's embedding table; those without a token get unused ones
//   end_token_ids   what ends an answer (ModelConfig::eos_token_ids); may be empty
// Errors are those of LoadTokenizer and ReadChatTemplate, and InvalidArgument, with the file and
// what it has, when the tokenizer does not fit `vocab_size`, or does what GGUF has no words for:
// cuts words in a way without a name, takes white space around an added token, puts other tokens
// than BOS and EOS around a text, puts a space in front of some texts only, or is no BPE.
// Added tokens that tokenizer.json looks for after normalisation (`normalized`) are looked for
// before it when read back.
StatusOr<std::vector<GgufKeyValue>> GgufTokenizerMetadata(const std::string& model_dir,
                                                          int64_t vocab_size,
                                                          std::span<const int32_t> end_token_ids);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_GGUF_TOKENIZER_EXPORT_H_
