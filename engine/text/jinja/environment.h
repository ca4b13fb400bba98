// What a running template reaches beside plain values: namespaces, callables, the loop variable,
// and the budget that bounds its work.
//
// Thread contract: one Runtime per render, used by one thread.
#ifndef STERNA_ENGINE_TEXT_JINJA_ENVIRONMENT_H_
#define STERNA_ENGINE_TEXT_JINJA_ENVIRONMENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/text/jinja/value.h"

namespace sterna::jinja {

// The arguments of a call, in order.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at `index` or called `name`; null when absent.
  const Value* Find(size_t index, std::string_view name) const;
  // InvalidArgument when there are more positional ones than names, or a named one that is not
  // among `names`. `what` is the callee, for the error.
  Status Check(const std::string& what, std::initializer_list<std::string_view> names) const;
};

struct Namespace {
  std::map<std::string, Value, std::less<>> attributes;
};

class Runtime;

struct Callable {
  std::string name;  // how errors and printing call it
  bool is_macro = false;
  std::function<StatusOr<Value>(Runtime*, const Arguments&)> call;
};

struct LoopState {
  std::vector<Value> items;
  size_t index = 0;
  std::vector<Value> last_changed;  // what loop.changed() saw last
  bool changed_called = false;
};

// About what one more string, scope, namespace or entry of a dict takes on the heap.
inline constexpr size_t kObjectBytes = 128;

// Bounds of one render. They are far above what conversations need, and low enough that a hostile
// template ends within seconds.
inline constexpr size_t kMaxStringBytes = 16 << 20;
inline constexpr int64_t kMaxSteps = 5'000'000;
inline constexpr int kMaxEvalDepth = 600;
inline constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox has the same

class Runtime {
 public:
  explicit Runtime(int64_t now_unix_seconds) : now_unix_seconds_(now_unix_seconds) {}

  int64_t now_unix_seconds() const { return now_unix_seconds_; }

  // Accounts for work: `bytes` of text or items touched, or kept in memory: what is allocated is
  // bounded by what is charged. ResourceExhausted once the budget is spent.
  Status Charge(size_t bytes = 0) {
    steps_ += 1 + static_cast<int64_t>(bytes / 64);
    if (steps_ <= kMaxSteps) return absl::OkStatus();
    return absl::ResourceExhaustedError("the chat template does more work than is allowed");
  }

  // The same for text whose characters are looked at one by one, which takes longer than copying.
  Status ChargeCharacters(size_t bytes) { return Charge(8 * bytes); }

  // For making a dict or namespace of `entries`: each takes about 128 bytes and its key.
  Status ChargeEntries(const std::vector<std::pair<Value, Value>>& entries);

  // A string the template made: charged, and refused above kMaxStringBytes.
  StatusOr<Value> MakeString(std::string text, bool safe = false);

  Namespace* NewNamespace() {
    return namespaces_.emplace_back(std::make_unique<Namespace>()).get();
  }

  // Notes that the template itself raised an error, whose message is then passed on as it is.
  void SetRaised() { raised_ = true; }
  bool raised() const { return raised_; }

  // Levels of evaluation on the C++ stack.
  Status EnterLevel() {
    if (++level_ <= kMaxEvalDepth) return absl::OkStatus();
    return absl::ResourceExhaustedError("the chat template is nested or recurses too deeply");
  }
  void LeaveLevel() { --level_; }

 private:
  int64_t now_unix_seconds_;
  int64_t steps_ = 0;
  int level_ = 0;
  bool raised_ = false;
  std::vector<std::unique_ptr<Namespace>> namespaces_;
};

// Python's operators and protocols.
StatusOr<Value> GetAttribute(const Value& object, const std::string& name);        // object.name
StatusOr<Value> GetItem(Runtime* runtime, const Value& object, const Value& key);  // object[key]
// object[begin:end:step]; none where left out.
StatusOr<Value> GetSlice(Runtime* runtime, const Value& object, const Value& begin,
                         const Value& end, const Value& step);
StatusOr<bool> Contains(const Value& container, const Value& item);
// The items a for loop sees.
StatusOr<std::vector<Value>> Iterate(Runtime* runtime, const Value& value);
StatusOr<size_t> Length(const Value& value);
StatusOr<Value> Binary(Runtime* runtime, const std::string& op, const Value& a, const Value& b);
StatusOr<Value> Negate(const Value& value);
// str.replace; what would grow past kMaxStringBytes is refused before it does.
StatusOr<Value> ReplaceBounded(Runtime* runtime, const std::string& text, const std::string& from,
                               const std::string& to, int64_t count);

// Methods of strings, dicts and lists; undefined when the type has none of that name, an error when
// Python has it but this subset lacks it or the sandbox forbids it.
StatusOr<Value> BoundMethod(const Value& object, const std::string& name);

// Filters and tests by name.
bool IsFilter(std::string_view name);
StatusOr<Value> CallFilter(Runtime* runtime, const std::string& name, const Value& value,
                           const Arguments& arguments);
bool IsTest(std::string_view name);
StatusOr<bool> CallTest(Runtime* runtime, const std::string& name, const Value& value,
                        const Arguments& arguments);

// range, dict, namespace, raise_exception, strftime_now.
std::vector<std::pair<std::string, Value>> GlobalFunctions();

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_ENVIRONMENT_H_
