// Filters on lists and dicts.
#include <algorithm>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/text.h"

namespace sterna::jinja {
namespace {

// "a.b.0" followed from `item`; integers index. `otherwise` replaces what is undefined on the way.
StatusOr<Value> FollowPath(Runtime* runtime, Value item, const Value& path,
                           const Value* otherwise = nullptr) {
  const auto follow = [&](const Value& part) -> StatusOr<Value> {
    STERNA_ASSIGN_OR_RETURN(Value found, GetItem(runtime, item, part));
    return otherwise != nullptr && found.is_undefined() ? *otherwise : found;
  };
  if (!path.is_string()) return follow(path);
  const std::string_view text = path.string();
  size_t begin = 0;
  while (begin <= text.size()) {
    const size_t end = std::min(text.find('.', begin), text.size());
    const std::string part(text.substr(begin, end - begin));
    begin = end + 1;
    STERNA_RETURN_IF_ERROR(runtime->Charge(part.size()));
    int64_t index = 0;
    const bool is_index = !part.empty() && std::all_of(part.begin(), part.end(), [](char c) {
      return c >= '0' && c <= '9';
    }) && absl::SimpleAtoi(part, &index);
    STERNA_ASSIGN_OR_RETURN(item, follow(is_index ? Value::Int(index) : Value::String(part)));
  }
  return item;
}

// Texts in lower case unless case counts.
StatusOr<Value> SortKey(Runtime* runtime, Value value, bool case_sensitive) {
  STERNA_RETURN_IF_ERROR(runtime->ChargeCharacters(value.is_string() ? value.weight() : 0));
  if (case_sensitive || !value.is_string()) return value;
  return Value::String(Lower(value.string()));
}

// map, select and their kin take what is false (none, 0) for empty.
StatusOr<std::vector<Value>> IterateIfTrue(Runtime* runtime, const Value& value) {
  if (!IsTrue(value)) return std::vector<Value>();
  return Iterate(runtime, value);
}

StatusOr<Value> LengthFilter(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("length", {}));
  STERNA_ASSIGN_OR_RETURN(const size_t length, Length(value));
  return Value::Int(static_cast<int64_t>(length));
}

StatusOr<Value> First(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("first", {}));
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, value));
  return items.empty() ? Value::MakeUndefined("the sequence was empty: no first item")
                       : items.front();
}

StatusOr<Value> Last(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("last", {}));
  if (value.is_sequence(SequenceKind::kGenerator)) {
    return absl::InvalidArgumentError("last: a generator cannot be reversed; use |list first");
  }
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, value));
  return items.empty() ? Value::MakeUndefined("the sequence was empty: no last item")
                       : items.back();
}

StatusOr<Value> Join(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("join", {"d", "attribute"}));
  const Value* separator = arguments.Find(0, "d");
  const std::string between = separator != nullptr ? Str(*separator) : "";
  const Value* attribute = arguments.Find(1, "attribute");
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, value));
  std::string joined;
  for (size_t i = 0; i < items.size(); ++i) {
    Value item = items[i];
    if (attribute != nullptr && !attribute->is_none()) {
      STERNA_ASSIGN_OR_RETURN(item, FollowPath(runtime, std::move(item), *attribute));
    }
    STERNA_RETURN_IF_ERROR(runtime->Charge(between.size() + item.weight()));
    if (i > 0) joined += between;
    joined += Str(item);
    if (joined.size() > kMaxStringBytes) break;  // MakeString refuses it
  }
  return runtime->MakeString(std::move(joined));
}

