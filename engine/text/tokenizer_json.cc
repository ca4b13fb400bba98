// tokenizer.json: the file Hugging Face's tokenizers library writes.
#include <algorithm>
#include <cctype>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/json_fields.h"
#include "engine/text/tokenizer_files.h"

namespace sterna {
namespace {

constexpr int kMaxSequenceDepth = 8;

constexpr char kMetaspace[] = "\xE2\x96\x81";  // U+2581, SentencePiece's space

// One reading of one file. Each Read... takes its part of the document and fills `out_`.
class Reader {
 public:
  Reader(std::string path, TokenizerJson* out) : path_(std::move(path)), out_(out) {}

  Status Read(Json json) {
    STERNA_RETURN_IF_ERROR(ReadPreTokenizer(Member(json, "pre_tokenizer"), "pre_tokenizer", 0));
    const auto is_byte_map = [](const PreTokenizerStep& step) {
      return step.kind == PreTokenizerStep::kByteMap;
    };
    const auto byte_maps =
        std::count_if(out_->pre_tokenizer.begin(), out_->pre_tokenizer.end(), is_byte_map);
    if (byte_maps > 1) {
      return FieldError(path_, "pre_tokenizer", json["pre_tokenizer"],
                        "ByteLevel must be there once");
    }
    out_->byte_level = byte_maps == 1;
    if (!out_->byte_level && !out_->pre_tokenizer.empty()) {
      return FieldError(path_, "pre_tokenizer", json["pre_tokenizer"],
                        "words are cut only with ByteLevel among the steps");
    }
    STERNA_RETURN_IF_ERROR(ReadNormalizer(Member(json, "normalizer"), "normalizer", 0));
    STERNA_RETURN_IF_ERROR(ReadAddedTokens(Member(json, "added_tokens")));
    STERNA_RETURN_IF_ERROR(ReadPostProcessor(Member(json, "post_processor"), "post_processor", 0));
    const auto model = json.find("model");
    if (model == json.end() || !model->is_object()) {
      return FieldError(path_, "model", Member(json, "model"),
                        "it must be an object with type, vocab and merges");
    }
    return ReadModel(*model);
  }

 private:
  Status Unsupported(const std::string& field, const Json& value,
                     const std::string& choices) const {
    return FieldError(path_, field, value, absl::StrCat("supported are ", choices));
  }

  // Calls read(element, its field name) for the parts of a Sequence.
  template <typename Fn>
  Status ForEachPart(const Json& sequence, const char* list, const std::string& field, int depth,
                     Fn read) const {
    const Json& parts = Member(sequence, list);
    const std::string name = absl::StrCat(field, ".", list);
    if (!parts.is_array()) return FieldError(path_, name, parts, "it must be an array");
    if (depth >= kMaxSequenceDepth) {
      return absl::InvalidArgumentError(absl::StrCat(path_, ": ", field, " is nested deeper than ",
                                                     kMaxSequenceDepth, " sequences"));
    }
    for (size_t i = 0; i < parts.size(); ++i) {
      STERNA_RETURN_IF_ERROR(read(parts[i], absl::StrCat(name, "[", i, "]")));
    }
    return absl::OkStatus();
  }

  StatusOr<std::string> TypeOf(const Json& part, const std::string& field) const {
    if (!part.is_object()) return FieldError(path_, field, part, "it must be an object or null");
    return StringOr(path_, field + ".", part, "type", "");
  }

  Status ReadPreTokenizer(const Json& part, const std::string& field, int depth) {
    if (part.is_null()) return absl::OkStatus();
    STERNA_ASSIGN_OR_RETURN(const std::string type, TypeOf(part, field));
    if (type == "Sequence") {
      return ForEachPart(part, "pretokenizers", field, depth,
                         [&](const Json& element, const std::string& name) {
                           return ReadPreTokenizer(element, name, depth + 1);
                         });
    }
    if (type == "ByteLevel") return ReadByteLevel(part, field);
    if (type == "Split") return ReadSplit(part, field);
    if (type == "Digits") {
      STERNA_ASSIGN_OR_RETURN(const bool individual,
                              BoolOr(path_, field + ".", part, "individual_digits", false));
      AddSplit(individual ? kNumberRegex : absl::StrCat(kNumberRegex, "+"), true, true);
      return absl::OkStatus();
    }
    if (type == "Punctuation") {
      STERNA_ASSIGN_OR_RETURN(const std::string behavior,
                              StringOr(path_, field + ".", part, "behavior", "Isolated"));
      if (behavior != "Isolated" && behavior != "Contiguous") {
        return Unsupported(field + ".behavior", part["behavior"], "Isolated and Contiguous");
      }
      AddSplit(behavior == "Isolated" ? kPunctuationRegex : absl::StrCat(kPunctuationRegex, "+"),
               true, true);
      return absl::OkStatus();
    }
    if (type == "Metaspace") return ReadMetaspace(part, field);
    return Unsupported(field + ".type", Member(part, "type"),
                       "Sequence, ByteLevel, Split, Digits, Punctuation and Metaspace");
  }

