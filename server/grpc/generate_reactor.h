// One Generate call: prepares its request on a worker, then writes what the token stream brings,
// one message at a time, as fast as the client takes them.
#ifndef STERNA_SERVER_GRPC_GENERATE_REACTOR_H_
#define STERNA_SERVER_GRPC_GENERATE_REACTOR_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>

#include "server/model_service.h"
#include "server/worker_pool.h"
#include "sterna/v1/inference.pb.h"

namespace sterna {

// What the calls of a server share; all outlive every call.
struct GrpcCallResources {
  ModelService* service;
  WorkerPool* workers;   // validation and tokenising
  WorkerPool* delivery;  // writing what the engine announced: never behind a long tokenisation
};

// Owned by gRPC until OnDone.
grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerate(const GrpcCallResources& resources,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::GenerateRequest* request);

// What `work` returns; kInternal when it throws, as libraries do when out of memory: no call may
// take the server down.
Status WithoutExceptions(const std::function<Status()>& work);

// Puts label and parameter of an error into the trailing metadata and counts the call; returns what
// to finish it with.
grpc::Status EndCall(ModelService& service, grpc::CallbackServerContext& context,
                     std::string_view method, const Status& status);

}  // namespace sterna

#endif  // STERNA_SERVER_GRPC_GENERATE_REACTOR_H_
