#include "server/http/json_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "engine/errors.h"
#include "server/closest_name.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

Status Invalid(std::string_view message, std::string_view param = "") {
  return MakeError(ErrorLabel::kInvalidRequest, message, param);
}

// Walks the text once without building anything and stops at the first thing it may not hold.
class LimitChecker final : public nlohmann::json_sax<Json> {
 public:
  explicit LimitChecker(std::string_view what) : what_(what) {}
  const std::string& error() const { return error_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return Enter();
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) {
      error_ = absl::StrCat("the member '", name.substr(0, 64), "' stands twice in one object");
      return false;
    }
    if (static_cast<int64_t>(keys_.back().size()) > kMaxJsonMembers) {
      error_ = absl::StrCat("an object has more than ", kMaxJsonMembers, " members");
      return false;
    }
    return true;
  }
  bool start_array(std::size_t) override { return Enter(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception...] parse error at line 1, column 5: what": the bracket says nothing to
    // users.
    std::string what = error.what();
    what.erase(0, what.find("] ") == std::string::npos ? 0 : what.find("] ") + 2);
    error_ = absl::StrCat(std::string(what_), " is no valid JSON (byte ", position,
                          "): ", what.substr(0, 256));
    return false;
  }

 private:
  bool Enter() {
    if (++depth_ <= kMaxJsonDepth) return true;
    error_ = absl::StrCat(std::string(what_), " is nested deeper than ", kMaxJsonDepth, " levels");
    return false;
  }

  std::string_view what_;
  int depth_ = 0;
  std::vector<std::set<std::string>> keys_;
  std::string error_;
};

}  // namespace

StatusOr<Json> ParseJsonObject(std::string_view text, std::string_view what) {
  LimitChecker checker(what);
  if (!Json::sax_parse(text, &checker)) return Invalid(checker.error());
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) {
    return Invalid(
        absl::StrCat(std::string(what), " is ", JsonTypeText(value), "; it must be a JSON object"));
  }
  return value;
}

std::string JsonTypeText(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "a boolean";
  if (value.is_number_integer()) return "an integer";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  if (value.is_array()) return "an array";
  return "an object";
}

std::string JsonText(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

JsonObjectReader::JsonObjectReader(const Json& object, std::string path)
    : object_(object), path_(std::move(path)) {}

std::string JsonObjectReader::PathOf(std::string_view name) const {
  return path_.empty() ? std::string(name) : absl::StrCat(path_, ".", std::string(name));
}

void JsonObjectReader::Fail(Status status) {
  if (status_.ok()) status_ = std::move(status);
}

void JsonObjectReader::Fail(std::string_view name, std::string_view message) {
  Fail(Invalid(absl::StrCat(PathOf(name), " ", std::string(message)), PathOf(name)));
}

void JsonObjectReader::TypeError(std::string_view name, const Json& value,
                                 std::string_view expected) {
  Fail(name, absl::StrCat("is ", JsonTypeText(value), "; it must be ", std::string(expected)));
}

const Json* JsonObjectReader::Get(std::string_view name) {
  known_.emplace_back(name);
  const auto it = object_.find(known_.back());
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonObjectReader::Read(std::string_view name, std::optional<bool>* out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) return TypeError(name, *value, "a boolean");
  *out = value->get<bool>();
}

void JsonObjectReader::Read(std::string_view name, bool* out) {
  std::optional<bool> value;
  Read(name, &value);
  if (value.has_value()) *out = *value;
}

void JsonObjectReader::Read(std::string_view name, std::optional<int64_t>* out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_number_integer()) return TypeError(name, *value, "an integer");
  if (value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) {
    return Fail(name, absl::StrCat("is ", JsonText(*value), ", which is out of range"));
  }
  *out = value->get<int64_t>();
}

void JsonObjectReader::Read(std::string_view name, std::optional<double>* out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_number()) return TypeError(name, *value, "a number");
  *out = value->get<double>();
}

void JsonObjectReader::Read(std::string_view name, std::optional<std::string>* out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_string()) return TypeError(name, *value, "a string");
  *out = value->get<std::string>();
}

void JsonObjectReader::Read(std::string_view name, std::vector<int64_t>* out) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  if (!value->is_array()) return TypeError(name, *value, "an array of integers");
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& element = (*value)[i];
    const bool fits = element.is_number_integer() &&
                      !(element.is_number_unsigned() && element.get<uint64_t>() > INT64_MAX);
    if (!fits) {
      const std::string indexed = absl::StrCat(std::string(name), "[", i, "]");
      return Fail(indexed, absl::StrCat("is ", JsonTypeText(element),
                                        "; it must be an integer of at most 64 bits"));
    }
    out->push_back(element.get<int64_t>());
  }
}

void JsonObjectReader::Ignore(std::span<const std::string_view> names) {
  for (const std::string_view name : names) known_.emplace_back(name);
}

void JsonObjectReader::RefuseUnless(std::string_view name,
                                    std::span<const std::string_view> neutral,
                                    std::string_view supported) {
  const Json* value = Get(name);
  if (value == nullptr) return;
  const std::string text = JsonText(*value);
  if (std::find(neutral.begin(), neutral.end(), text) != neutral.end()) return;
  Fail(name, absl::StrCat("is not supported here; ", std::string(supported)));
}

Status JsonObjectReader::Finish() {
  if (!status_.ok()) return status_;
  for (const auto& [name, value] : object_.items()) {
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    const std::string closest = ClosestName(name, known_);
    return Invalid(
        absl::StrCat(PathOf(name.substr(0, 128)), " is no field of this request",
                     closest.empty() ? "" : absl::StrCat("; did you mean ", PathOf(closest), "?")),
        PathOf(name.substr(0, 128)));
  }
  return absl::OkStatus();
}

}  // namespace sterna
