#include "engine/text/jinja/expression_parser.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/numbers.h"
#include "engine/text/jinja/environment.h"

namespace sterna::jinja {
namespace {

// Brackets, conditionals and signs within each other: each costs a dozen C++ frames.
constexpr int kMaxNesting = 100;

ExpressionPtr New(Expression::Kind kind, int line) {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = line;
  return expression;
}

StatusOr<ExpressionPtr> Join(Expression::Kind kind, int line, ExpressionPtr left,
                             ExpressionPtr right, std::string name = "") {
  ExpressionPtr result = New(kind, line);
  result->name = std::move(name);
  result->children.push_back(std::move(left));
  if (right != nullptr) result->children.push_back(std::move(right));
  return FinishExpression(std::move(result));
}

}  // namespace

StatusOr<ExpressionPtr> FinishExpression(ExpressionPtr expression) {
  int depth = 0;
  for (const ExpressionPtr& child : expression->children) {
    if (child != nullptr) depth = std::max(depth, child->depth);
  }
  for (const auto& [name, child] : expression->named) depth = std::max(depth, child->depth);
  expression->depth = depth + 1;
  if (expression->depth > kMaxTreeDepth) {
    return LineError(expression->line, "an expression has too many operators within each other");
  }
  return expression;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseExpression(bool with_conditional) {
  if (++nesting_ > kMaxNesting) {
    return LineError(stream_.current().line, "an expression is nested too deeply");
  }
  auto result = with_conditional ? ParseConditional() : ParseOr();
  --nesting_;
  return result;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseConditional() {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
  while (stream_.current().IsName("if")) {
    ExpressionPtr result = New(Expression::kConditional, stream_.current().line);
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr condition, ParseOr());
    ExpressionPtr otherwise;
    if (stream_.SkipName("else")) {
      STERNA_ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    result->children.push_back(std::move(condition));
    result->children.push_back(std::move(value));
    result->children.push_back(std::move(otherwise));
    STERNA_ASSIGN_OR_RETURN(value, FinishExpression(std::move(result)));
  }
  return value;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseOr() {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
  while (stream_.current().IsName("or")) {
    const int line = stream_.current().line;
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
    STERNA_ASSIGN_OR_RETURN(left, Join(Expression::kOr, line, std::move(left), std::move(right)));
  }
  return left;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseAnd() {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
  while (stream_.current().IsName("and")) {
    const int line = stream_.current().line;
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
    STERNA_ASSIGN_OR_RETURN(left, Join(Expression::kAnd, line, std::move(left), std::move(right)));
  }
  return left;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseNot() {
  if (!stream_.current().IsName("not")) return ParseCompare();
  const int line = stream_.current().line;
  if (++nesting_ > kMaxNesting) return LineError(line, "an expression is nested too deeply");
  stream_.Advance();
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseNot());
  --nesting_;
  return Join(Expression::kNot, line, std::move(value), nullptr);
}

StatusOr<ExpressionPtr> ExpressionParser::ParseCompare() {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr first, ParseSum());
  ExpressionPtr result;
  while (true) {
    const Token& token = stream_.current();
    std::string op;
    for (const char* candidate : {"==", "!=", "<", "<=", ">", ">="}) {
      if (token.IsOperator(candidate)) op = candidate;
    }
    if (token.IsName("in")) op = "in";
    if (token.IsName("not") && stream_.next().IsName("in")) op = "notin";
    if (op.empty()) break;
    if (result == nullptr) {
      result = New(Expression::kCompare, token.line);
      result->children.push_back(std::move(first));
    }
    if (op == "notin") stream_.Advance();
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseSum());
    result->operators.push_back(op);
    result->children.push_back(std::move(operand));
  }
  if (result == nullptr) return first;
  return FinishExpression(std::move(result));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseBinary(
    std::initializer_list<std::string_view> operators, Rule rule) {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr left, (this->*rule)());
  while (true) {
    const Token token = stream_.current();
    if (token.kind != Token::kOperator ||
        std::find(operators.begin(), operators.end(), token.text) == operators.end()) {
      return left;
    }
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr right, (this->*rule)());
    STERNA_ASSIGN_OR_RETURN(
        left, Join(Expression::kBinary, token.line, std::move(left), std::move(right), token.text));
  }
}

StatusOr<ExpressionPtr> ExpressionParser::ParseSum() {
  return ParseBinary({"+", "-"}, &ExpressionParser::ParseConcat);
}

StatusOr<ExpressionPtr> ExpressionParser::ParseConcat() {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr first, ParseProduct());
  if (!stream_.current().IsOperator("~")) return first;
  ExpressionPtr result = New(Expression::kConcat, stream_.current().line);
  result->children.push_back(std::move(first));
  while (stream_.SkipOperator("~")) {
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr operand, ParseProduct());
    result->children.push_back(std::move(operand));
  }
  return FinishExpression(std::move(result));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseProduct() {
  return ParseBinary({"*", "/", "//", "%"}, &ExpressionParser::ParsePower);
}

StatusOr<ExpressionPtr> ExpressionParser::ParsePower() {
  return ParseBinary({"**"}, &ExpressionParser::ParseUnary);
}

StatusOr<ExpressionPtr> ExpressionParser::ParseUnary() { return ParseUnaryOperand(true); }

StatusOr<ExpressionPtr> ExpressionParser::ParseUnaryOperand(bool with_filters) {
  const int line = stream_.current().line;
  const bool minus = stream_.current().IsOperator("-");
  ExpressionPtr value;
  if (minus || stream_.current().IsOperator("+")) {
    if (++nesting_ > kMaxNesting) return LineError(line, "an expression is nested too deeply");
    stream_.Advance();
    STERNA_ASSIGN_OR_RETURN(value, ParseUnaryOperand(false));
    --nesting_;
    STERNA_ASSIGN_OR_RETURN(value, Join(minus ? Expression::kNegate : Expression::kPlus, line,
                                        std::move(value), nullptr));
  } else {
    STERNA_ASSIGN_OR_RETURN(value, ParsePrimary());
  }
  STERNA_ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
  if (with_filters) return ParseFiltersAndTests(std::move(value));
  return value;
}

StatusOr<ExpressionPtr> ExpressionParser::ParsePrimary() {
  const Token token = stream_.current();
  ExpressionPtr result = New(Expression::kConstant, token.line);
  switch (token.kind) {
    case Token::kName:
      stream_.Advance();
      if (token.text == "true" || token.text == "True") {
        result->value = Value::Bool(true);
      } else if (token.text == "false" || token.text == "False") {
        result->value = Value::Bool(false);
      } else if (token.text != "none" && token.text != "None") {
        result->kind = Expression::kName;
        result->name = token.text;
      }
      return result;
    case Token::kString: {
      std::string text;
      while (stream_.current().kind == Token::kString) {
        text += stream_.current().text;
        stream_.Advance();
      }
      result->value = Value::String(std::move(text));
      return result;
    }
    case Token::kInteger: {
      int64_t number = 0;
      if (!absl::SimpleAtoi(token.text, &number)) {
        return LineError(token.line,
                         "the integer " + token.text + " is not supported: beyond 64 bits");
      }
      stream_.Advance();
      result->value = Value::Int(number);
      return result;
    }
    case Token::kFloat: {
      double number = 0;
      if (!absl::SimpleAtod(token.text, &number)) {
        return LineError(token.line, token.text + " is no number");
      }
      stream_.Advance();
      result->value = Value::Float(number);
      return result;
    }
    default:
      break;
  }
  if (token.IsOperator("[")) return ParseList();
  if (token.IsOperator("{")) return ParseDict();
  if (!stream_.SkipOperator("(")) return stream_.Unexpected("an expression");
  if (stream_.SkipOperator(")")) {
    result->kind = Expression::kTuple;
    return result;
  }
  STERNA_ASSIGN_OR_RETURN(result, ParseTuple());
  STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
  return result;
}

bool ExpressionParser::AtTupleEnd() const {
  const Token& token = stream_.current();
  return token.kind == Token::kBlockEnd || token.kind == Token::kVariableEnd ||
         token.IsOperator(")") || token.IsName("recursive");
}

StatusOr<ExpressionPtr> ExpressionParser::ParseTuple(bool with_conditional) {
  ExpressionPtr tuple = New(Expression::kTuple, stream_.current().line);
  bool has_comma = false;
  while (!has_comma || !AtTupleEnd()) {
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression(with_conditional));
    tuple->children.push_back(std::move(item));
    if (!stream_.SkipOperator(",")) break;
    has_comma = true;
  }
  if (!has_comma) return std::move(tuple->children.front());
  return FinishExpression(std::move(tuple));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseList() {
  ExpressionPtr list = New(Expression::kList, stream_.current().line);
  stream_.Advance();
  while (!stream_.current().IsOperator("]")) {
    if (!list->children.empty()) {
      STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.current().IsOperator("]")) break;
    }
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
    list->children.push_back(std::move(item));
  }
  STERNA_RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  return FinishExpression(std::move(list));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseDict() {
  ExpressionPtr dict = New(Expression::kDict, stream_.current().line);
  stream_.Advance();
  while (!stream_.current().IsOperator("}")) {
    if (!dict->children.empty()) {
      STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.current().IsOperator("}")) break;
    }
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
    STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(":"));
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
    dict->children.push_back(std::move(key));
    dict->children.push_back(std::move(value));
  }
  STERNA_RETURN_IF_ERROR(stream_.ExpectOperator("}"));
  return FinishExpression(std::move(dict));
}

