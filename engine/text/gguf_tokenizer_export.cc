#include "engine/text/gguf_tokenizer_export.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/chat_template.h"
#include "engine/text/gguf_vocabulary.h"
#include "engine/text/pre_tokenizer_names.h"
#include "engine/text/sentencepiece_proto.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_files.h"

namespace sterna {
namespace {

// What converters give to tokens that tokenizer.model has no score for; nothing reads it.
constexpr float kAddedTokenScore = -1000;

// One export. Each Add... appends its keys to `out_`.
class Exporter {
 public:
  Exporter(TokenizerFiles files, std::unique_ptr<Tokenizer> tokenizer)
      : files_(std::move(files)),
        tokenizer_(std::move(tokenizer)),
        source_(files_.byte_level() ? files_.json_path : files_.model_path) {}

  StatusOr<std::vector<GgufKeyValue>> Export(int64_t vocab_size,
                                             std::span<const int32_t> end_token_ids) {
    if (vocab_size < tokenizer_->vocab_size() || vocab_size > std::numeric_limits<int32_t>::max()) {
      return Unsupported(absl::StrCat("has ids up to ", tokenizer_->vocab_size() - 1,
                                      ", but the model has ", vocab_size, " rows for tokens"));
    }
    tokens_.resize(vocab_size);
    types_.assign(vocab_size, PieceType::kUnused);
    Add(gguf_keys::kModel, std::string(files_.byte_level() ? "gpt2" : "llama"));
    STERNA_RETURN_IF_ERROR(files_.byte_level() ? AddPreTokenizer() : ReadPieces());
    STERNA_RETURN_IF_ERROR(NameTokens());
    Add(gguf_keys::kTokens, tokens_);
    if (!files_.byte_level()) Add(gguf_keys::kScores, scores_);
    Add(gguf_keys::kTokenTypes, std::vector<int32_t>());
    for (const PieceType type : types_) {
      std::get<std::vector<int32_t>>(out_.back().second).push_back(static_cast<int32_t>(type));
    }
    if (files_.byte_level()) {
      AddMerges();
    } else {
      STERNA_RETURN_IF_ERROR(AddNormalizer());
    }
    STERNA_RETURN_IF_ERROR(AddSpecialTokens(end_token_ids));
    return std::move(out_);
  }

 private:
  template <typename T>
  void Add(const char* key, T value) {
    out_.emplace_back(key, std::move(value));
  }

  Status Unsupported(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(source_, " ", what));
  }

  Status AddPreTokenizer() {
    const TokenizerJson& json = *files_.json;
    const auto name = PreTokenizerName(json.pre_tokenizer, json.nfc, json.ignore_merges);
    if (!name) {
      return Unsupported(
          absl::StrCat("has a pre_tokenizer that, with normalizer ", json.nfc ? "NFC" : "null",
                       " and ignore_merges ", json.ignore_merges ? "true" : "false",
                       ", has no name in GGUF known here; known are ", PreTokenizerNames()));
    }
    Add(gguf_keys::kPre, std::string(*name));
    return absl::OkStatus();
  }

  // Scores and types of tokenizer.model's own pieces.
  Status ReadPieces() {
    Add(gguf_keys::kPre, std::string("default"));
    StatusOr<SentencePieceProto> model = ParseSentencePiece(files_.model);
    if (!model.ok()) return Annotate(model.status(), source_);
    model_ = *std::move(model);
    if (model_.model_type != SentencePieceProto::kBpe) {
      return Unsupported(
          absl::StrCat("has model_type ", model_.model_type, "; GGUF's 'llama' is for 2, BPE"));
    }
    scores_.assign(tokens_.size(), kAddedTokenScore);
    for (size_t id = 0; id < model_.pieces.size(); ++id) {
      types_[id] = model_.pieces[id].type;
      scores_[id] = model_.pieces[id].score;
    }
    return absl::OkStatus();
  }

