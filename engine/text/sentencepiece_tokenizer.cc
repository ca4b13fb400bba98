#include "engine/text/sentencepiece_tokenizer.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/sentencepiece_proto.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace sterna {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

// Fields of the model's NormalizerSpec (ModelProto's field 3), each tag followed by one byte.
constexpr std::string_view kNoCharsmap("\x12\x00", 2);
constexpr std::string_view kAddDummyPrefix("\x18\x01", 2), kNoDummyPrefix("\x18\x00", 2);
constexpr std::string_view kRemoveExtraWhitespace("\x20\x01", 2);
constexpr std::string_view kKeepExtraWhitespace("\x20\x00", 2);

// A message appended to a serialised one is merged into it: the later scalar counts. So the
// normaliser is configured without the protobuf classes, which SentencePiece does not publish.
std::string WithNormalizer(std::string_view model, std::string_view fields) {
  std::string result(model);
  result += '\x1A';
  result += static_cast<char>(fields.size());
  result += fields;
  return result;
}

StatusOr<std::unique_ptr<SentencePieceModel>> LoadModel(const std::string& path,
                                                        const std::string& serialized) {
  const std::string invalid = absl::StrCat(path, " is not a valid SentencePiece model");
  StatusOr<SentencePieceProto> proto = ParseSentencePiece(serialized);
  if (!proto.ok()) return Annotate(proto.status(), invalid);
  STERNA_RETURN_IF_ERROR(Annotate(CheckCharsmap(proto->charsmap), invalid));
  std::string error;
  std::unique_ptr<SentencePieceModel> model = SentencePieceModel::Load(serialized, &error);
  if (model != nullptr) return model;
  return absl::InvalidArgumentError(absl::StrCat(invalid, ": ", error));
}

// What a tokenizer.json for this model would say.
TokenizerJson DescribeModel(const SentencePieceModel& model, const TokenizerConfig& config) {
  TokenizerJson json;
  for (int id = 0; id < model.size(); ++id) json.vocab.emplace_back(model.Piece(id), id);
  if (config.add_bos_token.value_or(true) && model.bos_id() >= 0) {
    json.prefix_ids.push_back(model.bos_id());
  }
  if (config.add_eos_token.value_or(false) && model.eos_id() >= 0) {
    json.suffix_ids.push_back(model.eos_id());
  }
  json.dummy_prefix =
      config.add_prefix_space.value_or(true) ? DummyPrefix::kModel : DummyPrefix::kNever;
  return json;
}

// Control tokens and <unk> are special whether or not the JSON files say so.
void AddControlTokens(const SentencePieceModel& model, TokenizerJson* json) {
  std::vector<bool> known(static_cast<size_t>(model.size()));
  for (const AddedToken& token : json->added_tokens) {
    if (token.id >= 0 && token.id < model.size()) known[token.id] = true;
  }
  for (int id = 0; id < model.size(); ++id) {
    if (!model.IsControlOrUnknown(id) || known[id]) continue;
    AddedToken token;
    token.id = id;
    token.content = model.Piece(id);
    token.special = true;
    json->added_tokens.push_back(std::move(token));
  }
}

// Each piece of the model must be what tokenizer.json calls it.
Status CheckAgreement(const std::string& path, const SentencePieceModel& model,
                      const Vocabulary& vocabulary) {
  for (int id = 0; id < model.size(); ++id) {
    if (vocabulary.Spelling(id) == model.Piece(id)) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path, " and tokenizer.json disagree: id ", id, " is \"", model.Piece(id),
                     "\" in the one and \"", vocabulary.Spelling(id), "\" in the other"));
  }
  return absl::OkStatus();
}