StatusOr<ExpressionPtr> ExpressionParser::ParsePostfix(ExpressionPtr value) {
  while (true) {
    const int line = stream_.current().line;
    if (stream_.SkipOperator(".")) {
      const Token token = stream_.current();
      if (token.kind == Token::kInteger) {  // x.0 is x[0]
        STERNA_ASSIGN_OR_RETURN(ExpressionPtr index, ParsePrimary());
        STERNA_ASSIGN_OR_RETURN(value,
                                Join(Expression::kItem, line, std::move(value), std::move(index)));
        continue;
      }
      STERNA_ASSIGN_OR_RETURN(std::string name, stream_.TakeName());
      STERNA_ASSIGN_OR_RETURN(
          value, Join(Expression::kAttribute, line, std::move(value), nullptr, std::move(name)));
    } else if (stream_.current().IsOperator("[")) {
      STERNA_ASSIGN_OR_RETURN(value, ParseSubscript(std::move(value)));
    } else if (stream_.current().IsOperator("(")) {
      ExpressionPtr call = New(Expression::kCall, line);
      call->children.push_back(std::move(value));
      STERNA_RETURN_IF_ERROR(ParseArguments(call.get()));
      STERNA_ASSIGN_OR_RETURN(value, FinishExpression(std::move(call)));
    } else {
      return value;
    }
  }
}