  void AddSplit(std::string regex, bool keep_matches, bool keep_gaps) {
    out_->pre_tokenizer.push_back(
        {PreTokenizerStep::kSplit, std::move(regex), keep_matches, keep_gaps});
  }

  Status ReadByteLevel(const Json& part, const std::string& field) {
    STERNA_ASSIGN_OR_RETURN(const bool prefix,
                            BoolOr(path_, field + ".", part, "add_prefix_space", true));
    STERNA_ASSIGN_OR_RETURN(const bool use_regex,
                            BoolOr(path_, field + ".", part, "use_regex", true));
    if (prefix) out_->pre_tokenizer.push_back({PreTokenizerStep::kPrefixSpace, ""});
    if (use_regex) AddSplit(kGpt2WordsRegex, true, true);
    out_->pre_tokenizer.push_back({PreTokenizerStep::kByteMap, ""});
    return absl::OkStatus();
  }

  Status ReadSplit(const Json& part, const std::string& field) {
    const Json& pattern = Member(part, "pattern");
    std::string regex;
    if (pattern.is_object() && Member(pattern, "Regex").is_string()) {
      regex = pattern["Regex"].get<std::string>();
    } else if (pattern.is_object() && Member(pattern, "String").is_string()) {
      for (const char c : pattern["String"].get_ref<const std::string&>()) {
        const bool plain = static_cast<unsigned char>(c) >= 0x80 || std::isalnum(c) != 0;
        regex += plain ? std::string(1, c) : std::string("\\") + c;
      }
    } else {
      return FieldError(path_, field + ".pattern", pattern,
                        "it must be {\"Regex\": ...} or {\"String\": ...}");
    }
    if (const StatusOr<SplitRegex> compiled = SplitRegex::Compile(regex); !compiled.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path_, ": ", field, ".pattern: ", compiled.status().message()));
    }
    STERNA_ASSIGN_OR_RETURN(const std::string behavior,
                            StringOr(path_, field + ".", part, "behavior", ""));
    STERNA_ASSIGN_OR_RETURN(const bool invert, BoolOr(path_, field + ".", part, "invert", false));
    if (behavior != "Isolated" && behavior != "Removed") {
      return Unsupported(field + ".behavior", Member(part, "behavior"), "Isolated and Removed");
    }
    // What Removed drops is the delimiters: the matches, or with `invert` what lies between them.
    const bool removed = behavior == "Removed";
    AddSplit(std::move(regex), !removed || invert, !removed || !invert);
    return absl::OkStatus();
  }

  Status ReadMetaspace(const Json& part, const std::string& field) {
    STERNA_ASSIGN_OR_RETURN(const std::string replacement,
                            StringOr(path_, field + ".", part, "replacement", kMetaspace));
    if (replacement != kMetaspace) {
      return FieldError(path_, field + ".replacement", part["replacement"], "it must be U+2581");
    }
    STERNA_ASSIGN_OR_RETURN(const bool add_prefix,
                            BoolOr(path_, field + ".", part, "add_prefix_space", true));
    STERNA_ASSIGN_OR_RETURN(
        const std::string scheme,
        StringOr(path_, field + ".", part, "prepend_scheme", add_prefix ? "always" : "never"));
    if (scheme == "always") {
      out_->dummy_prefix = DummyPrefix::kEverySegment;
    } else if (scheme == "first") {
      out_->dummy_prefix = DummyPrefix::kFirst;
    } else if (scheme == "never") {
      out_->dummy_prefix = DummyPrefix::kNever;
    } else {
      return Unsupported(field + ".prepend_scheme", part["prepend_scheme"],
                         "always, first and never");
    }
    STERNA_ASSIGN_OR_RETURN(const bool split, BoolOr(path_, field + ".", part, "split", true));
    if (split) return Unsupported(field + ".split", Member(part, "split"), "false");
    out_->prefix_unless_space = true;
    return absl::OkStatus();
  }

