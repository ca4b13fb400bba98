// Values as text: Python's str() and repr(), and json.dumps() with the options of Transformers'
// tojson filter.
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_JINJA_PRINT_H_
#define STERNA_ENGINE_TEXT_JINJA_PRINT_H_

#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "engine/text/jinja/value.h"

namespace sterna::jinja {

std::string Str(const Value& value);
std::string Repr(const Value& value);

struct JsonOptions {
  std::optional<std::string> indent;  // per level; absent: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool ensure_ascii = false;
  bool sort_keys = false;
};
// InvalidArgument for what json.dumps refuses (undefined, macros, ...).
StatusOr<std::string> ToJson(const Value& value, const JsonOptions& options);

// Python's repr of a float: the shortest digits that read back, "1.0", "1e+16", "inf".
std::string FloatRepr(double value);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_PRINT_H_
