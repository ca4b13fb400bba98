// Reads the JSON files of a checkpoint with bounds, so that a hostile or broken file costs an error
// message and neither memory nor stack. Parsing itself stays in the .cc files that know the schema.
// Thread contract: free functions without state.
#ifndef STERNA_ENGINE_MODEL_JSON_TEXT_H_
#define STERNA_ENGINE_MODEL_JSON_TEXT_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace sterna {

// The text of `path`. InvalidArgument when it has more than `max_bytes` or nests brackets deeper
// than any checkpoint file does; NotFound and the like as MappedFile::Open.
StatusOr<std::string> ReadJsonText(const std::string& path, int64_t max_bytes);

// `text` fit to be shown in an error message: control bytes escaped, cut after 60 bytes.
std::string Shown(std::string_view text);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_JSON_TEXT_H_
