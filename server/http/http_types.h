// What the HTTP server and the routes say to each other; free of sockets and of Boost.
#ifndef STERNA_SERVER_HTTP_HTTP_TYPES_H_
#define STERNA_SERVER_HTTP_HTTP_TYPES_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sterna {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;  // upper case
  std::string target;  // as sent: path and query
  HttpHeaders headers;
  std::string body;

  // The first header of that name, whatever its case; empty when there is none.
  std::string_view Header(std::string_view name) const;
};

struct HttpResponse {
  int code = 200;
  HttpHeaders headers;  // without Content-Length, Transfer-Encoding, Connection and Date
  std::string body;
};

// A piece of a response that is made while it is sent.
struct HttpPart {
  std::optional<HttpResponse> head;  // in the first part; its body is not used
  std::string body;
  bool end = false;       // the last part
  bool complete = false;  // with head and end: the body is all there is, so its length is known
  bool close = false;     // with end: the connection is closed after it

  bool empty() const { return !head.has_value() && body.empty() && !end; }
};

// A response in progress. The connection takes parts only as fast as the client reads.
// Thread contract: one caller at a time. Destroying it before the end tells its makers to stop.
class HttpSource {
 public:
  virtual ~HttpSource() = default;
  // `on_ready` runs, on any thread, when Take has something again, and at once if it has now. It
  // must only hand over.
  virtual void SetReadyCallback(std::function<void()> on_ready) = 0;
  // Everything there is; empty() when there is nothing yet.
  virtual HttpPart Take() = 0;
};

// The answer to one request: a whole response, or a source that makes it.
struct HttpReply {
  HttpResponse response;
  std::unique_ptr<HttpSource> source;  // if set, `response` is not used
  HttpHeaders headers;                 // added to those of the response or of the source's head
  std::string route = "other";         // the route's pattern, for metrics
};

// Who answers requests. Thread contract: all methods may be called from any thread.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Whether Handle takes no time worth naming and needs no worker thread.
  virtual bool IsQuick(const HttpRequest& request) const = 0;
  virtual HttpReply Handle(const HttpRequest& request) = 0;
  // An error the server found before there was a request to handle, e.g. 413.
  virtual HttpResponse Error(int code, std::string_view message) const = 0;
  // Once for every response, when its head is sent.
  virtual void Count(std::string_view route, std::string_view method, int code) = 0;
};

}  // namespace sterna

#endif  // STERNA_SERVER_HTTP_HTTP_TYPES_H_