  // The spelling of every id, and the types that added tokens give.
  Status NameTokens() {
    std::vector<bool> is_added(tokens_.size());
    for (const std::vector<AddedToken>* added : AddedTokenLists()) {
      for (const AddedToken& token : *added) {
        const std::optional<int32_t> id = tokenizer_->TokenToId(token.content);
        if (!id) continue;
        if (token.lstrip || token.rstrip || token.single_word) {
          return Unsupported(absl::StrCat("has the added token \"", token.content, "\" with ",
                                          token.single_word ? "single_word"
                                          : token.lstrip    ? "lstrip"
                                                            : "rstrip",
                                          ", which GGUF has no place for"));
        }
        is_added[*id] = true;
      }
    }
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const auto id = static_cast<int32_t>(i);
      tokens_[i] = tokenizer_->IdToToken(id);
      if (tokens_[i].empty()) {
        tokens_[i] = absl::StrCat("[PAD", i, "]");
      } else if (tokenizer_->IsSpecial(id)) {
        if (types_[i] != PieceType::kUnknown) types_[i] = PieceType::kControl;
      } else if (is_added[i]) {
        types_[i] = PieceType::kUserDefined;
      } else if (types_[i] == PieceType::kUserDefined) {
        return Unsupported(absl::StrCat("has the user-defined piece \"", tokens_[i],
                                        "\", which is no added token of the JSON files; GGUF's "
                                        "user-defined tokens are"));
      } else if (files_.byte_level()) {
        types_[i] = PieceType::kNormal;
      }
    }
    return absl::OkStatus();
  }

  std::vector<const std::vector<AddedToken>*> AddedTokenLists() const {
    std::vector<const std::vector<AddedToken>*> lists = {&files_.config.added_tokens};
    if (files_.json) lists.push_back(&files_.json->added_tokens);
    return lists;
  }

  void AddMerges() {
    std::vector<std::string> merges;
    merges.reserve(files_.json->merges.size());
    for (const auto& [left, right] : files_.json->merges) {
      merges.push_back(absl::StrCat(left, " ", right));
    }
    Add(gguf_keys::kMerges, std::move(merges));
  }

  // Where spaces go, and what becomes of a text before SentencePiece sees it.
  Status AddNormalizer() {
    if (model_.space_is_suffix || !model_.escape_whitespace) {
      return Unsupported(
          "has treat_whitespace_as_suffix or no escape_whitespaces; GGUF has no "
          "words for that");
    }
    DummyPrefix prefix = DummyPrefix::kNever;
    if (files_.json) {
      prefix = files_.json->dummy_prefix;
    } else if (model_.add_dummy_prefix && files_.config.add_prefix_space.value_or(true)) {
      prefix =
          files_.config.legacy.value_or(true) ? DummyPrefix::kEverySegment : DummyPrefix::kFirst;
    }
    const bool unless_space = files_.json && files_.json->prefix_unless_space;
    if (prefix == DummyPrefix::kFirst || (prefix != DummyPrefix::kNever && unless_space)) {
      return Unsupported(
          "puts a space in front of some texts only (Metaspace, or legacy: false); GGUF's "
          "add_space_prefix means the beginning and after every special token, or never");
    }
    Add(gguf_keys::kAddSpacePrefix, prefix == DummyPrefix::kEverySegment);
    Add(gguf_keys::kRemoveExtraWhitespace,
        files_.json ? files_.json->removes_extra_whitespace : model_.remove_extra_whitespace);
    if (!model_.charsmap.empty() && (!files_.json || files_.json->uses_charsmap)) {
      std::vector<int32_t> bytes;
      for (const char c : model_.charsmap) bytes.push_back(static_cast<uint8_t>(c));
      Add(gguf_keys::kCharsmap, std::move(bytes));
    }
    return absl::OkStatus();
  }

  // The one token in `ids`, none when it is empty.
  StatusOr<std::optional<int32_t>> AtMostOne(std::span<const int32_t> ids,
                                             const char* where) const {
    if (ids.size() <= 1) return ids.empty() ? std::nullopt : std::optional<int32_t>(ids[0]);
    return Unsupported(
        absl::StrCat("puts ", ids.size(), " tokens ", where, " a text; GGUF has a place for one"));
  }