class SentencePieceTokenizer final : public VocabularyTokenizer {
 public:
  SentencePieceTokenizer(Vocabulary vocabulary, const TokenizerJson& json,
                         const TokenizerConfig& config,
                         std::unique_ptr<SentencePieceModel> prefixing,
                         std::unique_ptr<SentencePieceModel> plain)
      : VocabularyTokenizer(std::move(vocabulary), json, config),
        prefixing_(std::move(prefixing)),
        plain_(std::move(plain)),
        dummy_prefix_(json.dummy_prefix),
        prefix_unless_space_(json.prefix_unless_space) {
    if (dummy_prefix_ == DummyPrefix::kModel) {
      const bool every_segment = config.legacy.value_or(true);
      dummy_prefix_ = every_segment ? DummyPrefix::kEverySegment : DummyPrefix::kFirst;
      std::vector<int32_t> ids;
      std::string error;
      prefixing_->Encode("a", &ids, &error);
      if (ids.empty() || !prefixing_->Piece(ids.front()).starts_with(kSpaceMark)) {
        dummy_prefix_ = DummyPrefix::kNever;
      }
    }
  }

  std::string_view kind() const override { return "SentencePiece"; }
  bool StripsLeadingSpace() const override { return dummy_prefix_ != DummyPrefix::kNever; }

 private:
  Status EncodeSegment(std::string_view segment, bool /*parse_special*/, bool at_start,
                       std::vector<int32_t>* ids) const override {
    bool prefix = dummy_prefix_ == DummyPrefix::kEverySegment ||
                  (dummy_prefix_ == DummyPrefix::kFirst && at_start);
    if (prefix_unless_space_ && (segment.starts_with(' ') || segment.starts_with(kSpaceMark))) {
      prefix = false;
    }
    std::string error;
    if (!(prefix ? prefixing_ : plain_)->Encode(segment, ids, &error)) {
      return absl::InternalError(absl::StrCat("SentencePiece cannot encode the text: ", error));
    }
    return absl::OkStatus();
  }

  std::string PieceBytes(int32_t id) const override {
    const std::string& piece = vocabulary().Spelling(id);
    if (plain_->IsByte(id)) {  // "<0x0A>"
      return std::string(1, static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16)));
    }
    std::string bytes;
    for (size_t pos = 0; pos < piece.size();) {
      if (std::string_view(piece).substr(pos).starts_with(kSpaceMark)) {
        bytes += ' ';
        pos += kSpaceMark.size();
      } else {
        bytes += piece[pos++];
      }
    }
    return bytes;
  }

  std::unique_ptr<SentencePieceModel> prefixing_, plain_;
  DummyPrefix dummy_prefix_;  // never kModel
  bool prefix_unless_space_;
};

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> CreateSentencePieceTokenizer(const std::string& source,
                                                                  std::string_view model,
                                                                  const TokenizerJson* json,
                                                                  const TokenizerConfig& config) {
  std::string normalizer;
  if (json != nullptr) {
    if (!json->uses_charsmap) normalizer += kNoCharsmap;
    normalizer += json->removes_extra_whitespace ? kRemoveExtraWhitespace : kKeepExtraWhitespace;
  }
  std::string prefixing_normalizer = normalizer;
  if (json != nullptr) prefixing_normalizer += kAddDummyPrefix;
  STERNA_ASSIGN_OR_RETURN(auto prefixing,
                          LoadModel(source, WithNormalizer(model, prefixing_normalizer)));
  normalizer += kNoDummyPrefix;
  STERNA_ASSIGN_OR_RETURN(auto plain, LoadModel(source, WithNormalizer(model, normalizer)));

  TokenizerJson description = json != nullptr ? *json : DescribeModel(*plain, config);
  ApplyTokenizerConfig(config, &description);
  AddControlTokens(*plain, &description);
  for (AddedToken& token : description.added_tokens) token.normalized = false;
  STERNA_ASSIGN_OR_RETURN(Vocabulary vocabulary, Vocabulary::Create(source, description));
  STERNA_RETURN_IF_ERROR(CheckAgreement(source, *plain, vocabulary));
  return std::make_unique<SentencePieceTokenizer>(std::move(vocabulary), description, config,
                                                  std::move(prefixing), std::move(plain));
}

}  // namespace sterna
