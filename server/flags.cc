#include "server/flags.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "server/closest_name.h"

namespace sterna {
namespace {

std::string NumberText(double value) {
  // Whole numbers in full: 1048576, not 1.04858e+06.
  if (value == std::floor(value) && std::abs(value) < 1e15) {
    return absl::StrCat(static_cast<int64_t>(value));
  }
  return absl::StrCat(value);
}

// "an integer of at least 1", "true or false", "one of auto, nvml".
std::string Expected(const Flag& flag) {
  if (std::holds_alternative<bool*>(flag.value)) return "true or false";
  if (std::holds_alternative<std::string*>(flag.value)) {
    return flag.choices.empty() ? "text"
                                : absl::StrCat("one of ", absl::StrJoin(flag.choices, ", "));
  }
  std::string kind = std::holds_alternative<int64_t*>(flag.value) ? "an integer" : "a number";
  const bool has_max = std::isfinite(flag.max);
  if (std::isfinite(flag.min) && has_max) {
    return absl::StrCat(kind, " from ", NumberText(flag.min), " to ", NumberText(flag.max));
  }
  if (std::isfinite(flag.min)) return absl::StrCat(kind, " of at least ", NumberText(flag.min));
  return kind;
}

std::string DefaultText(const Flag& flag) {
  if (const auto* b = std::get_if<bool*>(&flag.value)) return **b ? "true" : "false";
  if (const auto* i = std::get_if<int64_t*>(&flag.value)) return absl::StrCat(**i);
  if (const auto* d = std::get_if<double*>(&flag.value)) return NumberText(**d);
  return *std::get<std::string*>(flag.value);
}

bool InRange(const Flag& flag, double value) { return value >= flag.min && value <= flag.max; }

bool SetValue(const Flag& flag, const std::string& text) {
  if (const auto* b = std::get_if<bool*>(&flag.value)) return absl::SimpleAtob(text, *b);
  if (const auto* i = std::get_if<int64_t*>(&flag.value)) {
    return absl::SimpleAtoi(text, *i) && InRange(flag, static_cast<double>(**i));
  }
  if (const auto* d = std::get_if<double*>(&flag.value)) {
    return absl::SimpleAtod(text, *d) && InRange(flag, **d);
  }
  if (!flag.choices.empty() &&
      std::find(flag.choices.begin(), flag.choices.end(), text) == flag.choices.end()) {
    return false;
  }
  *std::get<std::string*>(flag.value) = text;
  return true;
}

Status UnknownFlag(std::string_view name, std::span<const Flag> flags) {
  std::vector<std::string> names;
  for (const Flag& flag : flags) names.emplace_back(flag.name);
  const std::string closest = ClosestName(name, names);
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag --", std::string(name),
                   closest.empty() ? "; --help lists them all"
                                   : absl::StrCat("; did you mean --", closest, "?")));
}

}  // namespace

Status ParseFlags(std::span<const std::string> args, std::span<const Flag> flags) {
  for (size_t i = 0; i < args.size(); ++i) {
    absl::string_view text = args[i];
    if (!absl::ConsumePrefix(&text, "--") || text.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", args[i],
                                                     "'; flags are --name value or --name=value"));
    }
    const size_t equals = text.find('=');
    const std::string name(text.substr(0, equals));
    const Flag* flag = nullptr;
    for (const Flag& candidate : flags) {
      if (candidate.name == name) flag = &candidate;
    }
    if (flag == nullptr) return UnknownFlag(name, flags);
    std::string value;
    if (equals != absl::string_view::npos) {
      value = std::string(text.substr(equals + 1));
    } else if (std::holds_alternative<bool*>(flag->value)) {
      value = "true";
    } else if (i + 1 < args.size()) {
      value = args[++i];
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("--", name, " needs a value: ", Expected(*flag)));
    }
    if (!SetValue(*flag, value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", name, " is '", value, "'; it must be ", Expected(*flag)));
    }
  }
  return absl::OkStatus();
}

std::string FlagsAsText(std::span<const Flag> flags) {
  std::string out;
  for (const Flag& flag : flags) {
    const std::string value = DefaultText(flag);
    absl::StrAppend(&out, "  --", std::string(flag.name), "  (", Expected(flag),
                    value.empty() ? "" : absl::StrCat("; default ", value), ")\n      ", flag.help,
                    "\n");
  }
  return out;
}

std::string FlagsAsMarkdown(std::span<const Flag> flags) {
  std::string out = "| flag | value | default | what it does |\n|---|---|---|---|\n";
  for (const Flag& flag : flags) {
    const std::string value = DefaultText(flag);
    absl::StrAppend(&out, "| `--", std::string(flag.name), "` | ", Expected(flag), " | ",
                    value.empty() ? "" : absl::StrCat("`", value, "`"), " | ",
                    absl::StrReplaceAll(flag.help, {{"|", "\\|"}}), " |\n");
  }
  return out;
}

}  // namespace sterna
