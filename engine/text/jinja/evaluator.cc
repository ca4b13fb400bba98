#include "engine/text/jinja/evaluator.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/lexer.h"
#include "engine/text/jinja/print.h"

namespace sterna::jinja {
namespace {

StatusOr<bool> Compares(Runtime* runtime, const std::string& op, const Value& a, const Value& b) {
  STERNA_RETURN_IF_ERROR(runtime->Charge(a.weight() + b.weight()));
  if (op == "==") return Equal(a, b);
  if (op == "!=") return !Equal(a, b);
  if (op == "in") return Contains(b, a);
  if (op == "notin") {
    STERNA_ASSIGN_OR_RETURN(const bool contains, Contains(b, a));
    return !contains;
  }
  for (const Value* side : {&a, &b}) {
    if (side->is_undefined()) return absl::InvalidArgumentError(side->hint());
  }
  STERNA_ASSIGN_OR_RETURN(const int order, Compare(a, b));
  if (op == "<") return order < 0;
  if (op == "<=") return order <= 0;
  if (op == ">") return order > 0;
  return order >= 0;
}

}  // namespace

const Value* Scope::Find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    const auto it = scope->variables.find(name);
    if (it != scope->variables.end()) return &it->second;
  }
  return nullptr;
}

Status Evaluator::AtLine(int line, const Status& status) const {
  constexpr char kPrefix[] = "chat template, line ";
  const std::string message(status.message());
  if (status.ok() || runtime_.raised() || message.starts_with(kPrefix)) return status;
  return Status(status.code(), absl::StrCat(kPrefix, line, ": ", message));
}

StatusOr<Value> Evaluator::Eval(const Expression& expression, const Scope& scope) {
  Status status = runtime_.Charge();
  if (status.ok()) status = runtime_.EnterLevel();
  if (!status.ok()) return AtLine(expression.line, status);
  StatusOr<Value> value = EvalKind(expression, scope);
  runtime_.LeaveLevel();
  if (!value.ok()) return AtLine(expression.line, value.status());
  return value;
}

StatusOr<Value> Evaluator::EvalKind(const Expression& expression, const Scope& scope) {
  switch (expression.kind) {
    case Expression::kConstant:
      return expression.value;
    case Expression::kName: {
      const Value* value = scope.Find(expression.name);
      if (value != nullptr) return *value;
      return Value::MakeUndefined("'" + expression.name + "' is undefined");
    }
    case Expression::kList:
    case Expression::kTuple:
      return EvalContainer(expression, scope);
    case Expression::kDict:
      return EvalDict(expression, scope);
    case Expression::kAttribute: {
      STERNA_ASSIGN_OR_RETURN(const Value object, Eval(*expression.children[0], scope));
      return GetAttribute(object, expression.name);
    }
    case Expression::kItem: {
      STERNA_ASSIGN_OR_RETURN(const Value object, Eval(*expression.children[0], scope));
      STERNA_ASSIGN_OR_RETURN(const Value key, Eval(*expression.children[1], scope));
      return GetItem(&runtime_, object, key);
    }
    case Expression::kSlice:
      return EvalSlice(expression, scope);
    case Expression::kCall:
      return EvalCall(expression, scope);
    case Expression::kFilter:
      return EvalFilter(expression, scope);
    case Expression::kTest:
      return EvalTest(expression, scope);
    case Expression::kNot:
    case Expression::kAnd:
    case Expression::kOr:
      return EvalLogic(expression, scope);
    case Expression::kNegate: {
      STERNA_ASSIGN_OR_RETURN(const Value value, Eval(*expression.children[0], scope));
      return Negate(value);
    }
    case Expression::kPlus: {
      STERNA_ASSIGN_OR_RETURN(const Value value, Eval(*expression.children[0], scope));
      if (value.is_number()) return value.is_bool() ? Value::Int(value.AsInt()) : value;
      return absl::InvalidArgumentError("bad operand type for unary +: '" + TypeName(value) + "'");
    }
    case Expression::kConditional:
      return EvalConditional(expression, scope);
    case Expression::kBinary: {
      STERNA_ASSIGN_OR_RETURN(const Value left, Eval(*expression.children[0], scope));
      STERNA_ASSIGN_OR_RETURN(const Value right, Eval(*expression.children[1], scope));
      return Binary(&runtime_, expression.name, left, right);
    }
    case Expression::kConcat:
      return EvalConcat(expression, scope);
    case Expression::kCompare:
      return EvalCompare(expression, scope);
  }
  return absl::InternalError("unknown expression");
}

StatusOr<Value> Evaluator::EvalContainer(const Expression& expression, const Scope& scope) {
  std::vector<Value> items;
  for (const ExpressionPtr& child : expression.children) {
    STERNA_ASSIGN_OR_RETURN(Value item, Eval(*child, scope));
    items.push_back(std::move(item));
  }
  const bool list = expression.kind == Expression::kList;
  return Value::MakeSequence(list ? SequenceKind::kList : SequenceKind::kTuple, std::move(items));
}

