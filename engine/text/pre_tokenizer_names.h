// The names by which GGUF files say how byte-level BPE cuts text into words
// (`tokenizer.ggml.pre`), and what each stands for: where it is known, what the tokenizer.json of
// the models that go by the name says, else what llama.cpp does.
// Source: llama.cpp, src/llama-vocab.cpp and convert_hf_to_gguf_update.py; the tokenizer.json
// files.
//
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_PRE_TOKENIZER_NAMES_H_
#define STERNA_ENGINE_TEXT_PRE_TOKENIZER_NAMES_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/text/pre_tokenizer.h"

namespace sterna {

struct NamedPreTokenizer {
  std::string_view name;
  std::vector<PreTokenizerStep> steps;
  bool nfc = false;            // text is brought to normalisation form C first
  bool ignore_merges = false;  // a word that is a token stays whole
  bool adds_bos = false;       // where the file does not say whether a BOS goes in front
};

// Nullopt when the name is not known.
std::optional<NamedPreTokenizer> FindPreTokenizer(std::string_view name);

// The name for what a tokenizer does; nullopt when there is none.
std::optional<std::string_view> PreTokenizerName(const std::vector<PreTokenizerStep>& steps,
                                                 bool nfc, bool ignore_merges);

// All names, "a, b and c", for messages.
std::string PreTokenizerNames();

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_PRE_TOKENIZER_NAMES_H_
