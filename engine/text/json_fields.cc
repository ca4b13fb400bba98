#include "engine/text/json_fields.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/model/json_text.h"

namespace sterna {
namespace {

constexpr int64_t kMaxFileBytes = 256 << 20;

}  // namespace

Status FieldError(const std::string& path, const std::string& field, const Json& value,
                  const std::string& wanted) {
  constexpr size_t kShown = 77;
  if (value.is_null()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", field, " is missing; ", wanted));
  }
  // Big containers are named, not shown: a vocabulary's dump would be megabytes.
  std::string shown = value.is_structured() && value.size() > kShown
                          ? absl::StrCat("an ", value.type_name(), " of ", value.size())
                          : value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (shown.size() > kShown) shown = shown.substr(0, kShown) + "...";
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", field, " is ", shown, "; ", wanted));
}

StatusOr<Json> ReadJsonObject(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(const std::string text, ReadJsonText(path, kMaxFileBytes));
  try {
    Json json = Json::parse(text);
    if (json.is_object()) return json;
    return FieldError(path, "the top level", json, "it must be a JSON object");
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is not valid JSON: ", error.what()));
  }
}

const Json& Member(const Json& object, const char* name) {
  static const Json* const kNull = new Json();
  const auto it = object.find(name);
  return it == object.end() ? *kNull : *it;
}

StatusOr<bool> BoolOr(const std::string& path, const std::string& where, const Json& object,
                      const char* name, bool otherwise) {
  const Json& value = Member(object, name);
  if (value.is_null()) return otherwise;
  if (value.is_boolean()) return value.get<bool>();
  return FieldError(path, absl::StrCat(where, name), value, "it must be true or false");
}

StatusOr<std::string> StringOr(const std::string& path, const std::string& where,
                               const Json& object, const char* name, const std::string& otherwise) {
  const Json& value = Member(object, name);
  if (value.is_null()) return otherwise;
  if (value.is_string()) return value.get<std::string>();
  return FieldError(path, absl::StrCat(where, name), value, "it must be a string");
}

StatusOr<int32_t> ReadTokenId(const std::string& path, const std::string& field,
                              const Json& value) {
  constexpr int32_t kMax = std::numeric_limits<int32_t>::max();
  if (value.is_number_integer() && value >= 0 && value < kMax) return value.get<int32_t>();
  return FieldError(path, field, value, absl::StrCat("it must be a token id, 0 to ", kMax - 1));
}

StatusOr<AddedToken> ReadAddedToken(const std::string& path, const std::string& field,
                                    const Json& entry, int32_t id) {
  if (!entry.is_object()) return FieldError(path, field, entry, "it must be an object");
  const std::string where = field + ".";
  AddedToken token;
  token.id = id;
  STERNA_ASSIGN_OR_RETURN(token.content, StringOr(path, where, entry, "content", ""));
  if (token.content.empty()) {
    return FieldError(path, where + "content", Member(entry, "content"),
                      "it must be a non-empty string");
  }
  STERNA_ASSIGN_OR_RETURN(token.special, BoolOr(path, where, entry, "special", false));
  STERNA_ASSIGN_OR_RETURN(token.single_word, BoolOr(path, where, entry, "single_word", false));
  STERNA_ASSIGN_OR_RETURN(token.lstrip, BoolOr(path, where, entry, "lstrip", false));
  STERNA_ASSIGN_OR_RETURN(token.rstrip, BoolOr(path, where, entry, "rstrip", false));
  STERNA_ASSIGN_OR_RETURN(token.normalized,
                          BoolOr(path, where, entry, "normalized", !token.special));
  return token;
}

}  // namespace sterna
