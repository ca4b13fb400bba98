// Filters on texts and numbers, and the lookup of filters by name.
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/print.h"
#include "engine/text/jinja/text.h"

namespace sterna::jinja {
namespace {

constexpr int64_t kMaxIndent = 1000;

template <std::string (*kChange)(std::string_view)>
StatusOr<Value> Change(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("the filter", {}));
  return runtime->MakeString(kChange(Str(value)));
}

StatusOr<Value> Trim(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("trim", {"chars"}));
  const Value* chars = arguments.Find(0, "chars");
  std::optional<std::string_view> set;
  if (chars != nullptr && !chars->is_none()) {
    if (!chars->is_string()) return absl::InvalidArgumentError("trim: chars must be a string");
    set = chars->string();
  }
  const std::string text = Str(value);
  const std::string_view trimmed = Strip(text, set, true, true);
  STERNA_RETURN_IF_ERROR(runtime->ChargeCharacters(text.size() - trimmed.size() +
                                                   set.value_or(std::string_view()).size()));
  return runtime->MakeString(std::string(trimmed), value.is_safe());
}

StatusOr<Value> ToString(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("string", {}));
  return runtime->MakeString(Str(value), value.is_safe());
}

StatusOr<Value> MarkSafe(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("safe", {}));
  return runtime->MakeString(Str(value), /*safe=*/true);
}

StatusOr<Value> ReplaceFilter(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("replace", {"old", "new", "count"}));
  const Value* from = arguments.Find(0, "old");
  const Value* to = arguments.Find(1, "new");
  if (from == nullptr || to == nullptr) {
    return absl::InvalidArgumentError("replace needs the old and the new text");
  }
  const Value* limit = arguments.Find(2, "count");
  int64_t count = -1;
  if (limit != nullptr && !limit->is_none()) {
    STERNA_ASSIGN_OR_RETURN(count, IntegerArgument(arguments, 2, "count", -1));
  }
  return ReplaceBounded(runtime, Str(value), Str(*from), Str(*to), count);
}

StatusOr<Value> Indent(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("indent", {"width", "first", "blank"}));
  const Value* width = arguments.Find(0, "width");
  std::string indent(4, ' ');
  if (width != nullptr && width->is_string()) {
    indent = width->string();
  } else {
    STERNA_ASSIGN_OR_RETURN(const int64_t count, IntegerArgument(arguments, 0, "width", 4));
    if (count > kMaxIndent) return absl::ResourceExhaustedError("indent: the width is too large");
    indent = std::string(static_cast<size_t>(std::max<int64_t>(count, 0)), ' ');
  }
  const bool first = FlagArgument(arguments, 1, "first", false);
  const bool blank = FlagArgument(arguments, 2, "blank", false);
  const std::string text = Str(value);
  STERNA_RETURN_IF_ERROR(runtime->Charge(text.size()));
  std::string result;
  const std::vector<std::string> lines = SplitLines(text + "\n", false);
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) result += '\n';
    if (i == 0 ? first : blank || !lines[i].empty()) {
      STERNA_RETURN_IF_ERROR(runtime->Charge(indent.size()));
      result += indent;
    }
    result += lines[i];
    if (result.size() > kMaxStringBytes) break;  // MakeString refuses it
  }
  return runtime->MakeString(std::move(result));
}

