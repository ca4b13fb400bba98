#include "engine/text/jinja/token_stream.h"

#include "absl/strings/str_cat.h"

namespace sterna::jinja {

bool TokenStream::SkipOperator(std::string_view op) {
  if (!current().IsOperator(op)) return false;
  Advance();
  return true;
}

bool TokenStream::SkipName(std::string_view name) {
  if (!current().IsName(name)) return false;
  Advance();
  return true;
}

Status TokenStream::ExpectOperator(std::string_view op) {
  return SkipOperator(op) ? absl::OkStatus() : Unexpected(absl::StrCat("'", std::string(op), "'"));
}

Status TokenStream::ExpectName(std::string_view name) {
  return SkipName(name) ? absl::OkStatus() : Unexpected(absl::StrCat("'", std::string(name), "'"));
}

StatusOr<std::string> TokenStream::TakeName() {
  if (current().kind != Token::kName) return Unexpected("a name");
  std::string name = current().text;
  Advance();
  return name;
}

Status TokenStream::Unexpected(const std::string& wanted) const {
  const Token& token = current();
  std::string found = "'" + token.text + "'";
  if (token.kind == Token::kEnd) found = "the end of the template";
  if (token.kind == Token::kText) found = "text";
  if (token.kind == Token::kBlockEnd || token.kind == Token::kVariableEnd) found = "the tag's end";
  return LineError(token.line, absl::StrCat("expected ", wanted, ", found ", found));
}

}  // namespace sterna::jinja
