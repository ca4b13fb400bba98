// An HTTP/1.1 server: connections, limits and timeouts; what is answered is up to an HttpHandler.
//
// Every connection is a coroutine on one of a few threads; handlers run on the worker pool, sources
// are taken from only as fast as the client reads. While a request is worked on the socket is
// watched, and a client that has gone away ends its request. Requests may be pipelined; they are
// answered in order.
// Thread contract: all methods may be called from any thread.
#ifndef STERNA_SERVER_HTTP_HTTP_SERVER_H_
#define STERNA_SERVER_HTTP_HTTP_SERVER_H_

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/http/http_types.h"
#include "server/worker_pool.h"

namespace sterna {

struct HttpServerOptions {
  std::string host = "127.0.0.1";
  int port = 0;  // 0: a free one
  int num_threads = 2;
  int64_t max_connections = 1024;
  uint64_t max_header_bytes = 16 << 10;
  uint64_t max_body_bytes = 8 << 20;
  std::chrono::milliseconds read_timeout{30'000};   // for a head, and again for a body
  std::chrono::milliseconds idle_timeout{75'000};   // between requests
  std::chrono::milliseconds write_timeout{30'000};  // for one part of a response
};

class HttpServer {
 public:
  // Listens and serves at once. `handler` and `workers` must outlive the server. Errors name
  // address and port.
  static StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                     HttpHandler* handler, WorkerPool* workers);
  virtual ~HttpServer() = default;  // Stop

  virtual int port() const = 0;
  // Connections are closed after the response they are at; new ones still get an answer.
  virtual void StartDraining() = 0;
  // Waits until no request is being answered; false when `timeout` passed first.
  virtual bool WaitUntilIdle(std::chrono::milliseconds timeout) = 0;
  // Closes everything and ends the threads. Requests in progress are cancelled.
  virtual void Stop() = 0;
};

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_HTTP_SERVER_H_
