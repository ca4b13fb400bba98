// Byte-level byte-pair encoding as tokenizer.json describes it (Llama 3, Qwen, GPT-2, Falcon).
#ifndef STERNA_ENGINE_TEXT_BPE_TOKENIZER_H_
#define STERNA_ENGINE_TEXT_BPE_TOKENIZER_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/text/bpe_merges.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer_files.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace sterna {

class BpeTokenizer final : public VocabularyTokenizer {
 public:
  // `json.byte_level` must hold. InvalidArgument, naming the field in `path`, when a merge names an
  // unknown token, or a byte of UTF-8 text has no token.
  static StatusOr<std::unique_ptr<Tokenizer>> Create(const std::string& path,
                                                     const TokenizerJson& json,
                                                     const TokenizerConfig& config);

  std::string_view kind() const override { return "byte-level BPE"; }
  bool StripsLeadingSpace() const override { return false; }

 private:
  BpeTokenizer(Vocabulary vocabulary, const TokenizerJson& json, const TokenizerConfig& config,
               PreTokenizer pre_tokenizer);

  Status ReadMerges(const std::string& path, const TokenizerJson& json);
  Status ReadByteTokens(const std::string& path, const TokenizerJson& json);
  Status EncodeSegment(std::string_view segment, bool parse_special, bool at_start,
                       std::vector<int32_t>* ids) const override;
  Status EncodeNormalized(std::string_view text, std::vector<int32_t>* ids) const;
  void EncodeWord(std::string_view word, std::vector<int32_t>* ids) const;
  std::string PieceBytes(int32_t id) const override;

  PreTokenizer pre_tokenizer_;
  BpeMerges merges_;
  std::array<int32_t, 256> byte_tokens_;  // the token of each byte on its own
  bool nfc_;
  bool ignore_merges_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_BPE_TOKENIZER_H_