StatusOr<Value> Map(Runtime* runtime, const Value& value, const Arguments& arguments) {
  std::vector<Value> results;
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, IterateIfTrue(runtime, value));
  const Value* attribute = arguments.Find(SIZE_MAX, "attribute");
  const Value* given = arguments.Find(SIZE_MAX, "default");
  const Value* otherwise = given != nullptr && !given->is_none() ? given : nullptr;
  const bool by_attribute = arguments.positional.empty() && attribute != nullptr;
  if (!by_attribute &&
      (arguments.positional.empty() || !arguments.positional.front().is_string())) {
    return absl::InvalidArgumentError("map needs a filter's name or attribute=");
  }
  Arguments rest;
  if (!by_attribute) {
    rest = arguments;
    rest.positional.erase(rest.positional.begin());
  }
  for (const Value& item : items) {
    StatusOr<Value> result =
        by_attribute ? FollowPath(runtime, item, *attribute, otherwise)
                     : CallFilter(runtime, arguments.positional.front().string(), item, rest);
    if (!result.ok()) return result.status();
    results.push_back(*std::move(result));
  }
  return Value::MakeSequence(SequenceKind::kGenerator, std::move(results));
}

// select, reject, selectattr and rejectattr: the items for which the test (of an attribute) gives
// `kKeep`; without a test, their truth.
template <bool kKeep, bool kByAttribute>
StatusOr<Value> Select(Runtime* runtime, const Value& value, const Arguments& arguments) {
  std::vector<Value> kept;
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, IterateIfTrue(runtime, value));
  const size_t test_index = kByAttribute ? 1 : 0;
  if (arguments.positional.size() < test_index) {
    return absl::InvalidArgumentError("the filter needs an attribute's name");
  }
  Arguments rest;
  const bool has_test = arguments.positional.size() > test_index;
  if (has_test) {
    rest = arguments;
    rest.positional.erase(rest.positional.begin(), rest.positional.begin() + test_index + 1);
  }
  for (const Value& item : items) {
    Value subject = item;
    if (kByAttribute) {
      STERNA_ASSIGN_OR_RETURN(subject, FollowPath(runtime, item, arguments.positional.front()));
    }
    bool holds = IsTrue(subject);
    if (has_test) {
      STERNA_ASSIGN_OR_RETURN(
          holds, CallTest(runtime, Str(arguments.positional[test_index]), subject, rest));
    }
    if (holds == kKeep) kept.push_back(item);
  }
  return Value::MakeSequence(SequenceKind::kGenerator, std::move(kept));
}

StatusOr<Value> ToList(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("list", {}));
  STERNA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(runtime, value));
  return Value::List(std::move(items));
}

StatusOr<Value> Items(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("items", {}));
  std::vector<Value> items;
  if (!value.is_undefined() && !value.is_dict()) {
    return absl::InvalidArgumentError("items needs a mapping, not '" + TypeName(value) + "'");
  }
  if (value.is_dict()) {
    STERNA_RETURN_IF_ERROR(runtime->Charge(value.dict().entries.size() * sizeof(Value)));
    for (const auto& [key, entry] : value.dict().entries) {
      STERNA_ASSIGN_OR_RETURN(Value item, Value::MakeSequence(SequenceKind::kTuple, {key, entry}));
      items.push_back(std::move(item));
    }
  }
  return Value::MakeSequence(SequenceKind::kGenerator, std::move(items));
}

StatusOr<Value> Reverse(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("reverse", {}));
  if (value.is_string()) {
    std::u32string text = ToCodePoints(value.string());
    std::reverse(text.begin(), text.end());
    return runtime->MakeString(FromCodePoints(text));
  }
  STERNA_ASSIGN_OR_RETURN(std::vector<Value> items, Iterate(runtime, value));
  std::reverse(items.begin(), items.end());
  return Value::MakeSequence(SequenceKind::kGenerator, std::move(items));
}