StatusOr<Value> ToJsonFilter(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(
      arguments.Check("tojson", {"ensure_ascii", "indent", "separators", "sort_keys"}));
  JsonOptions options;
  options.ensure_ascii = FlagArgument(arguments, 0, "ensure_ascii", false);
  options.sort_keys = FlagArgument(arguments, 3, "sort_keys", false);
  const Value* indent = arguments.Find(1, "indent");
  if (indent != nullptr && indent->is_string()) {
    options.indent = indent->string();
  } else if (indent != nullptr && !indent->is_none()) {
    STERNA_ASSIGN_OR_RETURN(const int64_t width, IntegerArgument(arguments, 1, "indent", 0));
    if (width > kMaxIndent) return absl::ResourceExhaustedError("tojson: the indent is too large");
    options.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (options.indent) options.item_separator = ",";
  const Value* separators = arguments.Find(2, "separators");
  if (separators != nullptr && !separators->is_none()) {
    const bool pair = separators->is_sequence() && separators->items().size() == 2 &&
                      separators->items()[0].is_string() && separators->items()[1].is_string();
    if (!pair) return absl::InvalidArgumentError("tojson: separators must be two strings");
    options.item_separator = separators->items()[0].string();
    options.key_separator = separators->items()[1].string();
  }
  const size_t level_size = options.indent ? options.indent->size() * value.depth() : 0;
  const size_t separator_size = options.item_separator.size() + options.key_separator.size();
  if (value.weight() > kMaxStringBytes / (1 + level_size + separator_size) * 4) {
    return absl::ResourceExhaustedError("tojson: the text would be too large");
  }
  STERNA_RETURN_IF_ERROR(runtime->Charge(value.weight()));
  STERNA_ASSIGN_OR_RETURN(std::string json, ToJson(value, options));
  return runtime->MakeString(std::move(json));
}

// A text as Python's int() or float() reads it: white space around it and single underscores
// between digits are allowed.
std::optional<std::string> NumberText(std::string_view text) {
  std::string result;
  const std::string_view stripped = Strip(text, std::nullopt, true, true);
  for (size_t i = 0; i < stripped.size(); ++i) {
    if (stripped[i] == '_') {
      const auto digit_at = [&](size_t at) {
        return at < stripped.size() && std::isalnum(static_cast<unsigned char>(stripped[at]));
      };
      if (i == 0 || !digit_at(i - 1) || !digit_at(i + 1)) return std::nullopt;
      continue;
    }
    result += stripped[i];
  }
  return result;
}

std::optional<double> ParseFloat(std::string_view text) {
  const std::optional<std::string> number = NumberText(text);
  double value = 0;
  if (!number || number->empty() || !absl::SimpleAtod(*number, &value)) return std::nullopt;
  return value;
}

std::optional<int64_t> ParseInteger(std::string_view text, int base) {
  std::optional<std::string> number = NumberText(text);
  if (!number) return std::nullopt;
  const bool negative = number->starts_with('-');
  if (negative || number->starts_with('+')) number->erase(0, 1);
  const std::string prefix = Lower(number->substr(0, 2));
  if ((base == 16 && prefix == "0x") || (base == 8 && prefix == "0o") ||
      (base == 2 && prefix == "0b")) {
    number->erase(0, 2);
  }
  int64_t value = 0;
  const char* end = number->data() + number->size();
  const auto [stop, error] = std::from_chars(number->data(), end, value, base);
  if (number->empty() || number->front() == '-' || error != std::errc() || stop != end) {
    return std::nullopt;
  }
  return negative ? -value : value;
}

StatusOr<Value> Truncate(double value, const Value& otherwise) {
  if (std::isnan(value) || std::isinf(value)) return otherwise;
  constexpr double kLimit = 9.2e18;
  if (value > kLimit || value < -kLimit) {
    return absl::InvalidArgumentError("int: an integer beyond 64 bits is not supported");
  }
  return Value::Int(static_cast<int64_t>(value));
}

StatusOr<Value> ToInt(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("int", {"default", "base"}));
  const Value* given = arguments.Find(0, "default");
  Value otherwise = given != nullptr ? *given : Value::Int(0);
  STERNA_ASSIGN_OR_RETURN(const int64_t base, IntegerArgument(arguments, 1, "base", 10));
  if (base < 2 || base > 36) return absl::InvalidArgumentError("int: base must be 2 to 36");
  if (value.is_float()) return Truncate(value.float_value(), otherwise);
  if (value.is_number()) return Value::Int(value.AsInt());
  if (!value.is_string()) return otherwise;
  if (const auto integer = ParseInteger(value.string(), static_cast<int>(base))) {
    return Value::Int(*integer);
  }
  const std::optional<double> number = ParseFloat(value.string());
  return number ? Truncate(*number, otherwise) : StatusOr<Value>(otherwise);
}

StatusOr<Value> ToFloat(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("float", {"default"}));
  if (value.is_number()) return Value::Float(value.AsDouble());
  if (value.is_string()) {
    if (const std::optional<double> number = ParseFloat(value.string())) {
      return Value::Float(*number);
    }
  }
  const Value* otherwise = arguments.Find(0, "default");
  return otherwise != nullptr ? *otherwise : Value::Float(0.0);
}

StatusOr<Value> Abs(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("abs", {}));
  if (value.is_float()) return Value::Float(std::fabs(value.float_value()));
  if (value.is_number()) return value.AsInt() < 0 ? Negate(value) : Value::Int(value.AsInt());
  return absl::InvalidArgumentError("abs needs a number, not '" + TypeName(value) + "'");
}

