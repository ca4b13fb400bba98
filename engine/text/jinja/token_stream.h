// The tokens of a template, read one after the other.
// Thread contract: used by one thread.
#ifndef STERNA_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
#define STERNA_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/text/jinja/lexer.h"

namespace sterna::jinja {

class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[pos_]; }
  const Token& next() const { return tokens_[pos_ + 1 < tokens_.size() ? pos_ + 1 : pos_]; }
  void Advance() {
    if (pos_ + 1 < tokens_.size()) ++pos_;
  }
  bool SkipOperator(std::string_view op);
  bool SkipName(std::string_view name);
  Status ExpectOperator(std::string_view op);
  Status ExpectName(std::string_view name);
  StatusOr<std::string> TakeName();
  // "line n: expected <wanted>, found <token>".
  Status Unexpected(const std::string& wanted) const;

 private:
  std::vector<Token> tokens_;  // ends with kEnd
  size_t pos_ = 0;
};

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_TOKEN_STREAM_H_
