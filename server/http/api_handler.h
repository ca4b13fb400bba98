// The HTTP API: every route, over one ModelService. docs/api.md describes it for users.
#ifndef STERNA_SERVER_HTTP_API_HANDLER_H_
#define STERNA_SERVER_HTTP_API_HANDLER_H_

#include <memory>
#include <string>

#include "server/http/http_types.h"
#include "server/model_service.h"

namespace sterna {

// `service` must outlive the handler. `cors_allow_origin`: "*", a comma-separated list of origins,
// or empty for none.
std::unique_ptr<HttpHandler> MakeApiHandler(ModelService* service,
                                            const std::string& cors_allow_origin);

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_API_HANDLER_H_
