// Python's operators and container protocols on template values.
#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/text.h"

namespace sterna::jinja {
namespace {

Status UndefinedError(const Value& value) { return absl::InvalidArgumentError(value.hint()); }

std::string ObjectName(const Value& value) {
  return value.is_none() ? "None" : absl::StrCat("'", TypeName(value), " object'");
}

Value NoAttribute(const Value& object, const std::string& name) {
  return Value::MakeUndefined(absl::StrCat(ObjectName(object), " has no attribute '", name, "'"));
}

Status UnsupportedOperands(const std::string& op, const Value& a, const Value& b) {
  if (a.is_undefined()) return UndefinedError(a);
  if (b.is_undefined()) return UndefinedError(b);
  return absl::InvalidArgumentError(absl::StrCat("unsupported operands for ", op, ": '",
                                                 TypeName(a), "' and '", TypeName(b), "'"));
}

Status TooLarge(const std::string& op) {
  return absl::InvalidArgumentError(
      absl::StrCat("the integer result of ", op, " is not supported: beyond 64 bits"));
}

// Python's index: negative ones count from the end. nullopt: out of range.
std::optional<size_t> ResolveIndex(int64_t index, size_t size) {
  if (index < 0) index += static_cast<int64_t>(size);
  if (index < 0 || index >= static_cast<int64_t>(size)) return std::nullopt;
  return static_cast<size_t>(index);
}

StatusOr<Value> LoopAttribute(const Value& object, const std::string& name) {
  const LoopState& loop = object.loop();
  const auto size = static_cast<int64_t>(loop.items.size());
  const auto index = static_cast<int64_t>(loop.index);
  if (name == "index") return Value::Int(index + 1);
  if (name == "index0") return Value::Int(index);
  if (name == "revindex") return Value::Int(size - index);
  if (name == "revindex0") return Value::Int(size - index - 1);
  if (name == "first") return Value::Bool(index == 0);
  if (name == "last") return Value::Bool(index + 1 == size);
  if (name == "length") return Value::Int(size);
  if (name == "depth") return Value::Int(1);  // recursive loops alone have more
  if (name == "depth0") return Value::Int(0);
  if (name == "previtem") {
    return index > 0 ? loop.items[index - 1] : Value::MakeUndefined("there is no previous item");
  }
  if (name == "nextitem") {
    return index + 1 < size ? loop.items[index + 1] : Value::MakeUndefined("there is no next item");
  }
  return BoundMethod(object, name);
}

StatusOr<Value> IntegerBinary(const std::string& op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "//" || op == "%") {
    if (b == 0) return absl::InvalidArgumentError("integer division or modulo by zero");
    if (b == -1) {
      overflow = op == "//" && __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {  // Python rounds down, C++ towards zero
      const int64_t remainder = a % b;
      const bool adjust = remainder != 0 && (remainder < 0) != (b < 0);
      result = op == "//" ? a / b - adjust : remainder + (adjust ? b : 0);
    }
  } else {  // "**" with b >= 0
    result = 1;
    for (int64_t i = 0; i < b && !overflow; ++i) {
      overflow = __builtin_mul_overflow(result, a, &result);
      if (a == 0 || a == 1) break;
      if (a == -1) {
        result = b % 2 == 0 ? 1 : -1;
        break;
      }
    }
  }
  if (overflow) return TooLarge(op);
  return Value::Int(result);
}

StatusOr<Value> NumberBinary(const std::string& op, const Value& a, const Value& b) {
  const bool integers = !a.is_float() && !b.is_float();
  if (integers && op != "/" && !(op == "**" && b.AsInt() < 0)) {
    return IntegerBinary(op, a.AsInt(), b.AsInt());
  }
  const double x = a.AsDouble(), y = b.AsDouble();
  if (op == "+") return Value::Float(x + y);
  if (op == "-") return Value::Float(x - y);
  if (op == "*") return Value::Float(x * y);
  if (op == "**") return Value::Float(std::pow(x, y));
  if (y == 0) return absl::InvalidArgumentError("division by zero");
  if (op == "/") return Value::Float(x / y);
  double remainder = std::fmod(x, y);
  if (remainder != 0 && (remainder < 0) != (y < 0)) remainder += y;
  if (op == "%") return Value::Float(remainder);
  return Value::Float(std::floor((x - remainder) / y + 0.5));
}

StatusOr<Value> Repeat(Runtime* runtime, const Value& value, int64_t count) {
  const size_t times = static_cast<size_t>(std::max<int64_t>(count, 0));
  const size_t size = value.is_string() ? value.string().size() : value.items().size();
  if (size > 0 && times > kMaxStringBytes / size) {
    return absl::ResourceExhaustedError("the chat template makes a value that is too large");
  }
  STERNA_RETURN_IF_ERROR(runtime->Charge(size * times * (value.is_string() ? 1 : sizeof(Value))));
  if (value.is_string()) {
    std::string text;
    for (size_t i = 0; i < times; ++i) text += value.string();
    return runtime->MakeString(std::move(text));
  }
  std::vector<Value> items;
  for (size_t i = 0; i < times; ++i) {
    items.insert(items.end(), value.items().begin(), value.items().end());
  }
  return Value::MakeSequence(value.sequence().kind, std::move(items));
}

StatusOr<Value> AddStrings(Runtime* runtime, const Value& a, const Value& b) {
  if (a.is_safe() == b.is_safe()) return runtime->MakeString(a.string() + b.string(), a.is_safe());
  // A safe string is markup, and makes markup of what it is added to.
  const auto markup = [](const Value& value) {
    return value.is_safe() ? value.string() : EscapeHtml(value.string());
  };
  return runtime->MakeString(markup(a) + markup(b), /*safe=*/true);
}

bool IsListOrTuple(const Value& value) {
  return value.is_sequence(SequenceKind::kList) || value.is_sequence(SequenceKind::kTuple);
}

}  // namespace

Status Runtime::ChargeEntries(const std::vector<std::pair<Value, Value>>& entries) {
  size_t bytes = entries.size() * kObjectBytes;
  for (const auto& [key, value] : entries) bytes += key.weight();
  return Charge(bytes);
}

StatusOr<Value> Runtime::MakeString(std::string text, bool safe) {
  STERNA_RETURN_IF_ERROR(Charge(text.size()));
  if (text.size() > kMaxStringBytes) {
    return absl::ResourceExhaustedError("the chat template makes a text that is too large");
  }
  return Value::String(std::move(text), safe);
}

StatusOr<Value> GetAttribute(const Value& object, const std::string& name) {
  if (object.is_undefined()) return UndefinedError(object);
  if (object.is_namespace()) {
    const auto& attributes = object.name_space()->attributes;
    const auto it = attributes.find(name);
    return it == attributes.end() ? NoAttribute(object, name) : it->second;
  }
  StatusOr<Value> value =
      object.is_loop() ? LoopAttribute(object, name) : BoundMethod(object, name);
  if (!value.ok() || !value->is_undefined() || object.is_loop()) return value;
  if (object.is_dict()) {
    if (const Value* found = object.dict().Find(name)) return *found;
  }
  return NoAttribute(object, name);
}

StatusOr<Value> GetItem(Runtime* runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) return UndefinedError(object);
  STERNA_RETURN_IF_ERROR(runtime->Charge(key.weight()));
  if (object.is_dict()) {
    if (const Value* found = object.dict().Find(key)) return *found;
  }
  const bool is_index = key.is_int() || key.is_bool();
  if (is_index && (IsListOrTuple(object) || object.is_sequence(SequenceKind::kRange))) {
    const auto index = ResolveIndex(key.AsInt(), object.items().size());
    if (index) return object.items()[*index];
  } else if (is_index && object.is_string()) {
    STERNA_RETURN_IF_ERROR(runtime->Charge(object.string().size()));
    const std::u32string text = ToCodePoints(object.string());
    const auto index = ResolveIndex(key.AsInt(), text.size());
    if (index) return Value::String(FromCodePoints({&text[*index], 1}));
  } else if (key.is_string() && !object.is_dict()) {
    return GetAttribute(object, key.string());
  } else if (key.is_string()) {
    STERNA_ASSIGN_OR_RETURN(Value method, BoundMethod(object, key.string()));
    if (!method.is_undefined()) return method;
  }
  return NoAttribute(object, Str(key));
}