StatusOr<Value> Evaluator::EvalDict(const Expression& expression, const Scope& scope) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i < expression.children.size(); i += 2) {
    STERNA_ASSIGN_OR_RETURN(Value key, Eval(*expression.children[i], scope));
    STERNA_ASSIGN_OR_RETURN(Value value, Eval(*expression.children[i + 1], scope));
    entries.emplace_back(std::move(key), std::move(value));
  }
  STERNA_RETURN_IF_ERROR(runtime_.ChargeEntries(entries));
  return Value::MakeDict(std::move(entries));
}

StatusOr<Value> Evaluator::EvalSlice(const Expression& expression, const Scope& scope) {
  Value parts[4];  // none where left out
  for (size_t i = 0; i < 4; ++i) {
    if (expression.children[i] == nullptr) continue;
    STERNA_ASSIGN_OR_RETURN(parts[i], Eval(*expression.children[i], scope));
  }
  return GetSlice(&runtime_, parts[0], parts[1], parts[2], parts[3]);
}

StatusOr<Arguments> Evaluator::EvalArguments(const Expression& expression, const Scope& scope) {
  Arguments arguments;
  for (size_t i = 1; i < expression.children.size(); ++i) {
    STERNA_ASSIGN_OR_RETURN(Value value, Eval(*expression.children[i], scope));
    arguments.positional.push_back(std::move(value));
  }
  for (const auto& [name, child] : expression.named) {
    STERNA_ASSIGN_OR_RETURN(Value value, Eval(*child, scope));
    arguments.named.emplace_back(name, std::move(value));
  }
  return arguments;
}

StatusOr<Value> Evaluator::EvalCall(const Expression& expression, const Scope& scope) {
  STERNA_ASSIGN_OR_RETURN(const Value callee, Eval(*expression.children[0], scope));
  if (callee.is_undefined()) return absl::InvalidArgumentError(callee.hint());
  if (!callee.is_callable()) {
    return absl::InvalidArgumentError("'" + TypeName(callee) + "' object is not callable");
  }
  STERNA_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expression, scope));
  return callee.callable().call(&runtime_, arguments);
}

StatusOr<Value> Evaluator::EvalFilter(const Expression& expression, const Scope& scope) {
  Value input;
  if (expression.children[0] != nullptr) {
    STERNA_ASSIGN_OR_RETURN(input, Eval(*expression.children[0], scope));
  } else {
    input = *filter_input_;
  }
  STERNA_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expression, scope));
  return CallFilter(&runtime_, expression.name, input, arguments);
}

StatusOr<Value> Evaluator::EvalFilters(const Expression& chain, const Value& input,
                                       const Scope& scope) {
  const Value* outer = std::exchange(filter_input_, &input);
  StatusOr<Value> value = Eval(chain, scope);
  filter_input_ = outer;
  return value;
}

StatusOr<Value> Evaluator::EvalTest(const Expression& expression, const Scope& scope) {
  STERNA_ASSIGN_OR_RETURN(const Value value, Eval(*expression.children[0], scope));
  STERNA_ASSIGN_OR_RETURN(const Arguments arguments, EvalArguments(expression, scope));
  STERNA_ASSIGN_OR_RETURN(const bool holds, CallTest(&runtime_, expression.name, value, arguments));
  return Value::Bool(holds);
}

// `and` and `or` give one of their operands, as in Python.
StatusOr<Value> Evaluator::EvalLogic(const Expression& expression, const Scope& scope) {
  STERNA_ASSIGN_OR_RETURN(Value left, Eval(*expression.children[0], scope));
  if (expression.kind == Expression::kNot) return Value::Bool(!IsTrue(left));
  const bool decided = IsTrue(left) == (expression.kind == Expression::kOr);
  return decided ? StatusOr<Value>(std::move(left)) : Eval(*expression.children[1], scope);
}

StatusOr<Value> Evaluator::EvalConditional(const Expression& expression, const Scope& scope) {
  STERNA_ASSIGN_OR_RETURN(const Value condition, Eval(*expression.children[0], scope));
  if (IsTrue(condition)) return Eval(*expression.children[1], scope);
  if (expression.children[2] != nullptr) return Eval(*expression.children[2], scope);
  return Value::MakeUndefined("the inline if-expression evaluated to false and has no else");
}

StatusOr<Value> Evaluator::EvalConcat(const Expression& expression, const Scope& scope) {
  std::string text;
  for (const ExpressionPtr& child : expression.children) {
    STERNA_ASSIGN_OR_RETURN(const Value value, Eval(*child, scope));
    STERNA_RETURN_IF_ERROR(runtime_.Charge(value.weight()));
    text += Str(value);
    if (text.size() > kMaxStringBytes) break;  // MakeString refuses it
  }
  return runtime_.MakeString(std::move(text));
}

StatusOr<Value> Evaluator::EvalCompare(const Expression& expression, const Scope& scope) {
  STERNA_ASSIGN_OR_RETURN(Value left, Eval(*expression.children[0], scope));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    STERNA_ASSIGN_OR_RETURN(Value right, Eval(*expression.children[i + 1], scope));
    STERNA_ASSIGN_OR_RETURN(const bool holds,
                            Compares(&runtime_, expression.operators[i], left, right));
    if (!holds) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

}  // namespace sterna::jinja
