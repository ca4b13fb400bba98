// The gRPC API: sterna.v1.Inference over one ModelService, with health and reflection.
// Thread contract: all methods may be called from any thread.
#ifndef STERNA_SERVER_GRPC_GRPC_SERVER_H_
#define STERNA_SERVER_GRPC_GRPC_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/model_service.h"
#include "server/worker_pool.h"

namespace sterna {

struct GrpcServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  // 0: a free one
  int64_t max_message_bytes = 8 << 20;
};

class GrpcServer {
 public:
  // Listens and serves at once; health says NOT_SERVING until SetServing. `service` and `workers`
  // (where prompts are tokenised) must outlive the server. Errors name address and port.
  static StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcServerOptions& options,
                                                     ModelService* service, WorkerPool* workers);
  virtual ~GrpcServer() = default;  // Stop without grace

  virtual int port() const = 0;
  // What the health service says.
  virtual void SetServing(bool serving) = 0;
  // Refuses new calls, lets those in progress end within `grace`, then cancels them; returns when
  // all have ended. The worker pool must still run.
  virtual void Stop(std::chrono::milliseconds grace) = 0;
};

}  // namespace sterna

#endif  // STERNA_SERVER_GRPC_GRPC_SERVER_H_
