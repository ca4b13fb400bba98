// Cuts a template into text and the tokens of its tags, with trim_blocks and lstrip_blocks on.
// Thread contract: pure function.
#ifndef STERNA_ENGINE_TEXT_JINJA_LEXER_H_
#define STERNA_ENGINE_TEXT_JINJA_LEXER_H_

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sterna::jinja {

struct Token {
  enum Kind {
    kText,
    kBlockBegin,
    kBlockEnd,
    kVariableBegin,
    kVariableEnd,
    kName,
    kString,  // `text` is the value, escapes resolved
    kInteger,
    kFloat,
    kOperator,
    kEnd,
  };
  Kind kind;
  std::string text;
  int line;

  bool Is(Kind wanted, std::string_view wanted_text) const {
    return kind == wanted && text == wanted_text;
  }
  bool IsName(std::string_view name) const { return Is(kName, name); }
  bool IsOperator(std::string_view op) const { return Is(kOperator, op); }
};

// The last token is kEnd. InvalidArgument with the line for what is no Jinja.
StatusOr<std::vector<Token>> Tokenize(std::string_view source);

// "line <n>: <what>", the form of every error about a template.
Status LineError(int line, const std::string& what);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_LEXER_H_
