// ReadGenerationDefaults of server/validation.h; apart, because it alone needs JSON.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "server/validation.h"

namespace sterna {
namespace {

constexpr char kFile[] = "generation_config.json";

template <typename T>
Status ReadNumber(const nlohmann::json& config, const std::string& path, const char* field,
                  double min, double max, std::optional<T>* out) {
  const auto it = config.find(field);
  if (it == config.end() || it->is_null()) return absl::OkStatus();
  const bool right_type = std::is_integral_v<T> ? it->is_number_integer() : it->is_number();
  if (!right_type || it->get<double>() < min || it->get<double>() > max) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", field, " is ", it->dump(), "; it must be ",
        std::is_integral_v<T> ? "an integer" : "a number", " from ", min, " to ", max));
  }
  *out = it->get<T>();
  return absl::OkStatus();
}

}  // namespace

StatusOr<GenerationDefaults> ReadGenerationDefaults(const std::string& model) {
  std::error_code error;
  if (std::filesystem::is_regular_file(model, error)) return GenerationDefaults();
  const std::string path = absl::StrCat(model, "/", kFile);
  const StatusOr<std::string> text = ReadTextFile(path);
  if (absl::IsNotFound(text.status())) return GenerationDefaults();
  if (!text.ok()) return text.status();
  const nlohmann::json config = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, " is no JSON object"));
  }
  GenerationDefaults out;
  STERNA_RETURN_IF_ERROR(ReadNumber(config, path, "temperature", 0, 2, &out.temperature));
  STERNA_RETURN_IF_ERROR(ReadNumber(config, path, "top_k", 0, 1 << 30, &out.top_k));
  STERNA_RETURN_IF_ERROR(ReadNumber(config, path, "top_p", 1e-6, 1, &out.top_p));
  STERNA_RETURN_IF_ERROR(ReadNumber(config, path, "min_p", 0, 1, &out.min_p));
  STERNA_RETURN_IF_ERROR(
      ReadNumber(config, path, "repetition_penalty", 1e-6, 2, &out.repetition_penalty));
  return out;
}

}  // namespace sterna
