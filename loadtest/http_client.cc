#include "loadtest/http_client.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;
using Tcp = asio::ip::tcp;
using SteadyClock = std::chrono::steady_clock;

// How often a wait looks at `stop` and at the time.
constexpr std::chrono::milliseconds kPoll(50);

}  // namespace

// One TCP connection with an io_context of its own: asynchronous inside, so that every wait can be
// broken off, blocking outside.
class HttpClient::Connection {
 public:
  Connection(const Endpoint& endpoint, const std::atomic<bool>* stop)
      : endpoint_(endpoint), stop_(stop), socket_(context_) {}

  Status Connect(SteadyClock::time_point deadline) {
    Tcp::resolver resolver(context_);
    error_code error;
    const auto addresses = resolver.resolve(endpoint_.host, endpoint_.port, error);
    if (!error) {
      STERNA_RETURN_IF_ERROR(Wait(deadline, &error, [&](auto done) {
        asio::async_connect(socket_, addresses,
                            [done](error_code e, const Tcp::endpoint&) { done(e); });
      }));
    }
    if (error) {
      return absl::UnavailableError(absl::StrCat("cannot connect to ", endpoint_.host, ":",
                                                 endpoint_.port, ": ", error.message()));
    }
    socket_.set_option(Tcp::no_delay(true), error);  // without it requests are only slower
    return absl::OkStatus();
  }

  // Sets *answered as soon as anything of a response has come.
  StatusOr<int> Exchange(const http::request<http::string_body>& request,
                         SteadyClock::time_point deadline, const OnBody& on_body, bool* answered) {
    error_code error;
    const auto done_with = [](auto done) { return [done](error_code e, size_t) { done(e); }; };
    STERNA_RETURN_IF_ERROR(Wait(deadline, &error, [&](auto done) {
      http::async_write(socket_, request, done_with(done));
    }));
    http::response_parser<http::string_body> parser;
    parser.body_limit(boost::none);
    while (!error && !parser.is_done()) {
      STERNA_RETURN_IF_ERROR(Wait(deadline, &error, [&](auto done) {
        http::async_read_some(socket_, buffer_, parser, done_with(done));
      }));
      *answered = *answered || parser.got_some();
      std::string& body = parser.get().body();
      if (!body.empty()) on_body(body);
      body.clear();
    }
    if (error) {
      return absl::DataLossError(absl::StrCat("the connection broke off: ", error.message()));
    }
    reusable_ = parser.keep_alive();
    return static_cast<int>(parser.get().result_int());
  }

  bool reusable() const { return reusable_; }

 private:
  // Starts an operation and waits for its end, which comes early when the time is up or `stop` is
  // set.
  template <typename Start>
  Status Wait(SteadyClock::time_point deadline, error_code* error, const Start& start) {
    std::optional<error_code> result;
    start([&result](error_code e) { result = e; });
    Status broken_off;
    while (!result.has_value()) {
      context_.restart();
      context_.run_one_for(kPoll);
      if (result.has_value() || !broken_off.ok()) continue;
      if (stop_->load()) broken_off = absl::CancelledError("interrupted");
      if (SteadyClock::now() >= deadline) broken_off = absl::DeadlineExceededError("timed out");
      // The operation then ends with an error at once.
      if (!broken_off.ok()) {
        error_code ignored;
        socket_.close(ignored);
      }
    }
    *error = *result;
    return broken_off;
  }

  const Endpoint& endpoint_;
  const std::atomic<bool>* const stop_;
  asio::io_context context_{1};
  Tcp::socket socket_;
  boost::beast::flat_buffer buffer_;
  bool reusable_ = false;
};

HttpClient::HttpClient(const Endpoint& endpoint, const std::atomic<bool>* stop)
    : endpoint_(endpoint), stop_(stop) {}
HttpClient::~HttpClient() = default;

StatusOr<int> HttpClient::Send(std::string_view method, const std::string& target,
                               const std::string& body, std::chrono::nanoseconds timeout,
                               const OnBody& on_body) {
  const SteadyClock::time_point deadline = SteadyClock::now() + timeout;
  http::request<http::string_body> request;
  request.method_string(boost::beast::string_view(method.data(), method.size()));
  request.target(target);
  request.version(11);
  request.set(http::field::host, absl::StrCat(endpoint_.host, ":", endpoint_.port));
  request.set(http::field::user_agent, "sterna-loadtest/" STERNA_VERSION);
  if (!body.empty()) request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();

  while (true) {
    const bool fresh = connection_ == nullptr;
    std::unique_ptr<Connection> connection = std::move(connection_);
    if (fresh) {
      connection = std::make_unique<Connection>(endpoint_, stop_);
      STERNA_RETURN_IF_ERROR(connection->Connect(deadline));
    }
    bool answered = false;
    StatusOr<int> code = connection->Exchange(request, deadline, on_body, &answered);
    if (code.ok() && connection->reusable()) connection_ = std::move(connection);
    // A server may close a connection that rested just when the next request goes out on it.
    if (absl::IsDataLoss(code.status()) && !fresh && !answered) continue;
    return code;
  }
}

StatusOr<std::string> HttpClient::Fetch(std::string_view method, const std::string& target,
                                        const std::string& body, std::chrono::nanoseconds timeout) {
  std::string answer;
  STERNA_ASSIGN_OR_RETURN(
      const int code,
      Send(method, target, body, timeout, [&](std::string_view piece) { answer.append(piece); }));
  if (code != 200) {
    return absl::UnknownError(absl::StrCat(target, " answers ", code, ": ", answer.substr(0, 300)));
  }
  return answer;
}

}  // namespace sterna
