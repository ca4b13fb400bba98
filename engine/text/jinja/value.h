// The values a template computes with: Python's, as far as chat templates use them.
//
// Values are immutable and cheap to copy (containers and strings are shared); only namespaces
// change, and those belong to the render they were made in. Nesting is bounded (kMaxValueDepth), so
// that recursion over a value never runs out of stack; so is the size of a value written out
// (kMaxValueWeight), which sharing would else let grow exponentially.
// Thread contract: a value may be read from any thread; namespaces by their render's thread alone.
#ifndef STERNA_ENGINE_TEXT_JINJA_VALUE_H_
#define STERNA_ENGINE_TEXT_JINJA_VALUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/status.h"

namespace sterna::jinja {

class Value;
struct Dict;
struct Namespace;  // belongs to a render, see environment.h
struct Callable;   // a macro, a global function or a bound method; see environment.h
struct LoopState;  // the variable `loop`; see environment.h

inline constexpr int kMaxValueDepth = 200;
inline constexpr size_t kMaxValueWeight = 16 << 20;

// The sequences differ in what Python lets one do with them, not in what they hold.
enum class SequenceKind {
  kList,
  kTuple,
  kRange,      // prints as range(a, b)
  kView,       // dict.items() and the like: no subscripts
  kGenerator,  // map(), select(), ...: no length, always true
};

struct Sequence {
  SequenceKind kind;
  std::vector<Value> items;
  int depth;              // levels of containers, this one included
  size_t weight;          // bytes of text and items in it, shared ones counted each time
  std::string type_name;  // kView: "dict_items", ...; kRange: how it prints
};

class Value {
 public:
  struct None {};
  struct Undefined {
    std::string hint;  // what is undefined, for errors: "'x' is undefined"
  };
  struct Text {
    std::shared_ptr<const std::string> text;  // UTF-8
    bool safe;  // marked by |safe: `+` then HTML-escapes the other side, as markupsafe does
  };

  Value() : data_(None{}) {}
  static Value MakeUndefined(std::string hint);  // a long one is cut
  static Value Bool(bool value) { return Value(value); }
  static Value Int(int64_t value) { return Value(value); }
  static Value Float(double value) { return Value(value); }
  static Value String(std::string text, bool safe = false) {
    return Value(Text{std::make_shared<const std::string>(std::move(text)), safe});
  }
  // InvalidArgument when deeper than kMaxValueDepth or heavier than kMaxValueWeight.
  static StatusOr<Value> MakeSequence(SequenceKind kind, std::vector<Value> items,
                                      std::string type_name = "");
  static StatusOr<Value> List(std::vector<Value> items) {
    return MakeSequence(SequenceKind::kList, std::move(items));
  }
  // Later entries replace earlier ones of an equal key, in the earlier one's place. InvalidArgument
  // for a key that Python cannot hash, or nested too deep.
  static StatusOr<Value> MakeDict(std::vector<std::pair<Value, Value>>&& entries);
  static Value FromNamespace(Namespace* value) { return Value(value); }
  static Value FromCallable(std::shared_ptr<const Callable> value) {
    return Value(std::move(value));
  }
  static Value FromLoop(std::shared_ptr<LoopState> value) { return Value(std::move(value)); }

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_string() const { return std::holds_alternative<Text>(data_); }
  bool is_sequence() const { return std::holds_alternative<SequencePtr>(data_); }
  bool is_sequence(SequenceKind kind) const { return is_sequence() && sequence().kind == kind; }
  bool is_dict() const { return std::holds_alternative<DictPtr>(data_); }
  bool is_namespace() const { return std::holds_alternative<Namespace*>(data_); }
  bool is_callable() const { return std::holds_alternative<CallablePtr>(data_); }
  bool is_loop() const { return std::holds_alternative<LoopPtr>(data_); }
  bool is_safe() const { return is_string() && std::get<Text>(data_).safe; }

  // Each needs the matching is_...().
  bool bool_value() const { return std::get<bool>(data_); }
  int64_t int_value() const { return std::get<int64_t>(data_); }
  double float_value() const { return std::get<double>(data_); }
  const std::string& string() const { return *std::get<Text>(data_).text; }
  const std::string& hint() const { return std::get<Undefined>(data_).hint; }
  const Sequence& sequence() const { return *std::get<SequencePtr>(data_); }
  const std::vector<Value>& items() const { return sequence().items; }
  const Dict& dict() const { return *std::get<DictPtr>(data_); }
  Namespace* name_space() const { return std::get<Namespace*>(data_); }
  const Callable& callable() const { return *std::get<CallablePtr>(data_); }
  LoopState& loop() const { return *std::get<LoopPtr>(data_); }

  // A bool or int as an integer (Python's bool is one); needs is_bool() or is_int().
  int64_t AsInt() const { return is_bool() ? bool_value() : int_value(); }
  // Needs is_number().
  double AsDouble() const { return is_float() ? float_value() : static_cast<double>(AsInt()); }
  int depth() const;
  size_t weight() const;

 private:
  using SequencePtr = std::shared_ptr<const Sequence>;
  using DictPtr = std::shared_ptr<const Dict>;
  using CallablePtr = std::shared_ptr<const Callable>;
  using LoopPtr = std::shared_ptr<LoopState>;

  template <typename T>
  explicit Value(T data) : data_(std::move(data)) {}

  std::variant<Undefined, None, bool, int64_t, double, Text, SequencePtr, DictPtr, Namespace*,
               CallablePtr, LoopPtr>
      data_;
};

// A dict in insertion order.
struct Dict {
  std::vector<std::pair<Value, Value>> entries;
  std::unordered_map<std::string, size_t> index;  // by HashKey
  int depth;
  size_t weight;

  // Null when absent (or when the key cannot be hashed).
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;
};

// "str", "dict", "NoneType", ...: Python's name, for errors.
std::string TypeName(const Value& value);
bool IsTrue(const Value& value);
bool Equal(const Value& a, const Value& b);
// Negative, 0, positive as a < b, a == b, a > b. InvalidArgument for types Python cannot order.
StatusOr<int> Compare(const Value& a, const Value& b);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_VALUE_H_