// Sorts items by their keys, stably; an error when two keys cannot be compared.
StatusOr<std::vector<Value>> SortBy(Runtime* runtime, std::vector<std::pair<Value, Value>> keyed,
                                    bool descending) {
  Status status;
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    if (!status.ok()) return false;
    status = runtime->Charge(a.first.weight() + b.first.weight());
    const StatusOr<int> order = Compare(a.first, b.first);
    if (!order.ok()) status = order.status();
    return status.ok() && (descending ? *order > 0 : *order < 0);
  });
  STERNA_RETURN_IF_ERROR(status);
  std::vector<Value> items;
  for (auto& [key, item] : keyed) items.push_back(std::move(item));
  return items;
}

StatusOr<Value> Sort(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("sort", {"reverse", "case_sensitive", "attribute"}));
  const bool case_sensitive = FlagArgument(arguments, 1, "case_sensitive", false);
  const Value* attribute = arguments.Find(2, "attribute");
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, value));
  std::vector<std::string> paths;
  if (attribute != nullptr && !attribute->is_none()) {
    STERNA_RETURN_IF_ERROR(runtime->Charge(attribute->weight() * sizeof(std::string)));
    paths = Split(Str(*attribute), ",", -1, false);
  }
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) {
    std::vector<Value> key;
    if (paths.empty()) {
      STERNA_ASSIGN_OR_RETURN(Value part, SortKey(runtime, item, case_sensitive));
      key.push_back(std::move(part));
    }
    for (const std::string& path : paths) {
      STERNA_ASSIGN_OR_RETURN(Value part, FollowPath(runtime, item, Value::String(path)));
      STERNA_ASSIGN_OR_RETURN(part, SortKey(runtime, std::move(part), case_sensitive));
      key.push_back(std::move(part));
    }
    STERNA_ASSIGN_OR_RETURN(Value key_value, Value::List(std::move(key)));
    keyed.emplace_back(std::move(key_value), item);
  }
  STERNA_ASSIGN_OR_RETURN(
      std::vector<Value> sorted,
      SortBy(runtime, std::move(keyed), FlagArgument(arguments, 0, "reverse", false)));
  return Value::List(std::move(sorted));
}

StatusOr<Value> DictSort(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("dictsort", {"case_sensitive", "by", "reverse"}));
  if (!value.is_dict()) {
    return absl::InvalidArgumentError("dictsort needs a mapping, not '" + TypeName(value) + "'");
  }
  const Value* by = arguments.Find(1, "by");
  const std::string part = by != nullptr ? Str(*by) : "key";
  if (part != "key" && part != "value") {
    return absl::InvalidArgumentError("dictsort: by must be key or value");
  }
  const bool case_sensitive = FlagArgument(arguments, 0, "case_sensitive", false);
  std::vector<std::pair<Value, Value>> keyed;
  STERNA_RETURN_IF_ERROR(runtime->Charge(value.weight()));
  for (const auto& [key, entry] : value.dict().entries) {
    STERNA_ASSIGN_OR_RETURN(Value item, Value::MakeSequence(SequenceKind::kTuple, {key, entry}));
    STERNA_ASSIGN_OR_RETURN(Value sort_key,
                            SortKey(runtime, part == "key" ? key : entry, case_sensitive));
    keyed.emplace_back(std::move(sort_key), std::move(item));
  }
  STERNA_ASSIGN_OR_RETURN(
      std::vector<Value> sorted,
      SortBy(runtime, std::move(keyed), FlagArgument(arguments, 2, "reverse", false)));
  return Value::List(std::move(sorted));
}

