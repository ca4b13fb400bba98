// The tests: `value is name(arguments)`.
#include <algorithm>
#include <map>
#include <string>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/text.h"

namespace sterna::jinja {
namespace {

using Test = StatusOr<bool> (*)(Runtime*, const Value&, const Arguments&);

template <bool (*kHolds)(const Value&)>
StatusOr<bool> Unary(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("the test", {}));
  return kHolds(value);
}

template <bool (Value::*kHolds)() const>
bool Is(const Value& value) {
  return (value.*kHolds)();
}

bool IsDefined(const Value& value) { return !value.is_undefined(); }
bool IsTrueConstant(const Value& value) { return value.is_bool() && value.bool_value(); }
bool IsFalseConstant(const Value& value) { return value.is_bool() && !value.bool_value(); }
bool IsIterable(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_sequence() || value.is_dict();
}
bool IsSequence(const Value& value) {
  if (!value.is_sequence()) return value.is_undefined() || value.is_string() || value.is_dict();
  return value.sequence().kind != SequenceKind::kView &&
         value.sequence().kind != SequenceKind::kGenerator;
}

// Whether the text has a letter with case, and none of the other case.
template <bool (*kWanted)(char32_t), bool (*kOther)(char32_t)>
bool IsCase(const Value& value) {
  const std::u32string text = ToCodePoints(Str(value));
  return std::any_of(text.begin(), text.end(), kWanted) &&
         std::none_of(text.begin(), text.end(), kOther);
}

StatusOr<Value> TheArgument(const Arguments& arguments) {
  if (arguments.positional.size() == 1 && arguments.named.empty()) return arguments.positional[0];
  return absl::InvalidArgumentError("the test takes one argument");
}

// Comparing costs what the lighter of the two has.
Status ChargeComparison(Runtime* runtime, const Value& a, const Value& b) {
  return runtime->Charge(std::min(a.weight(), b.weight()));
}

enum class Order { kLess, kLessOrEqual, kGreater, kGreaterOrEqual };

template <Order kOrder>
StatusOr<bool> Ordered(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_ASSIGN_OR_RETURN(const Value other, TheArgument(arguments));
  STERNA_RETURN_IF_ERROR(ChargeComparison(runtime, value, other));
  STERNA_ASSIGN_OR_RETURN(const int order, Compare(value, other));
  switch (kOrder) {
    case Order::kLess:
      return order < 0;
    case Order::kLessOrEqual:
      return order <= 0;
    case Order::kGreater:
      return order > 0;
    case Order::kGreaterOrEqual:
      return order >= 0;
  }
  return false;
}

template <bool kWanted>
StatusOr<bool> Equals(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_ASSIGN_OR_RETURN(const Value other, TheArgument(arguments));
  STERNA_RETURN_IF_ERROR(ChargeComparison(runtime, value, other));
  return Equal(value, other) == kWanted;
}

StatusOr<bool> In(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_ASSIGN_OR_RETURN(const Value container, TheArgument(arguments));
  STERNA_RETURN_IF_ERROR(runtime->Charge(container.weight()));
  return Contains(container, value);
}

StatusOr<bool> DivisibleBy(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_ASSIGN_OR_RETURN(const Value divisor, TheArgument(arguments));
  STERNA_ASSIGN_OR_RETURN(const Value remainder, Binary(runtime, "%", value, divisor));
  return !IsTrue(remainder);
}

template <int kRemainder>
StatusOr<bool> Parity(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("the test", {}));
  STERNA_ASSIGN_OR_RETURN(const Value remainder, Binary(runtime, "%", value, Value::Int(2)));
  return Equal(remainder, Value::Int(kRemainder));
}

// For constants and numbers Python's identity is equality of type and value.
StatusOr<bool> SameAs(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_ASSIGN_OR_RETURN(const Value other, TheArgument(arguments));
  if (value.is_sequence() && other.is_sequence()) return &value.sequence() == &other.sequence();
  if (value.is_dict() && other.is_dict()) return &value.dict() == &other.dict();
  return TypeName(value) == TypeName(other) && Equal(value, other);
}

const std::map<std::string, Test, std::less<>>& Tests() {
  static const auto* const kTests = new std::map<std::string, Test, std::less<>>{
      {"defined", Unary<IsDefined>},
      {"undefined", Unary<Is<&Value::is_undefined>>},
      {"none", Unary<Is<&Value::is_none>>},
      {"boolean", Unary<Is<&Value::is_bool>>},
      {"true", Unary<IsTrueConstant>},
      {"false", Unary<IsFalseConstant>},
      {"integer", Unary<Is<&Value::is_int>>},
      {"float", Unary<Is<&Value::is_float>>},
      {"number", Unary<Is<&Value::is_number>>},
      {"string", Unary<Is<&Value::is_string>>},
      {"mapping", Unary<Is<&Value::is_dict>>},
      {"iterable", Unary<IsIterable>},
      {"sequence", Unary<IsSequence>},
      {"callable", Unary<Is<&Value::is_callable>>},
      {"lower", Unary<IsCase<IsLower, IsUpper>>},
      {"upper", Unary<IsCase<IsUpper, IsLower>>},
      {"escaped", Unary<Is<&Value::is_safe>>},
      {"odd", Parity<1>},
      {"even", Parity<0>},
      {"divisibleby", DivisibleBy},
      {"sameas", SameAs},
      {"in", In},
      {"eq", Equals<true>},
      {"==", Equals<true>},
      {"equalto", Equals<true>},
      {"ne", Equals<false>},
      {"!=", Equals<false>},
      {"lt", Ordered<Order::kLess>},
      {"<", Ordered<Order::kLess>},
      {"lessthan", Ordered<Order::kLess>},
      {"le", Ordered<Order::kLessOrEqual>},
      {"<=", Ordered<Order::kLessOrEqual>},
      {"gt", Ordered<Order::kGreater>},
      {">", Ordered<Order::kGreater>},
      {"greaterthan", Ordered<Order::kGreater>},
      {"ge", Ordered<Order::kGreaterOrEqual>},
      {">=", Ordered<Order::kGreaterOrEqual>},
  };
  return *kTests;
}

}  // namespace

bool IsTest(std::string_view name) { return Tests().find(name) != Tests().end(); }

StatusOr<bool> CallTest(Runtime* runtime, const std::string& name, const Value& value,
                        const Arguments& arguments) {
  const auto it = Tests().find(name);
  if (it == Tests().end()) {
    return absl::InvalidArgumentError("the test '" + name + "' is not supported");
  }
  STERNA_RETURN_IF_ERROR(runtime->Charge(value.is_string() ? value.weight() : 0));
  return it->second(runtime, value, arguments);
}

}  // namespace sterna::jinja
