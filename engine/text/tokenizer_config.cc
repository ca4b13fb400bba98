// tokenizer_config.json: what Transformers adds to a tokenizer's own file. And the two files that
// said part of it before.
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/text/json_fields.h"
#include "engine/text/tokenizer_files.h"

namespace sterna {
namespace {

// A token's spelling, `value`: a string, or an object with its content; empty for null.
StatusOr<std::string> Spelling(const std::string& path, const std::string& field,
                               const Json& value) {
  if (value.is_null()) return std::string();
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && Member(value, "content").is_string()) {
    return value["content"].get<std::string>();
  }
  return FieldError(path, field, value, "it must be a string or an object with a string content");
}

StatusOr<std::string> TokenSpelling(const std::string& path, const Json& json, const char* name) {
  return Spelling(path, name, Member(json, name));
}

StatusOr<std::optional<bool>> OptionalBool(const std::string& path, const Json& json,
                                           const char* name) {
  if (Member(json, name).is_null()) return std::optional<bool>();
  STERNA_ASSIGN_OR_RETURN(const bool value, BoolOr(path, "", json, name, false));
  return std::optional<bool>(value);
}

StatusOr<std::vector<AddedToken>> AddedTokensDecoder(const std::string& path, const Json& json) {
  std::vector<AddedToken> tokens;
  const Json& decoder = Member(json, "added_tokens_decoder");
  if (decoder.is_null()) return tokens;
  if (!decoder.is_object()) {
    return FieldError(path, "added_tokens_decoder", decoder, "it must be an object");
  }
  for (const auto& [key, entry] : decoder.items()) {
    const std::string field = absl::StrCat("added_tokens_decoder[\"", key, "\"]");
    int32_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || id < 0) {
      return FieldError(path, field, entry, "its name must be a token id");
    }
    STERNA_ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(path, field, entry, id));
    tokens.push_back(std::move(token));
  }
  return tokens;
}

// All spellings in special_tokens_map.json: each member is one, or a list of them.
StatusOr<std::vector<std::string>> SpecialTokensMap(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(path));
  std::vector<std::string> spellings;
  for (const auto& [name, value] : json.items()) {
    for (size_t i = 0; value.is_array() && i < value.size(); ++i) {
      STERNA_ASSIGN_OR_RETURN(spellings.emplace_back(),
                              Spelling(path, absl::StrCat(name, "[", i, "]"), value[i]));
    }
    if (value.is_array()) continue;
    STERNA_ASSIGN_OR_RETURN(spellings.emplace_back(), Spelling(path, name, value));
  }
  return spellings;
}

// A string, or a list of {"name", "template"} of which "default" is taken.
StatusOr<std::optional<std::string>> ChatTemplateText(const std::string& path, const Json& json) {
  const Json& value = Member(json, "chat_template");
  if (value.is_null()) return std::optional<std::string>();
  if (value.is_string()) return std::optional<std::string>(value.get<std::string>());
  if (value.is_array()) {
    for (const Json& entry : value) {
      if (entry.is_object() && Member(entry, "name") == "default" &&
          Member(entry, "template").is_string()) {
        return std::optional<std::string>(entry["template"].get<std::string>());
      }
    }
  }
  return FieldError(path, "chat_template", value,
                    "it must be a string or a list of {\"name\", \"template\"} with one named "
                    "\"default\"");
}

}  // namespace

StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(path));
  TokenizerConfig config;
  STERNA_ASSIGN_OR_RETURN(config.add_bos_token, OptionalBool(path, json, "add_bos_token"));
  STERNA_ASSIGN_OR_RETURN(config.add_eos_token, OptionalBool(path, json, "add_eos_token"));
  STERNA_ASSIGN_OR_RETURN(config.add_prefix_space, OptionalBool(path, json, "add_prefix_space"));
  STERNA_ASSIGN_OR_RETURN(config.legacy, OptionalBool(path, json, "legacy"));
  STERNA_ASSIGN_OR_RETURN(config.bos_token, TokenSpelling(path, json, "bos_token"));
  STERNA_ASSIGN_OR_RETURN(config.eos_token, TokenSpelling(path, json, "eos_token"));
  STERNA_ASSIGN_OR_RETURN(config.unk_token, TokenSpelling(path, json, "unk_token"));
  STERNA_ASSIGN_OR_RETURN(config.pad_token, TokenSpelling(path, json, "pad_token"));
  STERNA_ASSIGN_OR_RETURN(config.added_tokens, AddedTokensDecoder(path, json));
  STERNA_ASSIGN_OR_RETURN(config.chat_template, ChatTemplateText(path, json));
  return config;
}

Status ReadOlderAddedTokens(const std::string& model_dir, TokenizerConfig* config) {
  const auto exists = [](const std::string& path) {
    std::error_code error;
    return std::filesystem::exists(path, error);
  };
  const std::string map_path = model_dir + "/special_tokens_map.json";
  const std::string added_path = model_dir + "/added_tokens.json";
  if (exists(map_path)) {
    STERNA_ASSIGN_OR_RETURN(config->other_special_tokens, SpecialTokensMap(map_path));
  }
  if (!exists(added_path)) return absl::OkStatus();
  STERNA_ASSIGN_OR_RETURN(const Json json, ReadJsonObject(added_path));
  for (const auto& [content, id] : json.items()) {
    const std::string field = absl::StrCat("[\"", content, "\"]");
    if (content.empty()) return FieldError(added_path, field, id, "its name must not be empty");
    AddedToken token;
    token.content = content;
    STERNA_ASSIGN_OR_RETURN(token.id, ReadTokenId(added_path, field, id));
    config->added_tokens.push_back(std::move(token));
  }
  return absl::OkStatus();
}

}  // namespace sterna