StatusOr<Value> GetSlice(Runtime* runtime, const Value& object, const Value& begin,
                         const Value& end, const Value& step) {
  if (object.is_undefined()) return UndefinedError(object);
  if (!object.is_string() && !IsListOrTuple(object) && !object.is_sequence(SequenceKind::kRange)) {
    return absl::InvalidArgumentError(absl::StrCat("'", TypeName(object), "' cannot be sliced"));
  }
  for (const Value* part : {&begin, &end, &step}) {
    if (!part->is_none() && !part->is_int() && !part->is_bool()) {
      return absl::InvalidArgumentError(
          absl::StrCat("slice indices must be integers or none, not '", TypeName(*part), "'"));
    }
  }
  STERNA_RETURN_IF_ERROR(runtime->Charge(
      object.is_string() ? object.string().size() : object.items().size() * sizeof(Value)));
  const std::u32string text = object.is_string() ? ToCodePoints(object.string()) : U"";
  const auto size = static_cast<int64_t>(object.is_string() ? text.size() : object.items().size());
  const int64_t stride = step.is_none() ? 1 : step.AsInt();
  if (stride == 0) return absl::InvalidArgumentError("slice step cannot be zero");
  const auto clamp = [&](const Value& bound, int64_t otherwise) {
    if (bound.is_none()) return otherwise;
    int64_t at = bound.AsInt();
    if (at < 0) at = std::max<int64_t>(at + size, stride > 0 ? 0 : -1);
    return std::min(at, stride > 0 ? size : size - 1);
  };
  const int64_t from = clamp(begin, stride > 0 ? 0 : size - 1);
  const int64_t to = clamp(end, stride > 0 ? size : -1);
  // No stride longer than the object: stepping by one must not overflow.
  const int64_t by = std::clamp(stride, -size - 1, size + 1);
  std::u32string picked_text;
  std::vector<Value> picked;
  for (int64_t i = from; by > 0 ? i < to : i > to; i += by) {
    object.is_string() ? picked_text.push_back(text[i]) : picked.push_back(object.items()[i]);
  }
  if (object.is_string()) return runtime->MakeString(FromCodePoints(picked_text));
  const bool tuple = object.is_sequence(SequenceKind::kTuple);
  return Value::MakeSequence(tuple ? SequenceKind::kTuple : SequenceKind::kList, std::move(picked));
}

