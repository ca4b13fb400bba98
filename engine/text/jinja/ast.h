// A parsed template: expressions and statements as trees.
#ifndef STERNA_ENGINE_TEXT_JINJA_AST_H_
#define STERNA_ENGINE_TEXT_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/jinja/value.h"

namespace sterna::jinja {

// Trees are at most this deep, so that walking and freeing them never runs out of stack.
inline constexpr int kMaxTreeDepth = 250;

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum Kind {
    kConstant,     // value
    kName,         // name
    kList,         // children: items
    kTuple,        // children: items
    kDict,         // children: key, value, key, value, ...
    kAttribute,    // children[0].name
    kItem,         // children[0][children[1]]
    kSlice,        // children[0][children[1]:children[2]:children[3]]; the last three may be null
    kCall,         // children[0](children[1..], named)
    kFilter,       // children[0] | name(children[1..], named); children[0] null: in a filter block
    kTest,         // children[0] is name(children[1..], named)
    kNot,          // not children[0]
    kNegate,       // -children[0]
    kPlus,         // +children[0]
    kAnd,          // children[0] and children[1]
    kOr,           // children[0] or children[1]
    kConditional,  // children[1] if children[0] else children[2]; children[2] may be null
    kBinary,       // children[0] name children[1], name one of + - * / // % **
    kConcat,       // children joined by ~
    kCompare,      // children[0] operators[0] children[1] operators[1] children[2] ...
  };
  Kind kind;
  int line;
  int depth = 1;
  std::string name;
  Value value;
  std::vector<ExpressionPtr> children;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<std::string> operators;  // kCompare: == != < <= > >= in notin
};

struct Statement;
using StatementPtr = std::unique_ptr<Statement>;
using Body = std::vector<StatementPtr>;

struct Statement {
  enum Kind {
    kText,      // text
    kOutput,    // expression
    kIf,        // branches; otherwise
    kFor,       // for target in expression if condition: body; otherwise
    kSet,       // set target = expression
    kSetBlock,  // set target (through the filters of expression): body
    kMacro,     // macro name(parameters): body
    kFilter,    // body through the filters of expression
    kWith,      // assignments, then body
    kScope,     // generation: body in a scope of its own
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };
  struct Parameter {
    std::string name;
    ExpressionPtr default_value;  // null: none
  };
  Kind kind;
  int line;
  std::string text;      // kText; kMacro: its name
  ExpressionPtr target;  // a kName, a kTuple of targets, or a kAttribute of a kName
  ExpressionPtr expression;
  ExpressionPtr condition;
  std::vector<Branch> branches;
  std::vector<Parameter> parameters;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;  // kWith: target, value
  Body body;
  Body otherwise;
};

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_AST_H_
