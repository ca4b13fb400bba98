// Text to token ids and back.
//
// Lifetime: loaded once, lives as long as the engine. Thread contract: const after loading; every
// method may be called from any thread.
#ifndef STERNA_ENGINE_TEXT_TOKENIZER_H_
#define STERNA_ENGINE_TEXT_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sterna {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // For people: how text becomes tokens.
  virtual std::string_view kind() const = 0;

  // Ids of `text`. With `parse_special`, spellings of special tokens ("<|eot_id|>") become those
  // tokens; without, they are ordinary text. `add_special` adds what the checkpoint's own
  // post-processing adds (usually BOS in front). InvalidArgument with the byte offset when `text`
  // is not valid UTF-8.
  virtual StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special,
                                                bool parse_special) const = 0;

  // The bytes token `id` adds to a running text: possibly part of a UTF-8 character, empty for
  // control tokens and for ids outside the vocabulary.
  virtual std::string TokenBytes(int32_t id) const = 0;

  // Whether a decoder that has emitted nothing yet drops one leading space of the first text token
  // (SentencePiece's dummy prefix).
  virtual bool StripsLeadingSpace() const = 0;

  // Entries in the tokenizer; a model's embedding table may be larger (padded), never smaller.
  virtual int32_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;
  // The id whose spelling is exactly `token` ("</s>", "<|eot_id|>"), if there is one.
  virtual std::optional<int32_t> TokenToId(std::string_view token) const = 0;
  // The spelling of `id` as the vocabulary has it; empty for ids outside the vocabulary.
  virtual std::string IdToToken(int32_t id) const = 0;
  // Control tokens: never part of visible text.
  virtual bool IsSpecial(int32_t id) const = 0;
};

// Reads the tokenizer of a Hugging Face directory: tokenizer.json when it is byte-level BPE, else
// tokenizer.model (SentencePiece) with the rules of the tokenizer.json beside it, if any; and
// tokenizer_config.json, or added_tokens.json and special_tokens_map.json where that and
// tokenizer.json say nothing of added tokens. NotFound when neither is there; other errors name the
// file and the field.
StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir);

struct TokenizerFiles;  // tokenizer_files.h
// The tokenizer that these files describe. Errors name the file and the field.
StatusOr<std::unique_ptr<Tokenizer>> CreateTokenizer(const TokenizerFiles& files);

// The whole text of `ids`, invalid UTF-8 replaced by U+FFFD: what Detokenize answers.
std::string Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids);

// Offset of the first byte that is not valid UTF-8 (RFC 3629: no surrogates, no overlong forms), or
// npos.
size_t FindInvalidUtf8(std::string_view text);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_TOKENIZER_H_