  Status ReadNormalizer(const Json& part, const std::string& field, int depth) {
    if (part.is_null()) return absl::OkStatus();
    STERNA_ASSIGN_OR_RETURN(const std::string type, TypeOf(part, field));
    if (type == "Sequence") {
      return ForEachPart(part, "normalizers", field, depth,
                         [&](const Json& element, const std::string& name) {
                           return ReadNormalizer(element, name, depth + 1);
                         });
    }
    if (out_->byte_level) {
      if (type == "NFC") {
        out_->nfc = true;
        return absl::OkStatus();
      }
      return Unsupported(field + ".type", Member(part, "type"),
                         "Sequence and NFC for byte-level BPE");
    }
    if (type == "Precompiled") {
      out_->uses_charsmap = true;
      return absl::OkStatus();
    }
    if (type == "Prepend" && Member(part, "prepend") == kMetaspace) {
      out_->dummy_prefix = DummyPrefix::kEverySegment;
      return absl::OkStatus();
    }
    if (type == "Replace") {
      const Json& pattern = Member(part, "pattern");
      const bool is_object = pattern.is_object();
      if (is_object && Member(pattern, "String") == " " && Member(part, "content") == kMetaspace) {
        return absl::OkStatus();
      }
      if (is_object && Member(pattern, "Regex") == " {2,}") {
        out_->removes_extra_whitespace = true;
        return absl::OkStatus();
      }
    }
    if (type == "Strip") {
      out_->removes_extra_whitespace = true;
      return absl::OkStatus();
    }
    return Unsupported(field, part,
                       "Sequence, Precompiled, Strip, Prepend of U+2581 and Replace of \" \" by "
                       "U+2581 or of \" {2,}\" for SentencePiece");
  }

