// Evaluates expressions in a scope.
// Lifetime: belongs to one run. Thread contract: used by one thread.
#ifndef STERNA_ENGINE_TEXT_JINJA_EVALUATOR_H_
#define STERNA_ENGINE_TEXT_JINJA_EVALUATOR_H_

#include <map>
#include <string>
#include <utility>

#include "base/status.h"
#include "engine/text/jinja/ast.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/value.h"

namespace sterna::jinja {

// Variables by name, inside those of `parent`.
struct Scope {
  Scope* parent = nullptr;
  std::map<std::string, Value, std::less<>> variables;
  bool has_macros = false;  // macros look up names here later, so the scope must outlive its block

  // Null when neither this scope nor one around it has the name.
  const Value* Find(const std::string& name) const;
};

class Evaluator {
 public:
  explicit Evaluator(Runtime* runtime) : runtime_(*runtime) {}

  StatusOr<Value> Eval(const Expression& expression, const Scope& scope);
  // Applies a chain of filters whose innermost has no value of its own, to `input`.
  StatusOr<Value> EvalFilters(const Expression& chain, const Value& input, const Scope& scope);

  // `status` with the line, unless it has one or is the template's own exception.
  Status AtLine(int line, const Status& status) const;

 private:
  StatusOr<Value> EvalKind(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalContainer(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalDict(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalSlice(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalCall(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalFilter(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalTest(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalLogic(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalConditional(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalConcat(const Expression& expression, const Scope& scope);
  StatusOr<Value> EvalCompare(const Expression& expression, const Scope& scope);
  StatusOr<Arguments> EvalArguments(const Expression& expression, const Scope& scope);

  Runtime& runtime_;
  const Value* filter_input_ = nullptr;  // what a filter block's chain starts from
};

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_EVALUATOR_H_