StatusOr<Value> Unique(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("unique", {"case_sensitive", "attribute"}));
  const bool case_sensitive = FlagArgument(arguments, 0, "case_sensitive", false);
  const Value* attribute = arguments.Find(1, "attribute");
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, value));
  // A dict's keys are what Python's set would hold; building it finds the firsts in linear time.
  std::vector<std::pair<Value, Value>> keyed;
  for (size_t i = items.size(); i-- > 0;) {
    Value key = items[i];
    if (attribute != nullptr && !attribute->is_none()) {
      STERNA_ASSIGN_OR_RETURN(key, FollowPath(runtime, std::move(key), *attribute));
    }
    STERNA_RETURN_IF_ERROR(runtime->Charge(key.weight()));
    STERNA_ASSIGN_OR_RETURN(key, SortKey(runtime, std::move(key), case_sensitive));
    keyed.emplace_back(std::move(key), Value::Int(static_cast<int64_t>(i)));
  }
  STERNA_ASSIGN_OR_RETURN(const Value firsts, Value::MakeDict(std::move(keyed)));
  std::set<int64_t> kept;
  for (const auto& [key, index] : firsts.dict().entries) kept.insert(index.int_value());
  std::vector<Value> results;
  for (const int64_t index : kept) results.push_back(items[static_cast<size_t>(index)]);
  return Value::MakeSequence(SequenceKind::kGenerator, std::move(results));
}

StatusOr<Value> Sum(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("sum", {"attribute", "start"}));
  const Value* attribute = arguments.Find(0, "attribute");
  const Value* start = arguments.Find(1, "start");
  Value total = start != nullptr ? *start : Value::Int(0);
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, value));
  for (Value item : items) {
    if (attribute != nullptr && !attribute->is_none()) {
      STERNA_ASSIGN_OR_RETURN(item, FollowPath(runtime, std::move(item), *attribute));
    }
    STERNA_ASSIGN_OR_RETURN(total, Binary(runtime, "+", total, item));
  }
  return total;
}

// min and max: the first of the extremes.
template <bool kMax>
StatusOr<Value> Extreme(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("min or max", {"case_sensitive", "attribute"}));
  const bool case_sensitive = FlagArgument(arguments, 0, "case_sensitive", false);
  const Value* attribute = arguments.Find(1, "attribute");
  STERNA_ASSIGN_OR_RETURN(const std::vector<Value> items, Iterate(runtime, value));
  if (items.empty()) return Value::MakeUndefined("the sequence was empty: no extreme item");
  std::optional<Value> best_key;
  Value best;
  for (const Value& item : items) {
    Value key = item;
    if (attribute != nullptr && !attribute->is_none()) {
      STERNA_ASSIGN_OR_RETURN(key, FollowPath(runtime, std::move(key), *attribute));
    }
    STERNA_RETURN_IF_ERROR(runtime->Charge(key.weight()));
    STERNA_ASSIGN_OR_RETURN(key, SortKey(runtime, std::move(key), case_sensitive));
    int order = kMax ? 1 : -1;
    if (best_key) {
      STERNA_ASSIGN_OR_RETURN(order, Compare(key, *best_key));
    }
    if (kMax ? order > 0 : order < 0) {
      best_key = key;
      best = item;
    }
  }
  return best;
}

StatusOr<Value> Attribute(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("attr", {"name"}));
  const Value* name = arguments.Find(0, "name");
  if (name == nullptr || !name->is_string()) {
    return absl::InvalidArgumentError("attr needs a name");
  }
  // Unlike a dot, this filter does not look into mappings.
  if (value.is_dict()) return BoundMethod(value, name->string());
  STERNA_RETURN_IF_ERROR(runtime->Charge());
  return GetAttribute(value, name->string());
}

}  // namespace

const FilterTable& SequenceFilters() {
  static const FilterTable* const kTable = new FilterTable{
      {"length", LengthFilter},
      {"count", LengthFilter},
      {"first", First},
      {"last", Last},
      {"join", Join},
      {"map", Map},
      {"select", Select<true, false>},
      {"reject", Select<false, false>},
      {"selectattr", Select<true, true>},
      {"rejectattr", Select<false, true>},
      {"list", ToList},
      {"items", Items},
      {"reverse", Reverse},
      {"sort", Sort},
      {"dictsort", DictSort},
      {"unique", Unique},
      {"sum", Sum},
      {"min", Extreme<false>},
      {"max", Extreme<true>},
      {"attr", Attribute},
  };
  return *kTable;
}

}  // namespace sterna::jinja
