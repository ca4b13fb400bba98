// The vocabulary in a GGUF file's metadata (`tokenizer.ggml.*`), checked: what tokenizers, chat
// templates and stop tokens are made from.
// Source: the GGUF specification (ggml, docs/gguf.md), and for what is not written there
// llama.cpp's reader, src/llama-vocab.cpp.
//
// Thread contract: plain data and pure functions.
#ifndef STERNA_ENGINE_TEXT_GGUF_VOCABULARY_H_
#define STERNA_ENGINE_TEXT_GGUF_VOCABULARY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/model/gguf_metadata.h"
#include "engine/text/sentencepiece_proto.h"

namespace sterna {

// The keys that are read and written.
namespace gguf_keys {
inline constexpr char kModel[] = "tokenizer.ggml.model";  // "llama" or "gpt2"
inline constexpr char kPre[] = "tokenizer.ggml.pre";
inline constexpr char kTokens[] = "tokenizer.ggml.tokens";
inline constexpr char kScores[] = "tokenizer.ggml.scores";
inline constexpr char kTokenTypes[] = "tokenizer.ggml.token_type";
inline constexpr char kMerges[] = "tokenizer.ggml.merges";
inline constexpr char kBos[] = "tokenizer.ggml.bos_token_id";
inline constexpr char kEos[] = "tokenizer.ggml.eos_token_id";
inline constexpr char kEot[] = "tokenizer.ggml.eot_token_id";    // ends a turn
inline constexpr char kEom[] = "tokenizer.ggml.eom_token_id";    // ends a message to a tool
inline constexpr char kEnds[] = "tokenizer.ggml.eos_token_ids";  // all of them; some writers only
inline constexpr char kUnknown[] = "tokenizer.ggml.unknown_token_id";
inline constexpr char kPadding[] = "tokenizer.ggml.padding_token_id";
inline constexpr char kAddBos[] = "tokenizer.ggml.add_bos_token";
inline constexpr char kAddEos[] = "tokenizer.ggml.add_eos_token";
inline constexpr char kAddSpacePrefix[] = "tokenizer.ggml.add_space_prefix";
inline constexpr char kRemoveExtraWhitespace[] = "tokenizer.ggml.remove_extra_whitespaces";
inline constexpr char kCharsmap[] = "tokenizer.ggml.precompiled_charsmap";
inline constexpr char kChatTemplate[] = "tokenizer.chat_template";
}  // namespace gguf_keys

struct GgufVocabulary {
  bool byte_level = false;  // `gpt2`: byte-level BPE; else `llama`: SentencePiece BPE

  // By id; unique, not empty, valid UTF-8. Without the entries at the end that only pad the
  // embedding table. A token that the file has without a text is unused and called "[EMPTY_<id>]",
  // as in llama.cpp.
  std::vector<std::string> tokens;
  std::vector<PieceType> types;
  size_t num_entries = 0;  // those at the end included

  std::optional<int32_t> bos_id, eos_id;
  // Whether they go around a text; nullopt when the file does not say.
  std::optional<bool> add_bos, add_eos;

  std::optional<int32_t> Find(std::string_view token) const;
  // The spelling, or empty when there is no id.
  std::string Spelling(std::optional<int32_t> id) const;
};

// NotFound for an absent key; InvalidArgument when a value is of the wrong type, arrays differ in
// length, a token is there twice or no UTF-8, a type is unknown or an id out of range. Each
// message names file and key.
StatusOr<GgufVocabulary> ReadGgufVocabulary(const GgufMetadata& metadata);

// A bool that need not be there.
StatusOr<std::optional<bool>> OptionalGgufBool(const GgufMetadata& metadata, std::string_view key);

// The tokens that end an answer, ascending: those of the keys for eos, eot and eom and of the list
// of all of them. Where a byte-level vocabulary names neither eot nor a list, control tokens with
// the spellings that are well known for it ("<|eot_id|>", "<|im_end|>") count too: many files,
// family A's own among them, give no more than eos. Errors as ReadGgufVocabulary.
StatusOr<std::vector<int32_t>> ReadGgufEndTokenIds(const GgufMetadata& metadata);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_GGUF_VOCABULARY_H_