StatusOr<bool> Contains(const Value& container, const Value& item) {
  if (container.is_undefined()) return false;
  if (container.is_string()) {
    if (item.is_undefined()) return UndefinedError(item);
    if (!item.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "'in <string>' requires a string as its left operand, not '", TypeName(item), "'"));
    }
    return FindText(container.string(), item.string()) != std::string::npos;
  }
  if (container.is_dict()) return container.dict().Find(item) != nullptr;
  if (container.is_sequence()) {
    return std::any_of(container.items().begin(), container.items().end(),
                       [&](const Value& element) { return Equal(element, item); });
  }
  return absl::InvalidArgumentError(
      absl::StrCat("argument of type '", TypeName(container), "' is not iterable"));
}

StatusOr<std::vector<Value>> Iterate(Runtime* runtime, const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (value.is_sequence()) {
    STERNA_RETURN_IF_ERROR(runtime->Charge(value.items().size() * sizeof(Value)));
    return value.items();
  }
  if (value.is_dict()) {
    STERNA_RETURN_IF_ERROR(runtime->Charge(value.dict().entries.size() * sizeof(Value)));
    for (const auto& [key, entry] : value.dict().entries) items.push_back(key);
    return items;
  }
  if (value.is_string()) {
    STERNA_RETURN_IF_ERROR(runtime->Charge(value.string().size() * kObjectBytes));
    for (const char32_t c : ToCodePoints(value.string())) {
      items.push_back(Value::String(FromCodePoints({&c, 1})));
    }
    return items;
  }
  return absl::InvalidArgumentError(absl::StrCat("'", TypeName(value), "' object is not iterable"));
}

StatusOr<size_t> Length(const Value& value) {
  if (value.is_undefined()) return size_t{0};
  if (value.is_string()) return CodePointCount(value.string());
  if (value.is_dict()) return value.dict().entries.size();
  if (value.is_sequence() && !value.is_sequence(SequenceKind::kGenerator)) {
    return value.items().size();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("object of type '", TypeName(value), "' has no length"));
}

StatusOr<Value> Binary(Runtime* runtime, const std::string& op, const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return NumberBinary(op, a, b);
  if (op == "+") {
    if (a.is_string() && b.is_string()) return AddStrings(runtime, a, b);
    if (IsListOrTuple(a) && b.is_sequence(a.sequence().kind)) {
      STERNA_RETURN_IF_ERROR(
          runtime->Charge((a.items().size() + b.items().size()) * sizeof(Value)));
      std::vector<Value> items = a.items();
      items.insert(items.end(), b.items().begin(), b.items().end());
      return Value::MakeSequence(a.sequence().kind, std::move(items));
    }
  }
  if (op == "*") {
    const auto repeats = [](const Value& x, const Value& y) {
      return (x.is_string() || IsListOrTuple(x)) && (y.is_int() || y.is_bool());
    };
    if (repeats(a, b)) return Repeat(runtime, a, b.AsInt());
    if (repeats(b, a)) return Repeat(runtime, b, a.AsInt());
  }
  if (op == "%" && a.is_string()) {
    return absl::InvalidArgumentError("formatting with % on a string is not supported");
  }
  return UnsupportedOperands(op, a, b);
}

StatusOr<Value> ReplaceBounded(Runtime* runtime, const std::string& text, const std::string& from,
                               const std::string& to, int64_t count) {
  STERNA_RETURN_IF_ERROR(runtime->Charge(text.size()));
  // How large the result gets is known before anything is built.
  size_t places = from.empty() ? CodePointCount(text) + 1 : 0;
  for (size_t at = 0; !from.empty() && (at = FindText(text, from, at)) != std::string::npos;) {
    ++places;
    at += from.size();
  }
  if (places > 0 && to.size() > kMaxStringBytes / places) {
    return absl::ResourceExhaustedError("the chat template makes a text that is too large");
  }
  return runtime->MakeString(Replace(text, from, to, count));
}

StatusOr<Value> Negate(const Value& value) {
  if (value.is_float()) return Value::Float(-value.float_value());
  if (value.is_number()) return IntegerBinary("-", 0, value.AsInt());
  if (value.is_undefined()) return UndefinedError(value);
  return absl::InvalidArgumentError(
      absl::StrCat("bad operand type for unary -: '", TypeName(value), "'"));
}

}  // namespace sterna::jinja
