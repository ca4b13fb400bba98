#include "engine/text/bpe_tokenizer.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/byte_level.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

namespace sterna {
namespace {

constexpr int32_t kNoToken = -1;

// Bytes that no UTF-8 text has; vocabularies may lack them.
bool NeverInUtf8(int byte) { return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5; }

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::Create(const std::string& path,
                                                          const TokenizerJson& json,
                                                          const TokenizerConfig& config) {
  STERNA_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Create(path, json));
  STERNA_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::Create(json.pre_tokenizer));
  std::unique_ptr<BpeTokenizer> result(
      new BpeTokenizer(std::move(vocabulary), json, config, std::move(pre_tokenizer)));
  STERNA_RETURN_IF_ERROR(result->ReadMerges(path, json));
  STERNA_RETURN_IF_ERROR(result->ReadByteTokens(path, json));
  return result;
}

BpeTokenizer::BpeTokenizer(Vocabulary vocabulary, const TokenizerJson& json,
                           const TokenizerConfig& config, PreTokenizer pre_tokenizer)
    : VocabularyTokenizer(std::move(vocabulary), json, config),
      pre_tokenizer_(std::move(pre_tokenizer)),
      nfc_(json.nfc),
      ignore_merges_(json.ignore_merges) {
  byte_tokens_.fill(kNoToken);
}

Status BpeTokenizer::ReadMerges(const std::string& path, const TokenizerJson& json) {
  merges_.Reserve(json.merges.size());
  for (size_t i = 0; i < json.merges.size(); ++i) {
    const auto& [left, right] = json.merges[i];
    const std::string merged = left + right;
    std::array<int32_t, 3> ids;
    const std::array<const std::string*, 3> tokens = {&left, &right, &merged};
    for (size_t k = 0; k < tokens.size(); ++k) {
      const std::optional<int32_t> id = vocabulary().FindInModel(*tokens[k]);
      if (!id) {
        return absl::InvalidArgumentError(absl::StrCat(path, ": ", json.merges_name, "[", i,
                                                       "] names \"", *tokens[k], "\", which ",
                                                       json.vocab_name, " lacks"));
      }
      ids[k] = *id;
    }
    merges_.Add(ids[0], ids[1], ids[2]);
  }
  return absl::OkStatus();
}

Status BpeTokenizer::ReadByteTokens(const std::string& path, const TokenizerJson& json) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    AppendUtf8(ByteLevelCharacter(static_cast<uint8_t>(byte)), &character);
    const std::optional<int32_t> id = vocabulary().FindInModel(character);
    if (id) {
      byte_tokens_[byte] = *id;
    } else if (!NeverInUtf8(byte)) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", json.vocab_name, " lacks \"",
                                                     character, "\", the token of byte ", byte,
                                                     "; byte-level BPE needs one for every byte"));
    }
  }
  return absl::OkStatus();
}

Status BpeTokenizer::EncodeSegment(std::string_view segment, bool parse_special, bool /*at_start*/,
                                   std::vector<int32_t>* ids) const {
  const std::string normalized = nfc_ ? NormalizeNfc(segment) : std::string(segment);
  for (const AddedTokens::Piece& piece :
       added_tokens().Split(normalized, parse_special, /*normalized=*/true)) {
    if (piece.id != AddedTokens::kOrdinaryText) {
      ids->push_back(piece.id);
    } else {
      STERNA_RETURN_IF_ERROR(EncodeNormalized(piece.text, ids));
    }
  }
  return absl::OkStatus();
}

Status BpeTokenizer::EncodeNormalized(std::string_view text, std::vector<int32_t>* ids) const {
  STERNA_ASSIGN_OR_RETURN(const PreTokenizer::Words words, pre_tokenizer_.Split(text));
  size_t begin = 0;
  for (const size_t end : words.ends) {
    EncodeWord(std::string_view(words.text).substr(begin, end - begin), ids);
    begin = end;
  }
  return absl::OkStatus();
}

void BpeTokenizer::EncodeWord(std::string_view word, std::vector<int32_t>* ids) const {
  if (ignore_merges_) {
    if (const std::optional<int32_t> id = vocabulary().FindInModel(word)) {
      ids->push_back(*id);
      return;
    }
  }
  std::vector<int32_t> tokens;
  tokens.reserve(word.size());
  for (size_t pos = 0; pos < word.size();) {
    const Utf8Unit unit = ReadUtf8(word, pos);
    tokens.push_back(byte_tokens_[*ByteLevelByte(unit.code_point)]);
    pos += unit.length;
  }
  merges_.Apply(&tokens);
  ids->insert(ids->end(), tokens.begin(), tokens.end());
}

std::string BpeTokenizer::PieceBytes(int32_t id) const {
  const std::string& spelling = vocabulary().Spelling(id);
  return ByteLevelDecode(spelling).value_or(spelling);
}

}  // namespace sterna
