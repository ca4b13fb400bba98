// Reading typed fields of a JSON object with errors that name the file and the field. For the .cc
// files of this folder that read checkpoint files.
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_JSON_FIELDS_H_
#define STERNA_ENGINE_TEXT_JSON_FIELDS_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "engine/text/added_tokens.h"
#include "nlohmann/json.hpp"

namespace sterna {

using Json = nlohmann::json;

// "<path>: <field> is <value>; <wanted>", the value cut short.
Status FieldError(const std::string& path, const std::string& field, const Json& value,
                  const std::string& wanted);

// Parses a file whose top level must be an object.
StatusOr<Json> ReadJsonObject(const std::string& path);

// A member, or a null value when `object` lacks it (JSON's null and absence mean the same here).
const Json& Member(const Json& object, const char* name);

// A member of that type, `otherwise` when null. `where` comes before `name` in errors ("model.").
StatusOr<bool> BoolOr(const std::string& path, const std::string& where, const Json& object,
                      const char* name, bool otherwise);
StatusOr<std::string> StringOr(const std::string& path, const std::string& where,
                               const Json& object, const char* name, const std::string& otherwise);

StatusOr<int32_t> ReadTokenId(const std::string& path, const std::string& field, const Json& value);

// The object that describes an added token, in either file; its id stands elsewhere.
StatusOr<AddedToken> ReadAddedToken(const std::string& path, const std::string& field,
                                    const Json& entry, int32_t id);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_JSON_FIELDS_H_
