// The fields of config.json, read one by one with errors that say what is wrong with which.
#ifndef STERNA_ENGINE_MODEL_CONFIG_FIELDS_H_
#define STERNA_ENGINE_MODEL_CONFIG_FIELDS_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "engine/model/json_text.h"
#include "nlohmann/json.hpp"

namespace sterna {

// Of one JSON object, which must outlive it. Errors are InvalidArgument and name the file, the
// field and its value. Thread contract: immutable.
class Fields {
 public:
  // `prefix` names the object inside the file: "" or "quantization_config.".
  Fields(const nlohmann::json& object, std::string file, std::string prefix)
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  // Null when the field is absent or null, which mean the same in these files.
  const nlohmann::json* Find(const std::string& name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool Has(const std::string& name) const { return Find(name) != nullptr; }

  Status Error(const std::string& name, const std::string& wanted) const {
    const nlohmann::json* value = Find(name);
    return absl::InvalidArgumentError(absl::StrCat(
        file_, ": ", prefix_, name, " is ",
        value == nullptr
            ? "missing"
            : Shown(value->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)),
        ", but ", wanted));
  }

  StatusOr<int64_t> Int(const std::string& name, int64_t min, int64_t max) const {
    const nlohmann::json* value = Find(name);
    const bool fits = value != nullptr && value->is_number_integer() &&
                      (!value->is_number_unsigned() ||
                       value->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX)) &&
                      value->get<int64_t>() >= min && value->get<int64_t>() <= max;
    if (!fits) {
      return Error(name, absl::StrCat("must be an integer from ", min, " to ", max));
    }
    return value->get<int64_t>();
  }
  StatusOr<int64_t> IntOr(const std::string& name, int64_t absent, int64_t min, int64_t max) const {
    return Has(name) ? Int(name, min, max) : absent;
  }
  // A finite number above zero and at most `max`.
  StatusOr<double> Positive(const std::string& name, double max) const {
    const nlohmann::json* value = Find(name);
    if (value == nullptr || !value->is_number() || !(value->get<double>() > 0) ||
        !(value->get<double>() <= max)) {
      return Error(name, absl::StrCat("must be a number above 0 and at most ", max));
    }
    return value->get<double>();
  }
  StatusOr<double> PositiveOr(const std::string& name, double absent, double max) const {
    return Has(name) ? Positive(name, max) : absent;
  }
  StatusOr<bool> BoolOr(const std::string& name, bool absent) const {
    const nlohmann::json* value = Find(name);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) return Error(name, "must be true or false");
    return value->get<bool>();
  }
  // One of `choices`; `absent`, which may be empty for a required field, when not there.
  StatusOr<std::string> Choice(const std::string& name, const std::vector<std::string>& choices,
                               const std::string& absent = "") const {
    const nlohmann::json* value = Find(name);
    if (value == nullptr && !absent.empty()) return absent;
    for (const std::string& choice : choices) {
      if (value != nullptr && *value == choice) return choice;
    }
    return Error(name, absl::StrCat("supported: ", absl::StrJoin(choices, ", ")));
  }

 private:
  const nlohmann::json& object_;
  std::string file_;
  std::string prefix_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_CONFIG_FIELDS_H_
