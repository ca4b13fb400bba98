#include "engine/errors.h"

#include <array>

#include "absl/strings/cord.h"

namespace sterna {
namespace {

struct LabelRow {
  ErrorLabel label;
  std::string_view name;
  absl::StatusCode code;
};

constexpr std::array<LabelRow, 8> kLabels = {{
    {ErrorLabel::kInvalidRequest, "invalid_request", absl::StatusCode::kInvalidArgument},
    {ErrorLabel::kModelNotFound, "model_not_found", absl::StatusCode::kNotFound},
    {ErrorLabel::kContextLengthExceeded, "context_length_exceeded",
     absl::StatusCode::kInvalidArgument},
    {ErrorLabel::kQueueFull, "queue_full", absl::StatusCode::kResourceExhausted},
    {ErrorLabel::kDraining, "draining", absl::StatusCode::kUnavailable},
    {ErrorLabel::kLoading, "loading", absl::StatusCode::kUnavailable},
    {ErrorLabel::kCancelled, "cancelled", absl::StatusCode::kCancelled},
    {ErrorLabel::kInternal, "internal", absl::StatusCode::kInternal},
}};

constexpr char kLabelPayload[] = "sterna/label";
constexpr char kParamPayload[] = "sterna/param";

const LabelRow& Row(ErrorLabel label) { return kLabels[static_cast<size_t>(label)]; }

}  // namespace

std::string_view ErrorLabelName(ErrorLabel label) { return Row(label).name; }

Status MakeError(ErrorLabel label, std::string_view message, std::string_view param) {
  Status status(Row(label).code, std::string(message));
  status.SetPayload(kLabelPayload, absl::Cord(std::string(Row(label).name)));
  if (!param.empty()) status.SetPayload(kParamPayload, absl::Cord(std::string(param)));
  return status;
}

ErrorLabel ErrorLabelOf(const Status& status) {
  if (const auto payload = status.GetPayload(kLabelPayload)) {
    for (const LabelRow& row : kLabels) {
      if (*payload == std::string(row.name)) return row.label;
    }
  }
  for (const LabelRow& row : kLabels) {
    if (status.code() == row.code) return row.label;
  }
  return ErrorLabel::kInternal;
}

std::string ErrorParamOf(const Status& status) {
  const auto payload = status.GetPayload(kParamPayload);
  return payload ? std::string(*payload) : std::string();
}

}  // namespace sterna
