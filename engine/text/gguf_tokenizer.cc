#include "engine/text/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "engine/model/json_text.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/gguf_vocabulary.h"
#include "engine/text/pre_tokenizer_names.h"
#include "engine/text/sentencepiece_proto.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/text/tokenizer_files.h"

namespace sterna {
namespace {

constexpr std::string_view kLlama3Bos = "<|begin_of_text|>", kLlama3PreTokenizer = "llama-bpe";

// What family A was trained with (FORMATS, section 5): its own tokenizer_config.json says the same.
constexpr char kBitnetTemplate[] =
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ message['role'] | capitalize }}: {{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}";
constexpr char kArchitecture[] = "general.architecture";

Status KeyError(const GgufMetadata& metadata, const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrCat(metadata.file(), ": metadata '", where, "' ", what));
}

std::string NameOf(const char* key) { return absl::StrCat("metadata '", key, "'"); }

// Everything but how text becomes tokens: which tokens there are, which are looked for first, and
// what goes around a text.
TokenizerJson Describe(const GgufVocabulary& vocabulary, bool add_bos) {
  TokenizerJson json;
  json.vocab_name = NameOf(gguf_keys::kTokens);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const PieceType type = vocabulary.types[i];
    const bool special = type == PieceType::kControl || type == PieceType::kUnknown ||
                         id == vocabulary.bos_id || id == vocabulary.eos_id;
    // A byte-level vocabulary has unused entries only where a model's table has spare rows.
    if (vocabulary.byte_level && type == PieceType::kUnused && !special) continue;
    if (special || type == PieceType::kUserDefined) {
      AddedToken token;
      token.id = id;
      token.content = vocabulary.tokens[i];
      token.special = special;
      json.added_tokens.push_back(std::move(token));
      // Merges and words must not make a special token from a user's text.
      if (special && vocabulary.byte_level) continue;
    }
    json.vocab.emplace_back(vocabulary.tokens[i], id);
  }
  if (vocabulary.bos_id && vocabulary.add_bos.value_or(add_bos)) {
    json.prefix_ids.push_back(*vocabulary.bos_id);
  }
  if (vocabulary.eos_id && vocabulary.add_eos.value_or(false)) {
    json.suffix_ids.push_back(*vocabulary.eos_id);
  }
  return json;
}

// For the id of the BOS, which the tokenizer finds by its spelling.
TokenizerConfig ConfigOf(const GgufVocabulary& vocabulary) {
  TokenizerConfig config;
  config.bos_token = vocabulary.Spelling(vocabulary.bos_id);
  return config;
}

StatusOr<NamedPreTokenizer> ReadPreTokenizer(const GgufMetadata& metadata,
                                             const GgufVocabulary& vocabulary) {
  std::string_view name = kLlama3PreTokenizer;
  if (metadata.Find(gguf_keys::kPre) != nullptr) {
    STERNA_ASSIGN_OR_RETURN(name, metadata.String(gguf_keys::kPre));
  } else {
    if (!vocabulary.Find(kLlama3Bos)) {
      return absl::NotFoundError(
          absl::StrCat(metadata.file(), ": there is no metadata '", gguf_keys::kPre,
                       "', so nothing says how text is cut into words; it should be one of ",
                       PreTokenizerNames()));
    }
    STERNA_LOG(kWarning, metadata.file(), ": there is no metadata '", gguf_keys::kPre,
               "'; the vocabulary has ", std::string(kLlama3Bos),
               ", so text is cut into words as Llama 3 does (", std::string(kLlama3PreTokenizer),
               ")");
  }
  if (auto found = FindPreTokenizer(name)) return *std::move(found);
  return KeyError(metadata, gguf_keys::kPre,
                  absl::StrCat("is '", Shown(name), "'; supported are ", PreTokenizerNames()));
}

Status ReadMerges(const GgufMetadata& metadata, TokenizerJson* json) {
  json->merges_name = NameOf(gguf_keys::kMerges);
  STERNA_ASSIGN_OR_RETURN(const auto merges, metadata.Strings(gguf_keys::kMerges));
  json->merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    const size_t space = merges[i].find(' ');
    if (space == std::string_view::npos || space == 0 || space + 1 == merges[i].size() ||
        merges[i].find(' ', space + 1) != std::string_view::npos) {
      return KeyError(metadata, absl::StrCat(gguf_keys::kMerges, "[", i, "]"),
                      absl::StrCat("is '", Shown(merges[i]),
                                   "'; it must be two tokens with one space between them"));
    }
    json->merges.emplace_back(merges[i].substr(0, space), merges[i].substr(space + 1));
  }
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<Tokenizer>> LoadByteLevel(const GgufMetadata& metadata,
                                                   const GgufVocabulary& vocabulary) {
  STERNA_ASSIGN_OR_RETURN(NamedPreTokenizer words, ReadPreTokenizer(metadata, vocabulary));
  TokenizerJson json = Describe(vocabulary, words.adds_bos);
  json.byte_level = true;
  json.pre_tokenizer = std::move(words.steps);
  json.nfc = words.nfc;
  json.ignore_merges = words.ignore_merges;
  STERNA_RETURN_IF_ERROR(ReadMerges(metadata, &json));
  return BpeTokenizer::Create(metadata.file(), json, ConfigOf(vocabulary));
}

