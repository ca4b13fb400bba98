// Parses a template. Grammar and precedence are Jinja's; what the subset lacks is refused by name.
// Thread contract: pure function.
#ifndef STERNA_ENGINE_TEXT_JINJA_PARSER_H_
#define STERNA_ENGINE_TEXT_JINJA_PARSER_H_

#include <string_view>

#include "base/status.h"
#include "engine/text/jinja/ast.h"

namespace sterna::jinja {

// InvalidArgument with the line and the construct for what is no Jinja or is not supported.
StatusOr<Body> Parse(std::string_view source);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_PARSER_H_
