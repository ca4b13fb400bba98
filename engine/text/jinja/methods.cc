// Methods of strings, dicts, lists and the loop variable.
#include <algorithm>
#include <array>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/text.h"

namespace sterna::jinja {
namespace {

using Method = StatusOr<Value> (*)(Runtime*, const Value& self, const Arguments&);
using MethodTable = std::map<std::string, Method, std::less<>>;

StatusOr<std::string> TextArgument(const Arguments& arguments, size_t index, const char* name) {
  const Value* value = arguments.Find(index, name);
  if (value != nullptr && value->is_string()) return value->string();
  return absl::InvalidArgumentError(
      absl::StrCat("argument ", index + 1, " (", name, ") must be a string, not '",
                   value == nullptr ? "missing" : TypeName(*value), "'"));
}

// `otherwise` when absent.
StatusOr<int64_t> IntArgument(const Arguments& arguments, size_t index, const char* name,
                              int64_t otherwise) {
  const Value* value = arguments.Find(index, name);
  if (value == nullptr) return otherwise;
  if (value->is_int() || value->is_bool()) return value->AsInt();
  return absl::InvalidArgumentError(absl::StrCat(
      "argument ", index + 1, " (", name, ") must be an integer, not '", TypeName(*value), "'"));
}

template <bool kLeft, bool kRight>
StatusOr<Value> StripMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("strip()", {"chars"}));
  const Value* chars = arguments.Find(0, "chars");
  std::optional<std::string_view> set;
  std::string held;
  if (chars != nullptr && !chars->is_none()) {
    STERNA_ASSIGN_OR_RETURN(held, TextArgument(arguments, 0, "chars"));
    set = held;
  }
  const std::string_view stripped = Strip(self.string(), set, kLeft, kRight);
  STERNA_RETURN_IF_ERROR(
      runtime->ChargeCharacters(self.string().size() - stripped.size() + held.size()));
  return runtime->MakeString(std::string(stripped));
}

StatusOr<Value> StringList(Runtime* runtime, std::vector<std::string> parts) {
  STERNA_RETURN_IF_ERROR(runtime->Charge(parts.size() * kObjectBytes));
  std::vector<Value> items;
  for (std::string& part : parts) {
    STERNA_ASSIGN_OR_RETURN(Value item, runtime->MakeString(std::move(part)));
    items.push_back(std::move(item));
  }
  return Value::List(std::move(items));
}

template <bool kFromRight>
StatusOr<Value> SplitMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("split()", {"sep", "maxsplit"}));
  STERNA_ASSIGN_OR_RETURN(const int64_t max_splits, IntArgument(arguments, 1, "maxsplit", -1));
  const Value* separator = arguments.Find(0, "sep");
  std::optional<std::string_view> view;
  std::string held;
  if (separator != nullptr && !separator->is_none()) {
    STERNA_ASSIGN_OR_RETURN(held, TextArgument(arguments, 0, "sep"));
    if (held.empty()) return absl::InvalidArgumentError("empty separator");
    view = held;
  }
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.string().size()));
  return StringList(runtime, Split(self.string(), view, max_splits, kFromRight));
}

StatusOr<Value> SplitLinesMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("splitlines()", {"keepends"}));
  const Value* keep = arguments.Find(0, "keepends");
  return StringList(runtime, SplitLines(self.string(), keep != nullptr && IsTrue(*keep)));
}

// A string, or a tuple of which one fits.
template <bool kAtEnd>
StatusOr<Value> AffixMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check(kAtEnd ? "endswith()" : "startswith()", {"affix"}));
  const auto fits = [&](const Value& affix) {
    return affix.is_string() && (kAtEnd ? self.string().ends_with(affix.string())
                                        : self.string().starts_with(affix.string()));
  };
  const Value* affix = arguments.Find(0, "affix");
  STERNA_RETURN_IF_ERROR(runtime->Charge(affix != nullptr ? affix->weight() : 0));
  if (affix != nullptr && affix->is_sequence(SequenceKind::kTuple)) {
    return Value::Bool(std::any_of(affix->items().begin(), affix->items().end(), fits));
  }
  STERNA_RETURN_IF_ERROR(TextArgument(arguments, 0, "affix").status());
  return Value::Bool(fits(*affix));
}

template <std::string (*kChange)(std::string_view)>
StatusOr<Value> CaseMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("the method", {}));
  return runtime->MakeString(kChange(self.string()));
}

StatusOr<Value> ReplaceMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("replace()", {"old", "new", "count"}));
  STERNA_ASSIGN_OR_RETURN(const std::string from, TextArgument(arguments, 0, "old"));
  STERNA_ASSIGN_OR_RETURN(const std::string to, TextArgument(arguments, 1, "new"));
  STERNA_ASSIGN_OR_RETURN(const int64_t count, IntArgument(arguments, 2, "count", -1));
  return ReplaceBounded(runtime, self.string(), from, to, count);
}