  Status ReadAddedTokens(const Json& list) {
    if (list.is_null()) return absl::OkStatus();
    if (!list.is_array()) return FieldError(path_, "added_tokens", list, "it must be an array");
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string field = absl::StrCat("added_tokens[", i, "]");
      const Json id_json = list[i].is_object() ? Member(list[i], "id") : Json();
      STERNA_ASSIGN_OR_RETURN(const int32_t id, ReadTokenId(path_, field + ".id", id_json));
      STERNA_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(path_, field, list[i], id));
      out_->added_tokens.push_back(std::move(token));
    }
    return absl::OkStatus();
  }

  Status ReadPostProcessor(const Json& part, const std::string& field, int depth) {
    if (part.is_null()) return absl::OkStatus();
    STERNA_ASSIGN_OR_RETURN(const std::string type, TypeOf(part, field));
    if (type == "Sequence") {
      return ForEachPart(part, "processors", field, depth,
                         [&](const Json& element, const std::string& name) {
                           return ReadPostProcessor(element, name, depth + 1);
                         });
    }
    if (type == "ByteLevel") return absl::OkStatus();  // adjusts offsets, which nobody here reads
    if (type == "TemplateProcessing") return ReadTemplate(part, field);
    return Unsupported(field + ".type", Member(part, "type"),
                       "Sequence, ByteLevel and TemplateProcessing");
  }

  Status ReadTemplate(const Json& part, const std::string& field) {
    const Json& single = Member(part, "single");
    if (!single.is_array()) {
      return FieldError(path_, field + ".single", single, "it must be an array");
    }
    bool after_text = false;
    for (size_t i = 0; i < single.size(); ++i) {
      const std::string name = absl::StrCat(field, ".single[", i, "]");
      const Json& item = single[i];
      if (item.is_object() && item.contains("Sequence")) {
        after_text = true;
        continue;
      }
      if (!item.is_object() || !Member(item, "SpecialToken").is_object() ||
          !Member(item["SpecialToken"], "id").is_string()) {
        return FieldError(path_, name, item,
                          "it must be {\"Sequence\": ...} or {\"SpecialToken\": {\"id\": ...}}");
      }
      const std::string token = item["SpecialToken"]["id"];
      const Json& known = Member(part, "special_tokens");
      const Json& entry = known.is_object() ? Member(known, token.c_str()) : known;
      const Json& ids = entry.is_object() ? Member(entry, "ids") : entry;
      const std::string ids_field = absl::StrCat(field, ".special_tokens[\"", token, "\"].ids");
      if (!ids.is_array()) return FieldError(path_, ids_field, ids, "it must be an array of ids");
      for (const Json& id_json : ids) {
        STERNA_ASSIGN_OR_RETURN(const int32_t id, ReadTokenId(path_, ids_field, id_json));
        (after_text ? out_->suffix_ids : out_->prefix_ids).push_back(id);
      }
    }
    return absl::OkStatus();
  }

  Status ReadModel(Json& model) {
    STERNA_ASSIGN_OR_RETURN(const std::string type,
                            StringOr(path_, "model.", model, "type", "BPE"));
    const bool unigram = type == "Unigram" && !out_->byte_level;
    if (type != "BPE" && !unigram) {
      return Unsupported("model.type", model["type"],
                         out_->byte_level ? "BPE" : "BPE and Unigram (with tokenizer.model)");
    }
    if (unigram) return ReadUnigramVocab(Member(model, "vocab"));
    STERNA_RETURN_IF_ERROR(ReadVocab(Member(model, "vocab")));
    if (!out_->byte_level) return absl::OkStatus();  // its merges are tokenizer.model's business
    for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      STERNA_ASSIGN_OR_RETURN(const std::string text, StringOr(path_, "model.", model, affix, ""));
      if (!text.empty()) {
        return Unsupported(absl::StrCat("model.", affix), model[affix], "null and \"\"");
      }
    }
    if (const Json& dropout = Member(model, "dropout"); !dropout.is_null() && dropout != 0) {
      return Unsupported("model.dropout", dropout, "null and 0");
    }
    STERNA_ASSIGN_OR_RETURN(out_->ignore_merges,
                            BoolOr(path_, "model.", model, "ignore_merges", false));
    const auto merges = model.find("merges");
    if (merges == model.end() || !merges->is_array()) {
      return FieldError(path_, "model.merges", Member(model, "merges"),
                        "it must be an array of pairs");
    }
    return ReadMerges(*merges);
  }

  Status ReadVocab(const Json& vocab) {
    if (!vocab.is_object() || vocab.empty()) {
      return FieldError(path_, "model.vocab", vocab,
                        "it must be an object with an id for each token");
    }
    out_->vocab.reserve(vocab.size());
    for (const auto& [token, id_json] : vocab.items()) {
      STERNA_ASSIGN_OR_RETURN(
          const int32_t id,
          ReadTokenId(path_, absl::StrCat("model.vocab[\"", token, "\"]"), id_json));
      out_->vocab.emplace_back(token, id);
    }
    return absl::OkStatus();
  }

  Status ReadUnigramVocab(const Json& vocab) {
    if (!vocab.is_array() || vocab.empty()) {
      return FieldError(path_, "model.vocab", vocab, "it must be an array of [token, score]");
    }
    for (size_t i = 0; i < vocab.size(); ++i) {
      if (!vocab[i].is_array() || vocab[i].size() != 2 || !vocab[i][0].is_string()) {
        return FieldError(path_, absl::StrCat("model.vocab[", i, "]"), vocab[i],
                          "it must be [token, score]");
      }
      out_->vocab.emplace_back(vocab[i][0].get<std::string>(), static_cast<int32_t>(i));
    }
    return absl::OkStatus();
  }

  // Either "left right" or ["left", "right"].
  Status ReadMerges(Json& merges) {
    out_->merges.reserve(merges.size());
    for (size_t i = 0; i < merges.size(); ++i) {
      Json& merge = merges[i];
      if (merge.is_string()) {
        const std::string& both = merge.get_ref<const std::string&>();
        const size_t space = both.find(' ');
        if (space != std::string::npos && both.find(' ', space + 1) == std::string::npos) {
          out_->merges.emplace_back(both.substr(0, space), both.substr(space + 1));
          continue;
        }
      } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
                 merge[1].is_string()) {
        out_->merges.emplace_back(std::move(merge[0].get_ref<std::string&>()),
                                  std::move(merge[1].get_ref<std::string&>()));
        continue;
      }
      return FieldError(path_, absl::StrCat("model.merges[", i, "]"), merge,
                        "it must be \"left right\" or [\"left\", \"right\"]");
    }
    return absl::OkStatus();
  }

  std::string path_;
  TokenizerJson* out_;
};

}  // namespace

StatusOr<TokenizerJson> ReadTokenizerJson(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(Json json, ReadJsonObject(path));
  TokenizerJson result;
  STERNA_RETURN_IF_ERROR(Reader(path, &result).Read(std::move(json)));
  return result;
}

}  // namespace sterna
