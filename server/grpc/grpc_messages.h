// Between the messages of sterna.v1 and the server's own types.
#ifndef STERNA_SERVER_GRPC_GRPC_MESSAGES_H_
#define STERNA_SERVER_GRPC_GRPC_MESSAGES_H_

#include <grpcpp/support/status.h>

#include <string>
#include <vector>

#include "base/status.h"
#include "engine/runtime.h"
#include "engine/token_stream.h"
#include "server/validation.h"
#include "sterna/v1/inference.pb.h"

namespace sterna {

GenerationParameters ParametersOf(const v1::GenerateRequest& request);

// `update` without an end, or with one that is no error. `with_logprobs`: they were asked for.
void FillResponse(const Tokenizer& tokenizer, const StreamUpdate& update, bool with_logprobs,
                  v1::GenerateResponse* response);

void FillModel(const std::string& name, const Runtime& runtime, v1::GetModelResponse* response);

// The same code and message.
grpc::Status ToGrpcStatus(const Status& status);
// What trailing metadata may carry: ASCII, everything else replaced by '?'.
std::string MetadataValue(const std::string& text);
// "RESOURCE_EXHAUSTED".
std::string GrpcCodeName(grpc::StatusCode code);

}  // namespace sterna

#endif  // STERNA_SERVER_GRPC_GRPC_MESSAGES_H_
