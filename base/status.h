// absl::Status with what the code base uses to pass errors on.
#ifndef STERNA_BASE_STATUS_H_
#define STERNA_BASE_STATUS_H_

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace sterna {

using absl::Status;
using absl::StatusOr;

// `status` with `what` it is about in front of its message; OK as it is.
inline Status Annotate(const Status& status, const std::string& what) {
  if (status.ok()) return status;
  return Status(status.code(), absl::StrCat(what, ": ", status.message()));
}

}  // namespace sterna

#define STERNA_CONCAT_INNER_(a, b) a##b
#define STERNA_CONCAT_(a, b) STERNA_CONCAT_INNER_(a, b)

// Returns the status of `expr` from the enclosing function unless it is OK.
#define STERNA_RETURN_IF_ERROR(expr)                 \
  do {                                               \
    ::absl::Status sterna_status_ = (expr);          \
    if (!sterna_status_.ok()) return sterna_status_; \
  } while (false)

// Evaluates `expr` (a StatusOr); returns its status on error, else moves the value into `lhs`.
#define STERNA_ASSIGN_OR_RETURN(lhs, expr) \
  STERNA_ASSIGN_OR_RETURN_IMPL_(STERNA_CONCAT_(sterna_statusor_, __LINE__), lhs, expr)
#define STERNA_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                                  \
  if (!tmp.ok()) return tmp.status();                 \
  lhs = *std::move(tmp)

#endif  // STERNA_BASE_STATUS_H_
