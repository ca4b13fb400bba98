#include "engine/text/gguf_vocabulary.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "engine/model/json_text.h"
#include "engine/text/tokenizer.h"

namespace sterna {
namespace {

// Ids that a file need not give, as llama.cpp has them. They were the first models' own and mean
// nothing in another vocabulary, so here they count for control tokens only.
constexpr int32_t kSentencePieceBos = 1, kSentencePieceEos = 2;
constexpr int32_t kByteLevelBos = 11, kByteLevelEos = 11;

// Spellings that end a turn, a message or a document, in the vocabularies that have them.
constexpr std::string_view kEndSpellings[] = {
    "<|eot_id|>",    "<|eom_id|>",    "<|im_end|>",      "<|end|>",
    "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>",
};

Status KeyError(const GgufMetadata& metadata, const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(metadata.file(), ": metadata '", where, "' ", what));
}

std::string Element(const char* key, size_t index) { return absl::StrCat(key, "[", index, "]"); }

Status ReadTokens(const GgufMetadata& metadata, GgufVocabulary* vocabulary) {
  STERNA_ASSIGN_OR_RETURN(const auto tokens, metadata.Strings(gguf_keys::kTokens));
  if (tokens.empty() || tokens.size() > std::numeric_limits<int32_t>::max()) {
    return KeyError(metadata, gguf_keys::kTokens,
                    absl::StrCat("has ", tokens.size(), " tokens; 1 to 2^31 - 1 are possible"));
  }
  absl::flat_hash_map<std::string_view, size_t> seen;
  seen.reserve(tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i].empty()) continue;  // NameEmptyTokens
    if (const size_t bad = FindInvalidUtf8(tokens[i]); bad != std::string_view::npos) {
      return KeyError(metadata, Element(gguf_keys::kTokens, i),
                      absl::StrCat("is not valid UTF-8 at its byte ", bad));
    }
    const auto [first, is_new] = seen.try_emplace(tokens[i], i);
    if (is_new) continue;
    return KeyError(metadata, Element(gguf_keys::kTokens, i),
                    absl::StrCat("is '", Shown(tokens[i]), "', and so is token ", first->second,
                                 "; each must be there once"));
  }
  vocabulary->tokens.assign(tokens.begin(), tokens.end());
  return absl::OkStatus();
}

Status ReadTypes(const GgufMetadata& metadata, GgufVocabulary* vocabulary) {
  STERNA_ASSIGN_OR_RETURN(const auto types, metadata.Integers(gguf_keys::kTokenTypes));
  if (types.size() != vocabulary->tokens.size()) {
    return KeyError(metadata, gguf_keys::kTokenTypes,
                    absl::StrCat("has ", types.size(), " values, but '", gguf_keys::kTokens,
                                 "' has ", vocabulary->tokens.size(), "; they must agree"));
  }
  vocabulary->types.reserve(types.size());
  for (size_t i = 0; i < types.size(); ++i) {
    if (types[i] < 1 || types[i] > static_cast<int64_t>(PieceType::kByte)) {
      return KeyError(metadata, Element(gguf_keys::kTokenTypes, i),
                      absl::StrCat("is ", types[i],
                                   "; it must be 1 (normal), 2 (unknown), 3 (control), 4 (user "
                                   "defined), 5 (unused) or 6 (byte)"));
    }
    vocabulary->types.push_back(static_cast<PieceType>(types[i]));
  }
  return absl::OkStatus();
}

void NameEmptyTokens(GgufVocabulary* vocabulary) {
  for (size_t i = 0; i < vocabulary->tokens.size(); ++i) {
    if (!vocabulary->tokens[i].empty()) continue;
    vocabulary->tokens[i] = absl::StrCat("[EMPTY_", i, "]");
    vocabulary->types[i] = PieceType::kUnused;
  }
}

// "[PAD7]": what converters call the rows of an embedding table that no token has.
bool IsPadding(std::string_view token, PieceType type) {
  if (type != PieceType::kUnused || !token.starts_with("[PAD") || !token.ends_with(']')) {
    return false;
  }
  const std::string_view number = token.substr(4, token.size() - 5);
  return !number.empty() && number.find_first_not_of("0123456789") == std::string_view::npos;
}

// The id that `key` has; `otherwise`, if that is a control token, when there is no such key.
StatusOr<std::optional<int32_t>> TokenId(const GgufMetadata& metadata,
                                         const GgufVocabulary& vocabulary, const char* key,
                                         int32_t otherwise) {
  const auto size = static_cast<int64_t>(vocabulary.tokens.size());
  if (metadata.Find(key) == nullptr) {
    const bool is_control =
        otherwise >= 0 && otherwise < size && vocabulary.types[otherwise] == PieceType::kControl;
    return is_control ? std::optional<int32_t>(otherwise) : std::nullopt;
  }
  STERNA_ASSIGN_OR_RETURN(const int64_t id, metadata.Integer(key));
  if (id < 0 || id >= size) {
    return KeyError(metadata, key,
                    absl::StrCat("is ", id, "; it must be one of the ids 0 to ", size - 1));
  }
  return std::optional<int32_t>(static_cast<int32_t>(id));
}

}  // namespace

