// JSON text as template values, objects in the order they are written.
#ifndef STERNA_ENGINE_TEXT_JINJA_JSON_VALUE_H_
#define STERNA_ENGINE_TEXT_JINJA_JSON_VALUE_H_

#include <string>

#include "base/status.h"
#include "engine/text/jinja/value.h"

namespace sterna::jinja {

// InvalidArgument, naming `what`, for text that is no JSON or nested deeper than kMaxValueDepth.
StatusOr<Value> ParseJsonValue(const std::string& what, const std::string& text);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_JSON_VALUE_H_
