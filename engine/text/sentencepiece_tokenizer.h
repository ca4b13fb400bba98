// SentencePiece (Llama 2 and kin): the pieces and their scores come from tokenizer.model, added
// tokens and what goes around a text from the JSON files beside it.
#ifndef STERNA_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_
#define STERNA_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_

#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_files.h"

namespace sterna {

// `model`: the bytes of a tokenizer.model, and `source` what messages call them. `json`: what
// tokenizer.json says, null when there is none: then the model's own normalisation and control
// tokens count, and a BOS goes in front unless `config` says otherwise. InvalidArgument when the
// model is corrupt or the two disagree.
StatusOr<std::unique_ptr<Tokenizer>> CreateSentencePieceTokenizer(const std::string& source,
                                                                  std::string_view model,
                                                                  const TokenizerJson* json,
                                                                  const TokenizerConfig& config);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_SENTENCEPIECE_TOKENIZER_H_
