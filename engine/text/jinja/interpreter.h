// Runs a parsed template over variables.
// Thread contract: pure function; the template may be run by many threads at once.
#ifndef STERNA_ENGINE_TEXT_JINJA_INTERPRETER_H_
#define STERNA_ENGINE_TEXT_JINJA_INTERPRETER_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/value.h"

namespace sterna::jinja {

// The text `body` makes of `variables`. Errors: the template's own message when it raised one, else
// the line and what went wrong; ResourceExhausted beyond the bounds in environment.h.
StatusOr<std::string> Run(const Body& body, std::vector<std::pair<std::string, Value>> variables,
                          int64_t now_unix_seconds);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_INTERPRETER_H_