StatusOr<ExpressionPtr> ExpressionParser::ParseSubscript(ExpressionPtr value) {
  const int line = stream_.current().line;
  STERNA_RETURN_IF_ERROR(stream_.ExpectOperator("["));
  ExpressionPtr begin, end, step;
  if (!stream_.current().IsOperator(":")) {
    STERNA_ASSIGN_OR_RETURN(begin, ParseExpression());
    if (stream_.current().IsOperator(",")) {
      return LineError(line, "a subscript with commas is not supported");
    }
    if (stream_.SkipOperator("]")) {
      return Join(Expression::kItem, line, std::move(value), std::move(begin));
    }
  }
  STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(":"));
  if (!stream_.current().IsOperator(":") && !stream_.current().IsOperator("]")) {
    STERNA_ASSIGN_OR_RETURN(end, ParseExpression());
  }
  if (stream_.SkipOperator(":") && !stream_.current().IsOperator("]")) {
    STERNA_ASSIGN_OR_RETURN(step, ParseExpression());
  }
  STERNA_RETURN_IF_ERROR(stream_.ExpectOperator("]"));
  ExpressionPtr slice = New(Expression::kSlice, line);
  for (ExpressionPtr* part : {&value, &begin, &end, &step}) {
    slice->children.push_back(std::move(*part));
  }
  return FinishExpression(std::move(slice));
}

Status ExpressionParser::ParseArguments(Expression* call) {
  STERNA_RETURN_IF_ERROR(stream_.ExpectOperator("("));
  bool first = true;
  while (!stream_.current().IsOperator(")")) {
    if (!first) {
      STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(","));
      if (stream_.current().IsOperator(")")) break;
    }
    first = false;
    if (stream_.current().IsOperator("*") || stream_.current().IsOperator("**")) {
      return LineError(stream_.current().line, "*args and **kwargs in calls are not supported");
    }
    const bool named = stream_.current().kind == Token::kName && stream_.next().IsOperator("=");
    if (named) {
      STERNA_ASSIGN_OR_RETURN(std::string name, stream_.TakeName());
      stream_.Advance();
      STERNA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      call->named.emplace_back(std::move(name), std::move(value));
    } else if (!call->named.empty()) {
      return stream_.Unexpected("a named argument, since one came before");
    } else {
      STERNA_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      call->children.push_back(std::move(value));
    }
  }
  return stream_.ExpectOperator(")");
}

StatusOr<ExpressionPtr> ExpressionParser::ParseFiltersAndTests(ExpressionPtr value) {
  while (true) {
    if (stream_.current().IsOperator("|")) {
      stream_.Advance();
      STERNA_ASSIGN_OR_RETURN(value, ParseFilter(std::move(value)));
    } else if (stream_.current().IsName("is")) {
      STERNA_ASSIGN_OR_RETURN(value, ParseTest(std::move(value)));
    } else if (stream_.current().IsOperator("(")) {  // a call of what a filter gave
      STERNA_ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
    } else {
      return value;
    }
  }
}

