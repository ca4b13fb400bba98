#include "engine/text/jinja/interpreter.h"

#include <deque>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/evaluator.h"
#include "engine/text/jinja/print.h"

namespace sterna::jinja {
namespace {

enum class Flow { kNext, kBreak, kContinue };

class Interpreter {
 public:
  explicit Interpreter(int64_t now_unix_seconds) : runtime_(now_unix_seconds), eval_(&runtime_) {}

  StatusOr<std::string> Run(const Body& body,
                            std::vector<std::pair<std::string, Value>>&& variables) {
    Scope globals, top;
    for (auto& [name, value] : GlobalFunctions()) globals.variables[name] = std::move(value);
    for (auto& [name, value] : variables) globals.variables[name] = std::move(value);
    top.parent = &globals;
    std::string out;
    STERNA_RETURN_IF_ERROR(ExecBody(body, &top, &out).status());
    return out;
  }

 private:
  StatusOr<Flow> ExecBody(const Body& body, Scope* scope, std::string* out) {
    for (const StatementPtr& statement : body) {
      Status status = runtime_.Charge();
      if (status.ok()) status = runtime_.EnterLevel();
      if (!status.ok()) return eval_.AtLine(statement->line, status);
      StatusOr<Flow> flow = Exec(*statement, scope, out);
      runtime_.LeaveLevel();
      if (!flow.ok()) return eval_.AtLine(statement->line, flow.status());
      if (*flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  StatusOr<Flow> Exec(const Statement& statement, Scope* scope, std::string* out) {
    switch (statement.kind) {
      case Statement::kText:
        STERNA_RETURN_IF_ERROR(Emit(statement.text, out));
        return Flow::kNext;
      case Statement::kOutput: {
        STERNA_ASSIGN_OR_RETURN(const Value value, eval_.Eval(*statement.expression, *scope));
        STERNA_RETURN_IF_ERROR(runtime_.Charge(value.weight()));
        STERNA_RETURN_IF_ERROR(Emit(Str(value), out));
        return Flow::kNext;
      }
      case Statement::kIf:
        return ExecIf(statement, scope, out);
      case Statement::kFor:
        return ExecFor(statement, scope, out);
      case Statement::kSet: {
        STERNA_ASSIGN_OR_RETURN(Value value, eval_.Eval(*statement.expression, *scope));
        STERNA_RETURN_IF_ERROR(Assign(*statement.target, std::move(value), scope));
        return Flow::kNext;
      }
      case Statement::kSetBlock: {
        STERNA_ASSIGN_OR_RETURN(Value text, Capture(statement.body, scope));
        if (statement.expression != nullptr) {
          STERNA_ASSIGN_OR_RETURN(text, eval_.EvalFilters(*statement.expression, text, *scope));
        }
        STERNA_RETURN_IF_ERROR(Assign(*statement.target, std::move(text), scope));
        return Flow::kNext;
      }
      case Statement::kMacro:
        // The scope, which may be one of each of a loop's iterations, is kept with it.
        STERNA_RETURN_IF_ERROR(runtime_.Charge(8 * kObjectBytes));
        scope->has_macros = true;
        scope->variables[statement.text] = MakeMacro(statement, scope);
        return Flow::kNext;
      case Statement::kFilter: {
        STERNA_ASSIGN_OR_RETURN(const Value text, Capture(statement.body, scope));
        STERNA_ASSIGN_OR_RETURN(const Value value,
                                eval_.EvalFilters(*statement.expression, text, *scope));
        STERNA_RETURN_IF_ERROR(Emit(Str(value), out));
        return Flow::kNext;
      }
      case Statement::kWith:
      case Statement::kScope:
        return ExecScope(statement, scope, out);
      case Statement::kBreak:
        return Flow::kBreak;
      case Statement::kContinue:
        return Flow::kContinue;
    }
    return absl::InternalError("unknown statement");
  }

  Status Emit(const std::string& text, std::string* out) {
    STERNA_RETURN_IF_ERROR(runtime_.Charge(text.size()));
    if (out->size() + text.size() > kMaxStringBytes) {
      return absl::ResourceExhaustedError("the chat template makes a text that is too large");
    }
    *out += text;
    return absl::OkStatus();
  }

  Scope* PushScope(Scope* parent) {
    scopes_.push_back(std::make_unique<Scope>());
    scopes_.back()->parent = parent;
    return scopes_.back().get();
  }

  // Drops the scope last pushed, unless a macro may still look into it.
  void PopScope() {
    if (!scopes_.back()->has_macros) {
      scopes_.pop_back();
    } else {
      kept_scopes_.push_back(std::move(scopes_.back()));
      scopes_.pop_back();
    }
  }

  // What `body` prints, in a scope of its own.
  StatusOr<Value> Capture(const Body& body, Scope* scope) {
    std::string text;
    Scope* inner = PushScope(scope);
    const StatusOr<Flow> flow = ExecBody(body, inner, &text);
    PopScope();
    if (!flow.ok()) return flow.status();
    return runtime_.MakeString(std::move(text));
  }

  StatusOr<Flow> ExecIf(const Statement& statement, Scope* scope, std::string* out) {
    for (const Statement::Branch& branch : statement.branches) {
      STERNA_ASSIGN_OR_RETURN(const Value condition, eval_.Eval(*branch.condition, *scope));
      if (IsTrue(condition)) return ExecBody(branch.body, scope, out);
    }
    return ExecBody(statement.otherwise, scope, out);
  }

  StatusOr<Flow> ExecScope(const Statement& statement, Scope* scope, std::string* out) {
    Scope* inner = PushScope(scope);
    StatusOr<Flow> flow = Flow::kNext;
    for (const auto& [target, expression] : statement.assignments) {
      StatusOr<Value> value = eval_.Eval(*expression, *scope);
      const Status status = value.ok() ? Assign(*target, *std::move(value), inner) : value.status();
      if (!status.ok()) flow = status;
      if (!flow.ok()) break;
    }
    if (flow.ok()) flow = ExecBody(statement.body, inner, out);
    PopScope();
    return flow;
  }

  StatusOr<Flow> ExecFor(const Statement& statement, Scope* scope, std::string* out) {
    STERNA_ASSIGN_OR_RETURN(const Value iterable, eval_.Eval(*statement.expression, *scope));
    auto loop = std::make_shared<LoopState>();
    STERNA_ASSIGN_OR_RETURN(loop->items, Iterate(&runtime_, iterable));
    if (statement.condition != nullptr) {
      STERNA_RETURN_IF_ERROR(FilterItems(statement, scope, &loop->items));
    }
    if (loop->items.empty()) return ExecBody(statement.otherwise, scope, out);
    for (loop->index = 0; loop->index < loop->items.size(); ++loop->index) {
      Scope* inner = PushScope(scope);
      inner->variables["loop"] = Value::FromLoop(loop);
      StatusOr<Flow> flow = Flow::kNext;
      const Status status = Assign(*statement.target, loop->items[loop->index], inner);
      flow = status.ok() ? ExecBody(statement.body, inner, out) : StatusOr<Flow>(status);
      PopScope();
      if (!flow.ok()) return flow;
      if (*flow == Flow::kBreak) break;
    }
    return Flow::kNext;
  }

  // Keeps the items for which the loop's own condition holds.
  Status FilterItems(const Statement& statement, Scope* scope, std::vector<Value>* items) {
    std::vector<Value> kept;
    for (Value& item : *items) {
      Scope* inner = PushScope(scope);
      const Status status = Assign(*statement.target, item, inner);
      StatusOr<Value> condition =
          status.ok() ? eval_.Eval(*statement.condition, *inner) : StatusOr<Value>(status);
      PopScope();
      STERNA_RETURN_IF_ERROR(condition.status());
      if (IsTrue(*condition)) kept.push_back(std::move(item));
    }
    *items = std::move(kept);
    return absl::OkStatus();
  }

  Status Assign(const Expression& target, Value value, Scope* scope) {
    if (target.kind == Expression::kName) {
      scope->variables[target.name] = std::move(value);
      return absl::OkStatus();
    }
    if (target.kind == Expression::kAttribute) {
      STERNA_ASSIGN_OR_RETURN(const Value object, eval_.Eval(*target.children[0], *scope));
      if (!object.is_namespace()) {
        return absl::InvalidArgumentError("cannot assign attribute on non-namespace object");
      }
      if (target.name.starts_with('_')) {
        return absl::InvalidArgumentError("a namespace cannot have an attribute called '" +
                                          target.name + "'");
      }
      object.name_space()->attributes[target.name] = std::move(value);
      return absl::OkStatus();
    }
    STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(&runtime_, value));
    if (items.size() != target.children.size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "cannot unpack ", items.size(), " values into ", target.children.size(), " names"));
    }
    for (size_t i = 0; i < items.size(); ++i) {
      STERNA_RETURN_IF_ERROR(Assign(*target.children[i], items[i], scope));
    }
    return absl::OkStatus();
  }

