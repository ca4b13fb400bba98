// Errors a client can see, each with a stable label: the same word on the gRPC status, in the HTTP
// error body and on the metric.
#ifndef STERNA_ENGINE_ERRORS_H_
#define STERNA_ENGINE_ERRORS_H_

#include <string>
#include <string_view>

#include "base/status.h"

namespace sterna {

enum class ErrorLabel {
  kInvalidRequest,         // a field is malformed or out of range
  kModelNotFound,          // the request names a model that is not served
  kContextLengthExceeded,  // prompt and max_tokens do not fit the model or the cache at all
  kQueueFull,              // the bounded queue is full; try again later
  kDraining,               // the server is shutting down
  kLoading,                // the server is still loading the model
  kCancelled,              // the client went away or asked for it
  kInternal,               // a fault of the server or its device
};

// "invalid_request", "model_not_found", "context_length_exceeded", "queue_full", "draining",
// "loading", "cancelled", "internal".
std::string_view ErrorLabelName(ErrorLabel label);

// A Status that carries `label`, the code that fits it, and optionally the request field (`param`,
// e.g. "temperature" or "messages[2].content") the message is about.
Status MakeError(ErrorLabel label, std::string_view message, std::string_view param = "");

// The label of a Status made by MakeError, or the one that fits its code.
ErrorLabel ErrorLabelOf(const Status& status);

// The field of a Status made by MakeError; empty when there is none.
std::string ErrorParamOf(const Status& status);

}  // namespace sterna

#endif  // STERNA_ENGINE_ERRORS_H_