  Status AddSpecialTokens(std::span<const int32_t> end_token_ids) {
    // What goes around a text shows when one is encoded.
    STERNA_ASSIGN_OR_RETURN(const auto whole, tokenizer_->Encode("a", true, false));
    STERNA_ASSIGN_OR_RETURN(const auto text, tokenizer_->Encode("a", false, false));
    const auto begin = std::search(whole.begin(), whole.end(), text.begin(), text.end());
    STERNA_ASSIGN_OR_RETURN(const auto prefix, AtMostOne({whole.begin(), begin}, "in front of"));
    STERNA_ASSIGN_OR_RETURN(
        const auto suffix,
        AtMostOne({begin + static_cast<std::ptrdiff_t>(text.size()), whole.end()}, "after"));
    const std::optional<int32_t> bos = tokenizer_->bos_id() ? tokenizer_->bos_id() : prefix;
    std::optional<int32_t> eos = tokenizer_->TokenToId(files_.config.eos_token);
    if (!eos && suffix) eos = suffix;
    if (!eos && !end_token_ids.empty()) eos = end_token_ids.front();
    if ((prefix && prefix != bos) || (suffix && suffix != eos)) {
      return Unsupported(absl::StrCat(
          "puts \"", tokenizer_->IdToToken(prefix && prefix != bos ? *prefix : *suffix),
          "\" around a text, which is neither its BOS nor its EOS; GGUF has a place for those"));
    }
    for (const int32_t id : end_token_ids) {
      if (id < 0 || id >= tokenizer_->vocab_size()) {
        return Unsupported(absl::StrCat("has no token ", id, ", which ends the model's answers"));
      }
    }
    AddId(gguf_keys::kBos, bos);
    AddId(gguf_keys::kEos, eos);
    AddEnds(eos, end_token_ids);
    AddId(gguf_keys::kUnknown, tokenizer_->TokenToId(files_.config.unk_token));
    AddId(gguf_keys::kPadding, tokenizer_->TokenToId(files_.config.pad_token));
    Add(gguf_keys::kAddBos, prefix.has_value());
    Add(gguf_keys::kAddEos, suffix.has_value());
    return absl::OkStatus();
  }

  void AddId(const char* key, std::optional<int32_t> id) {
    if (id) Add(key, static_cast<uint32_t>(*id));
  }

  // All of them for readers that know the list; the first besides EOS for those that do not.
  void AddEnds(std::optional<int32_t> eos, std::span<const int32_t> end_token_ids) {
    if (end_token_ids.empty()) return;
    const auto other = std::find_if(end_token_ids.begin(), end_token_ids.end(),
                                    [&](int32_t id) { return id != eos; });
    if (other != end_token_ids.end()) AddId(gguf_keys::kEot, *other);
    Add(gguf_keys::kEnds, std::vector<int32_t>(end_token_ids.begin(), end_token_ids.end()));
  }

  TokenizerFiles files_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::string source_;
  SentencePieceProto model_;  // empty with byte-level BPE
  std::vector<std::string> tokens_;
  std::vector<PieceType> types_;
  std::vector<float> scores_;  // empty with byte-level BPE
  std::vector<GgufKeyValue> out_;
};

}  // namespace

StatusOr<std::vector<GgufKeyValue>> GgufTokenizerMetadata(const std::string& model_dir,
                                                          int64_t vocab_size,
                                                          std::span<const int32_t> end_token_ids) {
  STERNA_ASSIGN_OR_RETURN(TokenizerFiles files, ReadTokenizerFiles(model_dir));
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, CreateTokenizer(files));
  Exporter exporter(std::move(files), std::move(tokenizer));
  STERNA_ASSIGN_OR_RETURN(auto metadata, exporter.Export(vocab_size, end_token_ids));
  StatusOr<ChatTemplateSource> chat_template = ReadChatTemplate(model_dir);
  if (chat_template.ok()) {
    metadata.emplace_back(gguf_keys::kChatTemplate, std::move(chat_template->text));
  } else if (!absl::IsNotFound(chat_template.status())) {
    return chat_template.status();
  }
  return metadata;
}

}  // namespace sterna