Status ReadPieces(const GgufMetadata& metadata, const GgufVocabulary& vocabulary,
                  SentencePieceProto* model) {
  STERNA_ASSIGN_OR_RETURN(const auto scores, metadata.Floats(gguf_keys::kScores));
  if (scores.size() != vocabulary.num_entries) {
    return KeyError(metadata, gguf_keys::kScores,
                    absl::StrCat("has ", scores.size(), " values, but '", gguf_keys::kTokens,
                                 "' has ", vocabulary.num_entries, "; they must agree"));
  }
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (!std::isfinite(scores[i])) {
      return KeyError(metadata, absl::StrCat(gguf_keys::kScores, "[", i, "]"),
                      absl::StrCat("is ", scores[i], "; it must be finite"));
    }
    model->pieces.push_back(
        {vocabulary.tokens[i], static_cast<float>(scores[i]), vocabulary.types[i]});
  }
  const auto unknown =
      std::count(vocabulary.types.begin(), vocabulary.types.end(), PieceType::kUnknown);
  if (unknown != 1) {
    return KeyError(
        metadata, gguf_keys::kTokenTypes,
        absl::StrCat("has type 2 (unknown) ", unknown, " times; SentencePiece needs it once"));
  }
  return absl::OkStatus();
}

StatusOr<std::string> ReadCharsmap(const GgufMetadata& metadata) {
  std::string charsmap;
  if (metadata.Find(gguf_keys::kCharsmap) == nullptr) return charsmap;
  STERNA_ASSIGN_OR_RETURN(const auto bytes, metadata.Integers(gguf_keys::kCharsmap));
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (bytes[i] < -128 || bytes[i] > 255) {
      return KeyError(metadata, absl::StrCat(gguf_keys::kCharsmap, "[", i, "]"),
                      absl::StrCat("is ", bytes[i], ", but must be a byte"));
    }
    charsmap.push_back(static_cast<char>(bytes[i]));
  }
  return charsmap;
}

StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(const GgufMetadata& metadata,
                                                       const GgufVocabulary& vocabulary) {
  SentencePieceProto model;
  model.model_type = SentencePieceProto::kBpe;
  STERNA_RETURN_IF_ERROR(ReadPieces(metadata, vocabulary, &model));
  model.byte_fallback = std::find(vocabulary.types.begin(), vocabulary.types.end(),
                                  PieceType::kByte) != vocabulary.types.end();
  STERNA_ASSIGN_OR_RETURN(model.charsmap, ReadCharsmap(metadata));
  STERNA_ASSIGN_OR_RETURN(const auto prefix,
                          OptionalGgufBool(metadata, gguf_keys::kAddSpacePrefix));
  STERNA_ASSIGN_OR_RETURN(const auto remove,
                          OptionalGgufBool(metadata, gguf_keys::kRemoveExtraWhitespace));
  model.add_dummy_prefix = prefix.value_or(true);
  model.remove_extra_whitespace = remove.value_or(false);

  TokenizerJson json = Describe(vocabulary, /*add_bos=*/true);
  json.dummy_prefix = model.add_dummy_prefix ? DummyPrefix::kEverySegment : DummyPrefix::kNever;
  json.uses_charsmap = !model.charsmap.empty();
  json.removes_extra_whitespace = model.remove_extra_whitespace;
  return CreateSentencePieceTokenizer(
      absl::StrCat(metadata.file(), ": ", NameOf(gguf_keys::kTokens)),
      SerializeSentencePiece(model), &json, ConfigOf(vocabulary));
}

}  // namespace

StatusOr<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const GgufMetadata& metadata) {
  STERNA_ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, ReadGgufVocabulary(metadata));
  return vocabulary.byte_level ? LoadByteLevel(metadata, vocabulary)
                               : LoadSentencePiece(metadata, vocabulary);
}

StatusOr<ChatTemplate> LoadGgufChatTemplate(const GgufMetadata& metadata) {
  STERNA_ASSIGN_OR_RETURN(std::string_view text, metadata.String(gguf_keys::kChatTemplate));
  STERNA_ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, ReadGgufVocabulary(metadata));
  const bool is_bitnet = metadata.Find(kArchitecture) != nullptr &&
                         metadata.String(kArchitecture).value_or("").starts_with("bitnet");
  if (is_bitnet && text.find("BITNETAssistant") != std::string_view::npos) {
    STERNA_LOG(kWarning, metadata.file(), ": metadata '", gguf_keys::kChatTemplate,
               "' names BITNETAssistant, which is not what the model was trained with; used "
               "instead is 'Role: content<|eot_id|>'");
    text = kBitnetTemplate;
  }
  return CompileChatTemplate({absl::StrCat(metadata.file(), ": ", NameOf(gguf_keys::kChatTemplate)),
                              std::string(text), vocabulary.Spelling(vocabulary.bos_id),
                              vocabulary.Spelling(vocabulary.eos_id)});
}

}  // namespace sterna