// Rounds a decimal expansion half to even on the exact binary value, as Python does.
StatusOr<Value> RoundCommon(double value, int64_t precision) {
  char buffer[512];
  const auto result = std::to_chars(buffer, buffer + sizeof(buffer), value,
                                    std::chars_format::fixed, static_cast<int>(precision));
  double rounded = 0;
  if (result.ec != std::errc() || !absl::SimpleAtod(std::string(buffer, result.ptr), &rounded)) {
    return absl::InvalidArgumentError("round: the number has too many digits");
  }
  return Value::Float(rounded);
}

StatusOr<Value> Round(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("round", {"precision", "method"}));
  STERNA_ASSIGN_OR_RETURN(const int64_t precision, IntegerArgument(arguments, 0, "precision", 0));
  if (!value.is_number()) {
    return absl::InvalidArgumentError("round needs a number, not '" + TypeName(value) + "'");
  }
  if (precision < 0 || precision > 100) {
    return absl::InvalidArgumentError("round: a precision outside 0 to 100 is not supported");
  }
  const Value* given = arguments.Find(1, "method");
  const std::string method = given != nullptr ? Str(*given) : "common";
  if (method == "common") {
    if (!value.is_float()) return Value::Int(value.AsInt());
    return RoundCommon(value.float_value(), precision);
  }
  if (method != "ceil" && method != "floor") {
    return absl::InvalidArgumentError("round: method must be common, ceil or floor");
  }
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const double scaled = value.AsDouble() * scale;
  return Value::Float((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

StatusOr<Value> Default(Runtime*, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("default", {"default_value", "boolean"}));
  const bool by_truth = FlagArgument(arguments, 1, "boolean", false);
  if (!value.is_undefined() && (!by_truth || IsTrue(value))) return value;
  const Value* otherwise = arguments.Find(0, "default_value");
  return otherwise != nullptr ? *otherwise : Value::String("");
}

StatusOr<Value> WordCount(Runtime* runtime, const Value& value, const Arguments& arguments) {
  STERNA_RETURN_IF_ERROR(arguments.Check("wordcount", {}));
  const std::u32string text = ToCodePoints(Str(value));
  STERNA_RETURN_IF_ERROR(runtime->Charge(text.size()));
  int64_t count = 0;
  bool in_word = false;
  for (const char32_t c : text) {
    const bool word = IsAlnum(c) || c == '_';
    count += word && !in_word;
    in_word = word;
  }
  return Value::Int(count);
}

}  // namespace

StatusOr<int64_t> IntegerArgument(const Arguments& arguments, size_t index, const std::string& name,
                                  int64_t otherwise) {
  const Value* value = arguments.Find(index, name);
  if (value == nullptr) return otherwise;
  if (value->is_int() || value->is_bool()) return value->AsInt();
  return absl::InvalidArgumentError(
      absl::StrCat("the argument ", name, " must be an integer, not '", TypeName(*value), "'"));
}

bool FlagArgument(const Arguments& arguments, size_t index, const std::string& name,
                  bool otherwise) {
  const Value* value = arguments.Find(index, name);
  return value == nullptr ? otherwise : IsTrue(*value);
}

const FilterTable& ScalarFilters() {
  static const FilterTable* const kTable = new FilterTable{
      {"upper", Change<Upper>},
      {"lower", Change<Lower>},
      {"capitalize", Change<Capitalize>},
      {"title", Change<TitleFilter>},
      {"trim", Trim},
      {"string", ToString},
      {"safe", MarkSafe},
      {"replace", ReplaceFilter},
      {"indent", Indent},
      {"tojson", ToJsonFilter},
      {"int", ToInt},
      {"float", ToFloat},
      {"abs", Abs},
      {"round", Round},
      {"default", Default},
      {"d", Default},
      {"wordcount", WordCount},
  };
  return *kTable;
}

bool IsFilter(std::string_view name) {
  return ScalarFilters().find(name) != ScalarFilters().end() ||
         SequenceFilters().find(name) != SequenceFilters().end();
}

StatusOr<Value> CallFilter(Runtime* runtime, const std::string& name, const Value& value,
                           const Arguments& arguments) {
  for (const FilterTable* table : {&ScalarFilters(), &SequenceFilters()}) {
    const auto it = table->find(name);
    if (it == table->end()) continue;
    STERNA_RETURN_IF_ERROR(runtime->Charge(value.is_string() ? value.weight() : 0));
    return it->second(runtime, value, arguments);
  }
  return absl::InvalidArgumentError("the filter '" + name + "' is not supported");
}

}  // namespace sterna::jinja
