// A blocking HTTP/1.1 client for one server over one connection that is kept open between requests.
// Thread contract: one caller at a time; `stop` may be set by anyone.
#ifndef STERNA_LOADTEST_HTTP_CLIENT_H_
#define STERNA_LOADTEST_HTTP_CLIENT_H_

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/status.h"
#include "loadtest/options.h"

namespace sterna {

class HttpClient {
 public:
  using OnBody = std::function<void(std::string_view piece)>;

  // A request ends early, as Cancelled, when `stop` (which must outlive this) becomes true.
  HttpClient(const Endpoint& endpoint, const std::atomic<bool>* stop);
  ~HttpClient();

  // Sends one request and hands over the body as it comes; returns the response's status code.
  // Unavailable: no connection; DeadlineExceeded: `timeout` passed; DataLoss: the server broke off.
  StatusOr<int> Send(std::string_view method, const std::string& target, const std::string& body,
                     std::chrono::nanoseconds timeout, const OnBody& on_body);
  // The same, with the whole body of a 200; Unknown with code and body for any other.
  StatusOr<std::string> Fetch(std::string_view method, const std::string& target,
                              const std::string& body, std::chrono::nanoseconds timeout);

 private:
  class Connection;

  const Endpoint endpoint_;
  const std::atomic<bool>* const stop_;
  std::unique_ptr<Connection> connection_;
};

}  // namespace sterna

#endif  // STERNA_LOADTEST_HTTP_CLIENT_H_