StatusOr<ExpressionPtr> ExpressionParser::ParseFilter(ExpressionPtr value) {
  ExpressionPtr filter = New(Expression::kFilter, stream_.current().line);
  STERNA_ASSIGN_OR_RETURN(filter->name, stream_.TakeName());
  if (!IsFilter(filter->name)) {
    return LineError(filter->line, "the filter '" + filter->name + "' is not supported");
  }
  filter->children.push_back(std::move(value));
  if (stream_.current().IsOperator("(")) STERNA_RETURN_IF_ERROR(ParseArguments(filter.get()));
  return FinishExpression(std::move(filter));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseFilters(ExpressionPtr value) {
  while (stream_.SkipOperator("|")) {
    STERNA_ASSIGN_OR_RETURN(value, ParseFilter(std::move(value)));
  }
  return value;
}

StatusOr<ExpressionPtr> ExpressionParser::ParseFilterChain() {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr first, ParseFilter(nullptr));
  return ParseFilters(std::move(first));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseTest(ExpressionPtr value) {
  const int line = stream_.current().line;
  stream_.Advance();
  const bool negated = stream_.SkipName("not");
  ExpressionPtr test = New(Expression::kTest, line);
  STERNA_ASSIGN_OR_RETURN(test->name, stream_.TakeName());
  if (!IsTest(test->name)) {
    return LineError(line, "the test '" + test->name + "' is not supported");
  }
  test->children.push_back(std::move(value));
  const Token& token = stream_.current();
  const bool operand = token.kind == Token::kString || token.kind == Token::kInteger ||
                       token.kind == Token::kFloat || token.IsOperator("[") ||
                       token.IsOperator("{") ||
                       (token.kind == Token::kName && !token.IsName("else") &&
                        !token.IsName("or") && !token.IsName("and"));
  if (token.IsOperator("(")) {
    STERNA_RETURN_IF_ERROR(ParseArguments(test.get()));
  } else if (operand) {  // the argument may stand without parentheses
    if (token.IsName("is")) return LineError(line, "tests cannot be chained with 'is'");
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    STERNA_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    test->children.push_back(std::move(argument));
  }
  STERNA_ASSIGN_OR_RETURN(test, FinishExpression(std::move(test)));
  if (!negated) return test;
  return Join(Expression::kNot, line, std::move(test), nullptr);
}

StatusOr<ExpressionPtr> ExpressionParser::ParseTargetItem(bool with_namespace) {
  if (stream_.SkipOperator("(")) {
    if (++nesting_ > kMaxNesting) {
      return LineError(stream_.current().line, "an assignment is nested too deeply");
    }
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr target, ParseTarget(with_namespace));
    --nesting_;
    STERNA_RETURN_IF_ERROR(stream_.ExpectOperator(")"));
    return target;
  }
  ExpressionPtr target = New(Expression::kName, stream_.current().line);
  STERNA_ASSIGN_OR_RETURN(target->name, stream_.TakeName());
  for (const char* constant : {"true", "false", "none", "True", "False", "None"}) {
    if (target->name == constant) {
      return LineError(target->line, "cannot assign to '" + target->name + "'");
    }
  }
  if (!with_namespace || !stream_.SkipOperator(".")) return target;
  const int line = target->line;
  STERNA_ASSIGN_OR_RETURN(std::string attribute, stream_.TakeName());
  return Join(Expression::kAttribute, line, std::move(target), nullptr, std::move(attribute));
}

StatusOr<ExpressionPtr> ExpressionParser::ParseTarget(bool with_namespace) {
  STERNA_ASSIGN_OR_RETURN(ExpressionPtr first, ParseTargetItem(with_namespace));
  if (!stream_.current().IsOperator(",")) return first;
  ExpressionPtr tuple = New(Expression::kTuple, first->line);
  tuple->children.push_back(std::move(first));
  while (stream_.SkipOperator(",")) {
    const Token& token = stream_.current();
    if (token.kind != Token::kName && !token.IsOperator("(")) break;  // a comma at the end
    if (token.IsName("in")) break;
    STERNA_ASSIGN_OR_RETURN(ExpressionPtr item, ParseTargetItem(with_namespace));
    tuple->children.push_back(std::move(item));
  }
  return FinishExpression(std::move(tuple));
}

}  // namespace sterna::jinja
