// The expression part of the parser.
// Thread contract: used by one thread.
#ifndef STERNA_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
#define STERNA_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_

#include <initializer_list>
#include <string>
#include <string_view>

#include "base/status.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/token_stream.h"

namespace sterna::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream* stream) : stream_(*stream) {}

  StatusOr<ExpressionPtr> ParseExpression(bool with_conditional = true);
  // One expression, or several with commas between them as a tuple.
  StatusOr<ExpressionPtr> ParseTuple(bool with_conditional = true);
  // What may stand left of `=` or before `in`: a name, names with commas between them (possibly in
  // parentheses), and, where allowed, an attribute of a namespace.
  StatusOr<ExpressionPtr> ParseTarget(bool with_namespace);
  // Filters, each after a `|`, on `value`; null when there are none and `value` is null.
  StatusOr<ExpressionPtr> ParseFilters(ExpressionPtr value);
  // A first filter without its `|`, then more: what a filter block opens with.
  StatusOr<ExpressionPtr> ParseFilterChain();

 private:
  using Rule = StatusOr<ExpressionPtr> (ExpressionParser::*)();

  StatusOr<ExpressionPtr> ParseConditional();
  StatusOr<ExpressionPtr> ParseOr();
  StatusOr<ExpressionPtr> ParseAnd();
  StatusOr<ExpressionPtr> ParseNot();
  StatusOr<ExpressionPtr> ParseCompare();
  StatusOr<ExpressionPtr> ParseSum();
  StatusOr<ExpressionPtr> ParseConcat();
  StatusOr<ExpressionPtr> ParseProduct();
  StatusOr<ExpressionPtr> ParsePower();
  StatusOr<ExpressionPtr> ParseUnary();
  StatusOr<ExpressionPtr> ParseUnaryOperand(bool with_filters);
  StatusOr<ExpressionPtr> ParsePrimary();
  StatusOr<ExpressionPtr> ParsePostfix(ExpressionPtr value);
  StatusOr<ExpressionPtr> ParseFiltersAndTests(ExpressionPtr value);
  StatusOr<ExpressionPtr> ParseFilter(ExpressionPtr value);
  StatusOr<ExpressionPtr> ParseTest(ExpressionPtr value);
  StatusOr<ExpressionPtr> ParseSubscript(ExpressionPtr value);
  StatusOr<ExpressionPtr> ParseList();
  StatusOr<ExpressionPtr> ParseDict();
  StatusOr<ExpressionPtr> ParseTargetItem(bool with_namespace);
  Status ParseArguments(Expression* call);
  // `operators` between operands of `rule`, from the left.
  StatusOr<ExpressionPtr> ParseBinary(std::initializer_list<std::string_view> operators, Rule rule);
  bool AtTupleEnd() const;

  TokenStream& stream_;
  int nesting_ = 0;
};

// A node whose depth is set from its children's; an error when the tree gets too deep.
StatusOr<ExpressionPtr> FinishExpression(ExpressionPtr expression);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_EXPRESSION_PARSER_H_