StatusOr<Value> JoinMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("join()", {"iterable"}));
  const Value* iterable = arguments.Find(0, "iterable");
  if (iterable == nullptr) return absl::InvalidArgumentError("join() needs an argument");
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, *iterable));
  std::string joined;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!items[i].is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat("join(): item ", i, " is no string but '", TypeName(items[i]), "'"));
    }
    STERNA_RETURN_IF_ERROR(runtime->Charge(self.string().size() + items[i].string().size()));
    if (i > 0) joined += self.string();
    joined += items[i].string();
    if (joined.size() > kMaxStringBytes) break;  // MakeString refuses it
  }
  return runtime->MakeString(std::move(joined));
}

template <bool kFromRight>
StatusOr<Value> FindMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("find()", {"sub"}));
  STERNA_ASSIGN_OR_RETURN(const std::string sub, TextArgument(arguments, 0, "sub"));
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.string().size()));
  const size_t found = kFromRight ? FindLastText(self.string(), sub) : FindText(self.string(), sub);
  if (found == std::string::npos) return Value::Int(-1);
  return Value::Int(static_cast<int64_t>(CodePointCount(self.string().substr(0, found))));
}

StatusOr<Value> CountMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("count()", {"sub"}));
  STERNA_ASSIGN_OR_RETURN(const std::string sub, TextArgument(arguments, 0, "sub"));
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.string().size()));
  if (sub.empty()) return Value::Int(static_cast<int64_t>(CodePointCount(self.string()) + 1));
  int64_t count = 0;
  for (size_t at = 0; (at = FindText(self.string(), sub, at)) != std::string::npos;
       at += sub.size()) {
    ++count;
  }
  return Value::Int(count);
}

template <bool kAtEnd>
StatusOr<Value> RemoveAffixMethod(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("removeprefix()", {"affix"}));
  STERNA_ASSIGN_OR_RETURN(const std::string affix, TextArgument(arguments, 0, "affix"));
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.string().size()));
  std::string text = self.string();
  if (kAtEnd && text.ends_with(affix)) text.resize(text.size() - affix.size());
  if (!kAtEnd && text.starts_with(affix)) text.erase(0, affix.size());
  return runtime->MakeString(std::move(text));
}

template <bool (*kHolds)(char32_t)>
StatusOr<Value> EachCharacterMethod(Runtime* runtime, const Value& self,
                                    const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("the method", {}));
  STERNA_RETURN_IF_ERROR(runtime->ChargeCharacters(self.string().size()));
  const std::u32string text = ToCodePoints(self.string());
  return Value::Bool(!text.empty() && std::all_of(text.begin(), text.end(), kHolds));
}

StatusOr<Value> DictGet(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("get()", {"key", "default"}));
  const Value* key = arguments.Find(0, "key");
  if (key == nullptr) return absl::InvalidArgumentError("get() needs a key");
  STERNA_RETURN_IF_ERROR(runtime->Charge(key->weight()));
  if (const Value* found = self.dict().Find(*key)) return *found;
  const Value* otherwise = arguments.Find(1, "default");
  return otherwise != nullptr ? *otherwise : Value();
}

StatusOr<Value> DictItems(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("items()", {}));
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.dict().entries.size() * sizeof(Value)));
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) {
    STERNA_ASSIGN_OR_RETURN(Value item, Value::MakeSequence(SequenceKind::kTuple, {key, value}));
    items.push_back(std::move(item));
  }
  return Value::MakeSequence(SequenceKind::kView, std::move(items), "dict_items");
}

template <bool kKeys>
StatusOr<Value> DictView(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check(kKeys ? "keys()" : "values()", {}));
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.dict().entries.size() * sizeof(Value)));
  std::vector<Value> items;
  for (const auto& [key, value] : self.dict().entries) items.push_back(kKeys ? key : value);
  return Value::MakeSequence(SequenceKind::kView, std::move(items),
                             kKeys ? "dict_keys" : "dict_values");
}

StatusOr<Value> Copy(Runtime*, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("copy()", {}));
  return self;  // values never change
}

StatusOr<Value> ListIndex(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("index()", {"value"}));
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.weight()));
  const Value* wanted = arguments.Find(0, "value");
  for (size_t i = 0; wanted != nullptr && i < self.items().size(); ++i) {
    if (Equal(self.items()[i], *wanted)) return Value::Int(static_cast<int64_t>(i));
  }
  return absl::InvalidArgumentError("index(): the value is not in the list");
}

StatusOr<Value> ListCount(Runtime* runtime, const Value& self, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("count()", {"value"}));
  STERNA_RETURN_IF_ERROR(runtime->Charge(self.weight()));
  const Value* wanted = arguments.Find(0, "value");
  if (wanted == nullptr) return absl::InvalidArgumentError("count() needs a value");
  return Value::Int(std::count_if(self.items().begin(), self.items().end(),
                                  [&](const Value& item) { return Equal(item, *wanted); }));
}

StatusOr<Value> LoopCycle(Runtime*, const Value& self, const Arguments& arguments) {
  if (arguments.positional.empty()) return absl::InvalidArgumentError("no items for cycling given");
  return arguments.positional[self.loop().index % arguments.positional.size()];
}

