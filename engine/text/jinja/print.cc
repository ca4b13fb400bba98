#include "engine/text/jinja/print.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/environment.h"
#include "engine/text/jinja/text.h"
#include "engine/text/utf8.h"

namespace sterna::jinja {
namespace {

std::string Hex(char32_t c, const char* format) {
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), format, static_cast<unsigned>(c));
  return buffer;
}

std::string StringRepr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string result(1, quote);
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, pos);
    const char32_t c = unit.code_point;
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (IsPrintable(c)) {
      result += text.substr(pos, unit.length);
    } else {
      result += Hex(c, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x");
    }
    pos += unit.length;
  }
  return result + quote;
}

std::string ItemsRepr(const std::vector<Value>& items) {
  std::string result;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) result += ", ";
    result += Repr(items[i]);
  }
  return result;
}

std::string SequenceRepr(const Sequence& sequence) {
  switch (sequence.kind) {
    case SequenceKind::kList:
      return "[" + ItemsRepr(sequence.items) + "]";
    case SequenceKind::kTuple:
      return "(" + ItemsRepr(sequence.items) + (sequence.items.size() == 1 ? ",)" : ")");
    case SequenceKind::kRange:
      return sequence.type_name;
    case SequenceKind::kView:
      return sequence.type_name + "([" + ItemsRepr(sequence.items) + "])";
    case SequenceKind::kGenerator:
      break;
  }
  return "<generator object>";
}

std::string DictRepr(const Dict& dict) {
  std::string result = "{";
  for (size_t i = 0; i < dict.entries.size(); ++i) {
    if (i > 0) result += ", ";
    result += Repr(dict.entries[i].first) + ": " + Repr(dict.entries[i].second);
  }
  return result + "}";
}

std::string JsonString(std::string_view text, bool ensure_ascii) {
  std::string result = "\"";
  for (size_t pos = 0; pos < text.size();) {
    const Utf8Unit unit = ReadUtf8(text, pos);
    const char32_t c = unit.code_point;
    if (c == '"' || c == '\\') {
      result += '\\';
      result += static_cast<char>(c);
    } else if (c == '\n') {
      result += "\\n";
    } else if (c == '\r') {
      result += "\\r";
    } else if (c == '\t') {
      result += "\\t";
    } else if (c == '\b') {
      result += "\\b";
    } else if (c == '\f') {
      result += "\\f";
    } else if (c < 0x20 || (ensure_ascii && c > 0x7E && c < 0x10000)) {
      result += Hex(c, "\\u%04x");
    } else if (ensure_ascii && c >= 0x10000) {
      result += Hex(0xD800 + ((c - 0x10000) >> 10), "\\u%04x");
      result += Hex(0xDC00 + ((c - 0x10000) & 0x3FF), "\\u%04x");
    } else {
      result += text.substr(pos, unit.length);
    }
    pos += unit.length;
  }
  return result + '"';
}

// What json.dumps writes for a scalar; for a float its own spelling of what is no number.
StatusOr<std::string> JsonScalar(const Value& value, const JsonOptions& options) {
  if (value.is_none()) return std::string("null");
  if (value.is_bool()) return std::string(value.bool_value() ? "true" : "false");
  if (value.is_string()) return JsonString(value.string(), options.ensure_ascii);
  if (value.is_int()) return absl::StrCat(value.int_value());
  if (value.is_float()) {
    const double number = value.float_value();
    if (std::isnan(number)) return std::string("NaN");
    if (std::isinf(number)) return std::string(number > 0 ? "Infinity" : "-Infinity");
    return FloatRepr(number);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("Object of type ", TypeName(value), " is not JSON serializable"));
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonOptions& options) : options_(options) {}

  Status Write(const Value& value, int level) {
    const bool is_array =
        value.is_sequence(SequenceKind::kList) || value.is_sequence(SequenceKind::kTuple);
    if (is_array) return WriteArray(value.items(), level);
    if (value.is_dict()) return WriteObject(value.dict(), level);
    STERNA_ASSIGN_OR_RETURN(const std::string scalar, JsonScalar(value, options_));
    out_ += scalar;
    return absl::OkStatus();
  }

  std::string Take() { return std::move(out_); }

 private:
  void NewLine(int level) {
    if (!options_.indent) return;
    out_ += '\n';
    for (int i = 0; i < level; ++i) out_ += *options_.indent;
  }

  Status WriteArray(const std::vector<Value>& items, int level) {
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += options_.item_separator;
      NewLine(level + 1);
      STERNA_RETURN_IF_ERROR(Write(items[i], level + 1));
    }
    if (!items.empty()) NewLine(level);
    out_ += ']';
    return absl::OkStatus();
  }

  Status WriteObject(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> entries;
    entries.reserve(dict.entries.size());
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (options_.sort_keys) {
      Status status;
      std::stable_sort(entries.begin(), entries.end(), [&](const auto* a, const auto* b) {
        const StatusOr<int> order = Compare(a->first, b->first);
        if (!order.ok()) status = order.status();
        return order.ok() && *order < 0;
      });
      STERNA_RETURN_IF_ERROR(status);
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += options_.item_separator;
      NewLine(level + 1);
      STERNA_ASSIGN_OR_RETURN(const std::string key, JsonScalar(entries[i]->first, options_));
      const bool quoted = entries[i]->first.is_string();
      absl::StrAppend(&out_, quoted ? "" : "\"", key, quoted ? "" : "\"", options_.key_separator);
      STERNA_RETURN_IF_ERROR(Write(entries[i]->second, level + 1));
    }
    if (!entries.empty()) NewLine(level);
    out_ += '}';
    return absl::OkStatus();
  }

  const JsonOptions& options_;
  std::string out_;
};

}  // namespace

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view scientific(buffer, end.ptr - buffer);
  const size_t e = scientific.find('e');
  int exponent = 0;  // from_chars takes a minus sign but no plus
  const char* digits = scientific.data() + e + (scientific[e + 1] == '+' ? 2 : 1);
  std::from_chars(digits, end.ptr, exponent);
  if (exponent < -4 || exponent >= 16) return std::string(scientific);
  const auto fixed_end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
  std::string fixed(buffer, fixed_end.ptr - buffer);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

std::string Repr(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (value.is_bool()) return value.bool_value() ? "True" : "False";
  if (value.is_int()) return absl::StrCat(value.int_value());
  if (value.is_float()) return FloatRepr(value.float_value());
  if (value.is_string()) {
    const std::string quoted = StringRepr(value.string());
    return value.is_safe() ? "Markup(" + quoted + ")" : quoted;
  }
  if (value.is_sequence()) return SequenceRepr(value.sequence());
  if (value.is_dict()) return DictRepr(value.dict());
  if (value.is_callable() && value.callable().is_macro) {
    return "<Macro '" + value.callable().name + "'>";
  }
  // Namespaces are not followed: they can hold themselves.
  return "<" + TypeName(value) + ">";
}

std::string Str(const Value& value) {
  if (value.is_string()) return value.string();
  return value.is_undefined() ? std::string() : Repr(value);
}

StatusOr<std::string> ToJson(const Value& value, const JsonOptions& options) {
  JsonWriter writer(options);
  STERNA_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

}  // namespace sterna::jinja