  Value MakeMacro(const Statement& statement, Scope* scope) {
    auto macro = std::make_shared<Callable>();
    macro->name = statement.text;
    macro->is_macro = true;
    macro->call = [this, &statement, scope](Runtime*, const Arguments& arguments) {
      return CallMacro(statement, scope, arguments);
    };
    return Value::FromCallable(std::move(macro));
  }

  StatusOr<Value> CallMacro(const Statement& macro, Scope* scope, const Arguments& arguments) {
    Scope* inner = PushScope(scope);
    std::string text;
    Status status = BindParameters(macro, arguments, inner);
    if (status.ok()) status = ExecBody(macro.body, inner, &text).status();
    PopScope();
    STERNA_RETURN_IF_ERROR(status);
    return runtime_.MakeString(std::move(text));
  }

  Status BindParameters(const Statement& macro, const Arguments& arguments, Scope* scope) {
    const std::string what = "macro '" + macro.text + "'";
    if (arguments.positional.size() > macro.parameters.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " takes not more than ", macro.parameters.size(), " argument(s)"));
    }
    size_t named_used = 0;
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const Statement::Parameter& parameter = macro.parameters[i];
      Value& variable = scope->variables[parameter.name];
      const Value* given = arguments.Find(i, parameter.name);
      if (given != nullptr) {
        named_used += i >= arguments.positional.size();
        variable = *given;
      } else if (parameter.default_value != nullptr) {
        STERNA_ASSIGN_OR_RETURN(variable, eval_.Eval(*parameter.default_value, *scope));
      } else {
        variable = Value::MakeUndefined("parameter '" + parameter.name + "' was not provided");
      }
    }
    if (named_used < arguments.named.size()) {
      return absl::InvalidArgumentError(what + " is given an argument that it does not have");
    }
    return absl::OkStatus();
  }

  Runtime runtime_;
  Evaluator eval_;
  std::vector<std::unique_ptr<Scope>> scopes_;  // those of the blocks being run, innermost last
  std::vector<std::unique_ptr<Scope>> kept_scopes_;  // ended, but macros were defined in them
};

}  // namespace

StatusOr<std::string> Run(const Body& body, std::vector<std::pair<std::string, Value>> variables,
                          int64_t now_unix_seconds) {
  return Interpreter(now_unix_seconds).Run(body, std::move(variables));
}

}  // namespace sterna::jinja