StatusOr<Value> LoopChanged(Runtime* runtime, const Value& self, const Arguments& arguments) {
  for (const Value& value : arguments.positional) {
    STERNA_RETURN_IF_ERROR(runtime->Charge(value.weight()));
  }
  LoopState& loop = self.loop();
  const bool same = loop.changed_called &&
                    std::equal(loop.last_changed.begin(), loop.last_changed.end(),
                               arguments.positional.begin(), arguments.positional.end(), Equal);
  loop.changed_called = true;
  loop.last_changed = arguments.positional;
  return Value::Bool(!same);
}

const MethodTable& StringMethods() {
  static const MethodTable* const kTable = new MethodTable{
      {"strip", StripMethod<true, true>},
      {"lstrip", StripMethod<true, false>},
      {"rstrip", StripMethod<false, true>},
      {"split", SplitMethod<false>},
      {"rsplit", SplitMethod<true>},
      {"splitlines", SplitLinesMethod},
      {"startswith", AffixMethod<false>},
      {"endswith", AffixMethod<true>},
      {"upper", CaseMethod<Upper>},
      {"lower", CaseMethod<Lower>},
      {"title", CaseMethod<TitleMethod>},
      {"capitalize", CaseMethod<Capitalize>},
      {"replace", ReplaceMethod},
      {"join", JoinMethod},
      {"find", FindMethod<false>},
      {"rfind", FindMethod<true>},
      {"count", CountMethod},
      {"removeprefix", RemoveAffixMethod<false>},
      {"removesuffix", RemoveAffixMethod<true>},
      {"isspace", EachCharacterMethod<IsSpace>},
      {"isdigit", EachCharacterMethod<IsDigit>},
      {"isalpha", EachCharacterMethod<IsAlpha>},
      {"isalnum", EachCharacterMethod<IsAlnum>},
  };
  return *kTable;
}

const MethodTable& DictMethods() {
  static const MethodTable* const kTable = new MethodTable{
      {"get", DictGet}, {"items", DictItems}, {"keys", DictView<true>}, {"values", DictView<false>},
      {"copy", Copy},
  };
  return *kTable;
}

const MethodTable& ListMethods() {
  static const MethodTable* const kTable =
      new MethodTable{{"index", ListIndex}, {"count", ListCount}, {"copy", Copy}};
  return *kTable;
}

const MethodTable& LoopMethods() {
  static const MethodTable* const kTable =
      new MethodTable{{"cycle", LoopCycle}, {"changed", LoopChanged}};
  return *kTable;
}

// Methods Python has and this subset lacks: they must not pass for undefined.
constexpr std::array<std::string_view, 25> kOtherStringMethods = {
    "casefold", "center",    "encode",       "expandtabs", "format",    "format_map",  "index",
    "isascii",  "isdecimal", "isidentifier", "islower",    "isnumeric", "isprintable", "istitle",
    "isupper",  "ljust",     "maketrans",    "partition",  "rindex",    "rjust",       "rpartition",
    "swapcase", "translate", "zfill",        "unescape",
};
// Methods that change their object, which the sandbox of Transformers forbids.
constexpr std::array<std::string_view, 6> kDictMutators = {"clear",      "pop",    "popitem",
                                                           "setdefault", "update", "fromkeys"};
constexpr std::array<std::string_view, 8> kListMutators = {"append", "clear",  "extend",  "insert",
                                                           "pop",    "remove", "reverse", "sort"};

template <size_t kSize>
bool Has(const std::array<std::string_view, kSize>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

}  // namespace

StatusOr<Value> BoundMethod(const Value& object, const std::string& name) {
  const MethodTable* table = nullptr;
  if (object.is_string()) table = &StringMethods();
  if (object.is_dict()) table = &DictMethods();
  if (object.is_sequence(SequenceKind::kList)) table = &ListMethods();
  if (object.is_loop()) table = &LoopMethods();
  const std::string full_name = absl::StrCat(TypeName(object), ".", name);
  if (object.is_string() && Has(kOtherStringMethods, name)) {
    return absl::InvalidArgumentError("the method '" + full_name + "' is not supported");
  }
  if ((object.is_dict() && Has(kDictMutators, name)) ||
      (object.is_sequence(SequenceKind::kList) && Has(kListMutators, name))) {
    return absl::InvalidArgumentError("the method '" + full_name +
                                      "' is not allowed: values cannot be changed");
  }
  const auto it = table == nullptr ? MethodTable::const_iterator() : table->find(name);
  if (table == nullptr || it == table->end()) {
    return Value::MakeUndefined(
        absl::StrCat("'", TypeName(object), " object' has no attribute '", name, "'"));
  }
  auto callable = std::make_shared<Callable>();
  callable->name = full_name;
  callable->call = [object, method = it->second](Runtime* runtime, const Arguments& arguments) {
    return method(runtime, object, arguments);
  };
  return Value::FromCallable(std::move(callable));
}

}  // namespace sterna::jinja
