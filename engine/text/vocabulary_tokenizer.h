// What both kinds of tokenizer share: the vocabulary, the added tokens, and what is put around a
// text. A kind adds how ordinary text becomes tokens, and what bytes a token stands for.
//
// Lifetime and thread contract: as Tokenizer.
#ifndef STERNA_ENGINE_TEXT_VOCABULARY_TOKENIZER_H_
#define STERNA_ENGINE_TEXT_VOCABULARY_TOKENIZER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/status.h"
#include "engine/text/added_tokens.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_files.h"

namespace sterna {

// Ids and spellings, each unique. Ids need not be contiguous.
class Vocabulary {
 public:
  // `source` names the file in errors.
  static StatusOr<Vocabulary> Create(const std::string& source, const TokenizerJson& json);

  std::optional<int32_t> Find(std::string_view token) const;
  // Find, but only among the model's own tokens, not those added beside them.
  std::optional<int32_t> FindInModel(std::string_view token) const;
  // Empty for ids that are not there.
  const std::string& Spelling(int32_t id) const;
  int32_t size() const {
    return static_cast<int32_t>(spellings_.size());
  }  // the largest id, plus 1

 private:
  // Looks up views without copying them; Debian's absl::Hash of strings takes absl's own view only.
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };

  Status Add(const std::string& source, const std::string& token, int32_t id);

  std::vector<std::string> spellings_;  // by id
  std::vector<bool> in_model_;          // by id
  absl::flat_hash_map<std::string, int32_t, StringHash, std::equal_to<>> ids_;
};

class VocabularyTokenizer : public Tokenizer {
 public:
  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special,
                                        bool parse_special) const final;
  std::string TokenBytes(int32_t id) const final;
  int32_t vocab_size() const final { return vocabulary_.size(); }
  std::optional<int32_t> bos_id() const final { return bos_id_; }
  std::optional<int32_t> TokenToId(std::string_view token) const final {
    return vocabulary_.Find(token);
  }
  std::string IdToToken(int32_t id) const final { return vocabulary_.Spelling(id); }
  bool IsSpecial(int32_t id) const final;

 protected:
  // Takes what `json` says, as ApplyTokenizerConfig left it.
  VocabularyTokenizer(Vocabulary vocabulary, const TokenizerJson& json,
                      const TokenizerConfig& config);

  // Appends the ids of a segment between added tokens (not empty, valid UTF-8). `at_start`: nothing
  // came before it in the text.
  virtual Status EncodeSegment(std::string_view segment, bool parse_special, bool at_start,
                               std::vector<int32_t>* ids) const = 0;
  // The bytes of a token of the vocabulary that is no added token.
  virtual std::string PieceBytes(int32_t id) const = 0;

  const Vocabulary& vocabulary() const { return vocabulary_; }
  const AddedTokens& added_tokens() const { return added_tokens_; }

 private:
  Vocabulary vocabulary_;
  AddedTokens added_tokens_;
  std::vector<int32_t> prefix_ids_, suffix_ids_;
  std::optional<int32_t> bos_id_;
};

// Lets tokenizer_config.json add to and override what `json` says, as Transformers does: added
// tokens with their flags, and named special tokens. (What goes around a text is the
// post-processor's; add_bos_token counts only where there is no tokenizer.json.)
void ApplyTokenizerConfig(const TokenizerConfig& config, TokenizerJson* json);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_VOCABULARY_TOKENIZER_H_