std::optional<int32_t> GgufVocabulary::Find(std::string_view token) const {
  const auto it = std::find(tokens.begin(), tokens.end(), token);
  if (it == tokens.end()) return std::nullopt;
  return static_cast<int32_t>(it - tokens.begin());
}

std::string GgufVocabulary::Spelling(std::optional<int32_t> id) const {
  return id ? tokens[*id] : std::string();
}

StatusOr<std::optional<bool>> OptionalGgufBool(const GgufMetadata& metadata, std::string_view key) {
  if (metadata.Find(key) == nullptr) return std::optional<bool>();
  STERNA_ASSIGN_OR_RETURN(const bool value, metadata.Bool(key));
  return std::optional<bool>(value);
}

StatusOr<GgufVocabulary> ReadGgufVocabulary(const GgufMetadata& metadata) {
  GgufVocabulary vocabulary;
  STERNA_ASSIGN_OR_RETURN(const std::string_view model, metadata.String(gguf_keys::kModel));
  if (model != "llama" && model != "gpt2") {
    return KeyError(metadata, gguf_keys::kModel,
                    absl::StrCat("is '", Shown(model),
                                 "'; supported are 'llama' (SentencePiece BPE) and 'gpt2' "
                                 "(byte-level BPE)"));
  }
  vocabulary.byte_level = model == "gpt2";
  STERNA_RETURN_IF_ERROR(ReadTokens(metadata, &vocabulary));
  STERNA_RETURN_IF_ERROR(ReadTypes(metadata, &vocabulary));
  NameEmptyTokens(&vocabulary);
  vocabulary.num_entries = vocabulary.tokens.size();
  while (!vocabulary.tokens.empty() &&
         IsPadding(vocabulary.tokens.back(), vocabulary.types.back())) {
    vocabulary.tokens.pop_back();
    vocabulary.types.pop_back();
  }
  const bool byte_level = vocabulary.byte_level;
  STERNA_ASSIGN_OR_RETURN(vocabulary.bos_id,
                          TokenId(metadata, vocabulary, gguf_keys::kBos,
                                  byte_level ? kByteLevelBos : kSentencePieceBos));
  STERNA_ASSIGN_OR_RETURN(vocabulary.eos_id,
                          TokenId(metadata, vocabulary, gguf_keys::kEos,
                                  byte_level ? kByteLevelEos : kSentencePieceEos));
  STERNA_ASSIGN_OR_RETURN(vocabulary.add_bos, OptionalGgufBool(metadata, gguf_keys::kAddBos));
  STERNA_ASSIGN_OR_RETURN(vocabulary.add_eos, OptionalGgufBool(metadata, gguf_keys::kAddEos));
  for (const auto& [add, id, key] :
       {std::tuple(vocabulary.add_bos, vocabulary.bos_id, gguf_keys::kBos),
        std::tuple(vocabulary.add_eos, vocabulary.eos_id, gguf_keys::kEos)}) {
    if (add.value_or(false) && !id) {
      return absl::NotFoundError(
          absl::StrCat(metadata.file(), ": metadata '",
                       key == gguf_keys::kBos ? gguf_keys::kAddBos : gguf_keys::kAddEos,
                       "' is true, but there is no '", key, "' to say which token that is"));
    }
  }
  return vocabulary;
}

StatusOr<std::vector<int32_t>> ReadGgufEndTokenIds(const GgufMetadata& metadata) {
  STERNA_ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, ReadGgufVocabulary(metadata));
  constexpr int32_t kNone = -1;
  std::vector<int32_t> ids;
  if (vocabulary.eos_id) ids.push_back(*vocabulary.eos_id);
  for (const char* key : {gguf_keys::kEot, gguf_keys::kEom}) {
    STERNA_ASSIGN_OR_RETURN(const auto id, TokenId(metadata, vocabulary, key, kNone));
    if (id) ids.push_back(*id);
  }
  const bool has_list = metadata.Find(gguf_keys::kEnds) != nullptr;
  if (has_list) {
    STERNA_ASSIGN_OR_RETURN(const auto list, metadata.Integers(gguf_keys::kEnds));
    const auto size = static_cast<int64_t>(vocabulary.tokens.size());
    for (size_t i = 0; i < list.size(); ++i) {
      if (list[i] < 0 || list[i] >= size) {
        return KeyError(
            metadata, Element(gguf_keys::kEnds, i),
            absl::StrCat("is ", list[i], "; it must be one of the ids 0 to ", size - 1));
      }
      ids.push_back(static_cast<int32_t>(list[i]));
    }
  }
  if (vocabulary.byte_level && !has_list && metadata.Find(gguf_keys::kEot) == nullptr) {
    for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
      if (vocabulary.types[id] == PieceType::kControl &&
          std::find(std::begin(kEndSpellings), std::end(kEndSpellings), vocabulary.tokens[id]) !=
              std::end(kEndSpellings)) {
        ids.push_back(static_cast<int32_t>(id));
      }
    }
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace sterna
