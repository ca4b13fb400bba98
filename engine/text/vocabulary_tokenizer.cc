#include "engine/text/vocabulary_tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

// Ids may skip some numbers (reserved entries), but a single huge one is a corrupt file.
constexpr size_t kMaxSkippedIds = 1 << 16;

}  // namespace

StatusOr<Vocabulary> Vocabulary::Create(const std::string& source, const TokenizerJson& json) {
  Vocabulary result;
  const size_t max_size = json.vocab.size() + json.added_tokens.size() + kMaxSkippedIds;
  int32_t max_id = -1;
  for (const auto& [token, id] : json.vocab) max_id = std::max(max_id, id);
  for (const AddedToken& token : json.added_tokens) max_id = std::max(max_id, token.id);
  if (static_cast<size_t>(max_id) >= max_size && max_id >= 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": ", json.vocab_name, " and added_tokens have ",
        json.vocab.size() + json.added_tokens.size(), " entries, but the largest id is ", max_id));
  }
  result.spellings_.resize(max_id + 1);
  result.ids_.reserve(json.vocab.size() + json.added_tokens.size());
  result.in_model_.resize(max_id + 1);
  for (const auto& [token, id] : json.vocab) {
    STERNA_RETURN_IF_ERROR(result.Add(source, token, id));
    result.in_model_[id] = true;
  }
  for (const AddedToken& token : json.added_tokens) {
    STERNA_RETURN_IF_ERROR(result.Add(source, token.content, token.id));
  }
  return result;
}

Status Vocabulary::Add(const std::string& source, const std::string& token, int32_t id) {
  const auto [it, inserted] = ids_.try_emplace(token, id);
  if (it->second != id) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": token \"", token, "\" has the ids ",
                                                   it->second, " and ", id, "; it must have one"));
  }
  if (!inserted) return absl::OkStatus();
  if (!spellings_[id].empty()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": id ", id, " is both \"",
                                                   spellings_[id], "\" and \"", token,
                                                   "\"; it must be one of them"));
  }
  spellings_[id] = token;
  return absl::OkStatus();
}

std::optional<int32_t> Vocabulary::Find(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::optional<int32_t> Vocabulary::FindInModel(std::string_view token) const {
  const std::optional<int32_t> id = Find(token);
  return id && in_model_[*id] ? id : std::nullopt;
}

const std::string& Vocabulary::Spelling(int32_t id) const {
  static const std::string* const kNone = new std::string();
  return id >= 0 && id < size() ? spellings_[id] : *kNone;
}

VocabularyTokenizer::VocabularyTokenizer(Vocabulary vocabulary, const TokenizerJson& json,
                                         const TokenizerConfig& config)
    : vocabulary_(std::move(vocabulary)),
      added_tokens_(json.added_tokens, json.nfc),
      prefix_ids_(json.prefix_ids),
      suffix_ids_(json.suffix_ids),
      bos_id_(vocabulary_.Find(config.bos_token)) {
  if (!bos_id_ && config.bos_token.empty() && !prefix_ids_.empty()) bos_id_ = prefix_ids_.front();
}

StatusOr<std::vector<int32_t>> VocabularyTokenizer::Encode(std::string_view text, bool add_special,
                                                           bool parse_special) const {
  if (const size_t bad = FindInvalidUtf8(text); bad != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrCat("the text is not valid UTF-8 at byte ", bad));
  }
  std::vector<int32_t> ids;
  if (add_special) ids = prefix_ids_;
  for (const AddedTokens::Piece& piece :
       added_tokens_.Split(text, parse_special, /*normalized=*/false)) {
    if (piece.id != AddedTokens::kOrdinaryText) {
      ids.push_back(piece.id);
      continue;
    }
    const bool at_start = piece.text.data() == text.data();
    STERNA_RETURN_IF_ERROR(EncodeSegment(piece.text, parse_special, at_start, &ids));
  }
  if (add_special) ids.insert(ids.end(), suffix_ids_.begin(), suffix_ids_.end());
  return ids;
}

std::string VocabularyTokenizer::TokenBytes(int32_t id) const {
  if (const AddedToken* added = added_tokens_.Find(id)) {
    return added->special ? std::string() : added->content;
  }
  return vocabulary_.Spelling(id).empty() ? std::string() : PieceBytes(id);
}

bool VocabularyTokenizer::IsSpecial(int32_t id) const {
  const AddedToken* added = added_tokens_.Find(id);
  return added != nullptr && added->special;
}

void ApplyTokenizerConfig(const TokenizerConfig& config, TokenizerJson* json) {
  absl::flat_hash_map<std::string_view, int32_t> vocab;
  vocab.reserve(json->vocab.size());
  for (const auto& [token, id] : json->vocab) vocab.try_emplace(token, id);
  std::vector<AddedToken>& added = json->added_tokens;
  std::unordered_map<std::string, size_t> added_index;  // of the first with that content
  for (size_t i = 0; i < added.size(); ++i) added_index.try_emplace(added[i].content, i);
  const auto add = [&](AddedToken token) {
    added_index.try_emplace(token.content, added.size());
    added.push_back(std::move(token));
  };

  for (AddedToken token : config.added_tokens) {
    if (const auto known = added_index.find(token.content); known != added_index.end()) {
      token.id = added[known->second].id;
      added[known->second] = std::move(token);
      continue;
    }
    if (const auto it = vocab.find(token.content); it != vocab.end()) token.id = it->second;
    add(std::move(token));
  }
  const auto make_special = [&](const std::string& named) {
    if (const auto known = added_index.find(named); known != added_index.end()) {
      added[known->second].special = true;
    } else if (const auto it = vocab.find(named); it != vocab.end()) {
      AddedToken token;
      token.id = it->second;
      token.content = named;
      token.special = true;
      add(std::move(token));
    }
  };
  for (const auto* named :
       {&config.bos_token, &config.eos_token, &config.unk_token, &config.pad_token}) {
    make_special(*named);
  }
  for (const std::string& named : config.other_special_tokens) make_special(named);
}

}  // namespace sterna
