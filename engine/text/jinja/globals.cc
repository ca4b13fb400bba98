// The functions every template may call, and how calls take their arguments.
#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/print.h"

namespace sterna::jinja {
namespace {

StatusOr<Value> Range(Runtime* runtime, const Arguments& arguments) {
  const std::vector<Value>& bounds = arguments.positional;
  if (!arguments.named.empty() || bounds.empty() || bounds.size() > 3) {
    return absl::InvalidArgumentError("range() takes one to three integers");
  }
  for (const Value& bound : bounds) {
    if (!bound.is_int() && !bound.is_bool()) {
      return absl::InvalidArgumentError(
          absl::StrCat("range() takes integers, not '", TypeName(bound), "'"));
    }
  }
  const int64_t begin = bounds.size() > 1 ? bounds[0].AsInt() : 0;
  const int64_t end = bounds.size() > 1 ? bounds[1].AsInt() : bounds[0].AsInt();
  const int64_t step = bounds.size() > 2 ? bounds[2].AsInt() : 1;
  if (step == 0) return absl::InvalidArgumentError("range() takes no step of zero");
  std::vector<Value> items;
  int64_t at = begin;
  while (step > 0 ? at < end : at > end) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      return absl::ResourceExhaustedError(
          absl::StrCat("range() is longer than ", kMaxRange, " items"));
    }
    items.push_back(Value::Int(at));
    if (__builtin_add_overflow(at, step, &at)) break;
  }
  STERNA_RETURN_IF_ERROR(runtime->Charge(items.size() * sizeof(Value)));
  std::string shown = absl::StrCat("range(", begin, ", ", end);
  if (step != 1) absl::StrAppend(&shown, ", ", step);
  return Value::MakeSequence(SequenceKind::kRange, std::move(items), shown + ")");
}

// The entries of a first argument that is a dict, then the named arguments.
StatusOr<std::vector<std::pair<Value, Value>>> DictEntries(Runtime* runtime, const char* what,
                                                           const Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1 ||
      (arguments.positional.size() == 1 && !arguments.positional[0].is_dict())) {
    return absl::InvalidArgumentError(
        absl::StrCat(what,
                     " takes one dict and named arguments; other arguments are not "
                     "supported"));
  }
  if (!arguments.positional.empty()) entries = arguments.positional[0].dict().entries;
  for (const auto& [name, value] : arguments.named)
    entries.emplace_back(Value::String(name), value);
  STERNA_RETURN_IF_ERROR(runtime->ChargeEntries(entries));
  return entries;
}

StatusOr<Value> MakeDict(Runtime* runtime, const Arguments& arguments) {
  STERNA_ASSIGN_OR_RETURN(auto entries, DictEntries(runtime, "dict()", arguments));
  return Value::MakeDict(std::move(entries));
}

StatusOr<Value> MakeNamespace(Runtime* runtime, const Arguments& arguments) {
  STERNA_ASSIGN_OR_RETURN(auto entries, DictEntries(runtime, "namespace()", arguments));
  STERNA_RETURN_IF_ERROR(runtime->Charge(kObjectBytes));
  Namespace* result = runtime->NewNamespace();
  for (auto& [name, value] : entries) {
    if (!name.is_string() || name.string().starts_with('_')) {
      return absl::InvalidArgumentError(
          absl::StrCat("a namespace cannot have an attribute called ", Repr(name)));
    }
    result->attributes[name.string()] = std::move(value);
  }
  return Value::FromNamespace(result);
}

StatusOr<Value> RaiseException(Runtime* runtime, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("raise_exception()", {"message"}));
  const Value* message = arguments.Find(0, "message");
  if (message == nullptr) return absl::InvalidArgumentError("raise_exception() needs a message");
  runtime->SetRaised();
  return absl::InvalidArgumentError(Str(*message));
}

// datetime.now().strftime(format) of a clock in UTC, which has no name of a time zone.
StatusOr<Value> StrftimeNow(Runtime* runtime, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("strftime_now()", {"format"}));
  const Value* format = arguments.Find(0, "format");
  if (format == nullptr || !format->is_string()) {
    return absl::InvalidArgumentError("strftime_now() needs a format");
  }
  const std::time_t now = runtime->now_unix_seconds();
  std::tm utc{};
  if (gmtime_r(&now, &utc) == nullptr) {
    return absl::InvalidArgumentError("strftime_now(): the clock is beyond the calendar");
  }
  std::string result;
  const std::string& text = format->string();
  STERNA_RETURN_IF_ERROR(runtime->Charge(text.size()));
  for (size_t i = 0; i < text.size(); ++i) {
    if (result.size() > kMaxStringBytes) break;  // MakeString refuses it
    if (text[i] != '%' || i + 1 == text.size()) {
      result += text[i];
      continue;
    }
    std::string directive = "%";
    if (text[i + 1] == '-' && i + 2 < text.size()) directive += text[++i];  // no padding
    directive += text[++i];
    if (directive.back() == 'Z' || directive.back() == 'z') continue;
    if (directive.back() == 'f') {
      result += "000000";  // the clock has whole seconds
      continue;
    }
    char buffer[128];
    result.append(buffer, std::strftime(buffer, sizeof(buffer), directive.c_str(), &utc));
  }
  return runtime->MakeString(std::move(result));
}

}  // namespace

const Value* Arguments::Find(size_t index, std::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [given, value] : named) {
    if (given == name) return &value;
  }
  return nullptr;
}

Status Arguments::Check(const std::string& what,
                        std::initializer_list<std::string_view> names) const {
  if (positional.size() > names.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " takes at most ", names.size(), " arguments, not ", positional.size()));
  }
  for (const auto& [given, value] : named) {
    if (std::find(names.begin(), names.end(), given) == names.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(what, " has no argument called '", given, "'"));
    }
  }
  return absl::OkStatus();
}

std::vector<std::pair<std::string, Value>> GlobalFunctions() {
  std::vector<std::pair<std::string, Value>> result;
  const auto add = [&](std::string name, StatusOr<Value> (*call)(Runtime*, const Arguments&)) {
    auto callable = std::make_shared<Callable>();
    callable->name = name;
    callable->call = call;
    result.emplace_back(std::move(name), Value::FromCallable(std::move(callable)));
  };
  add("range", Range);
  add("dict", MakeDict);
  add("namespace", MakeNamespace);
  add("raise_exception", RaiseException);
  add("strftime_now", StrftimeNow);
  return result;
}

}  // namespace sterna::jinja
