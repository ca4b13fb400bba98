#include "engine/text/jinja/json_value.h"

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace sterna::jinja {
namespace {

// Builds values as the parser goes, so that no depth of nesting is recursed over.
class ValueBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Add(Value()); }
  bool boolean(bool value) override { return Add(Value::Bool(value)); }
  bool number_integer(int64_t value) override { return Add(Value::Int(value)); }
  bool number_unsigned(uint64_t value) override {
    if (value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Add(Value::Int(static_cast<int64_t>(value)));
    }
    return Fail(absl::StrCat("the integer ", value, " is beyond 64 bits with sign"));
  }
  bool number_float(double value, const std::string& text) override {
    // The parser gives integers beyond 64 bits here; as a float they would print differently.
    if (text.find_first_of(".eE") == std::string::npos) {
      return Fail(absl::StrCat("the integer ", text, " is beyond 64 bits"));
    }
    return Add(Value::Float(value));
  }
  bool string(std::string& value) override { return Add(Value::String(std::move(value))); }
  bool binary(nlohmann::json::binary_t&) override { return Fail("binary values are not JSON"); }
  bool start_object(size_t) override { return Open(true); }
  bool start_array(size_t) override { return Open(false); }
  bool key(std::string& name) override {
    levels_.back().keys.push_back(Value::String(std::move(name)));
    return true;
  }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    return Fail(absl::StrCat("it is no JSON at byte ", position));
  }

  Value& result() { return result_; }
  const std::string& error() const { return error_; }

 private:
  struct Level {
    bool is_object;
    std::vector<Value> keys;
    std::vector<Value> values;
  };

  bool Fail(std::string error) {
    error_ = std::move(error);
    return false;
  }

  bool Open(bool is_object) {
    if (levels_.size() >= kMaxValueDepth) {
      return Fail(absl::StrCat("it is nested deeper than ", kMaxValueDepth, " levels"));
    }
    levels_.push_back({is_object, {}, {}});
    return true;
  }

  bool Close() {
    Level level = std::move(levels_.back());
    levels_.pop_back();
    StatusOr<Value> value = Value();
    if (level.is_object) {
      std::vector<std::pair<Value, Value>> entries;
      for (size_t i = 0; i < level.keys.size(); ++i) {
        entries.emplace_back(std::move(level.keys[i]), std::move(level.values[i]));
      }
      value = Value::MakeDict(std::move(entries));
    } else {
      value = Value::List(std::move(level.values));
    }
    if (!value.ok()) return Fail(std::string(value.status().message()));
    return Add(*std::move(value));
  }

  bool Add(Value value) {
    if (levels_.empty()) {
      result_ = std::move(value);
    } else {
      levels_.back().values.push_back(std::move(value));
    }
    return true;
  }

  std::vector<Level> levels_;
  Value result_;
  std::string error_;
};

}  // namespace

StatusOr<Value> ParseJsonValue(const std::string& what, const std::string& text) {
  ValueBuilder builder;
  if (nlohmann::json::sax_parse(text, &builder)) return std::move(builder.result());
  return absl::InvalidArgumentError(absl::StrCat(what, ": ", builder.error()));
}

}  // namespace sterna::jinja
