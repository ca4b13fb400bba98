#include "server/http/http_server.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "base/process_threads.h"
#include "server/http/http_text.h"

namespace sterna {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

// Bytes taken from a socket at once, and of later requests kept while one is being answered.
constexpr size_t kReadBytes = 16 << 10;
// Bytes a connection is read on for, after an answer that left its request unread.
constexpr size_t kLingerBytes = 1 << 20;
constexpr std::chrono::seconds kLinger(2);

// What all connections of a server share.
struct Shared {
  HttpServerOptions options;
  HttpHandler* handler;
  WorkerPool* workers;
  std::atomic<bool> draining{false};
  Mutex mutex;
  CondVar idle;
  int64_t num_answering STERNA_GUARDED_BY(mutex) = 0;

  void Begin() {
    MutexLock lock(mutex);
    ++num_answering;
  }
  void End() {
    MutexLock lock(mutex);
    if (--num_answering == 0) idle.NotifyAll();
  }
};

// One client's connection. Everything runs on the socket's strand, apart from the ready callback,
// which only posts to it.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(tcp::socket socket, std::shared_ptr<Shared> shared)
      : strand_(socket.get_executor()),
        stream_(std::move(socket)),
        wake_(strand_, asio::steady_timer::time_point::max()),
        shared_(std::move(shared)) {}

  asio::awaitable<void> Run();
  // Answers 503 without reading anything.
  asio::awaitable<void> RunRefused();
  const asio::any_io_executor& executor() const { return strand_; }
  // After the threads have ended: lets go of what a response in progress holds.
  void Abandon() { reply_.reset(); }

 private:
  // False when the connection is to be closed; an error has been answered then.
  asio::awaitable<bool> ReadRequest();
  asio::awaitable<bool> AnswerReadError(error_code error);
  void TakeRequest(http::request<http::string_body> message);

  // Dispatches request_ and sends the reply; false when the connection is to be closed.
  asio::awaitable<bool> Answer();
  void Dispatch();
  asio::awaitable<bool> SendReply();
  asio::awaitable<bool> SendWhole(const HttpResponse& response, bool keep_alive);
  asio::awaitable<bool> SendSource(HttpSource& source);
  void AddHeaders(HttpResponse& response) const {
    const HttpHeaders& more = reply_->headers;
    response.headers.insert(response.headers.end(), more.begin(), more.end());
  }
  asio::awaitable<bool> Write(std::string_view data);
  // Reads and drops what the client still sends, so that it is not reset before it reads the
  // answer.
  asio::awaitable<void> Linger();

  // Reads ahead while a request is being answered, to notice when the client goes away.
  void Watch();
  asio::awaitable<void> StopWatching();

  void Wake() {
    woken_ = true;
    wake_.cancel();
  }
  asio::awaitable<void> WaitForWake();

  // Called from any thread.
  void PostWake() {
    asio::post(strand_, [self = shared_from_this()] { self->Wake(); });
  }

  asio::any_io_executor strand_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_{64 << 10};
  asio::steady_timer wake_;
  bool woken_ = false;
  const std::shared_ptr<Shared> shared_;

  HttpRequest request_;
  bool keep_alive_ = false;  // of the request
  bool chunked_ok_ = false;  // HTTP/1.1
  std::optional<HttpReply> reply_;
  bool watching_ = false;
  bool stop_watching_ = false;
  bool gone_ = false;
};

asio::awaitable<void> Connection::WaitForWake() {
  while (!woken_) {
    error_code ignored;
    co_await wake_.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
  }
  woken_ = false;
}

asio::awaitable<bool> Connection::Write(std::string_view data) {
  error_code error;
  stream_.expires_after(shared_->options.write_timeout);
  co_await asio::async_write(stream_, asio::buffer(data.data(), data.size()),
                             asio::redirect_error(asio::use_awaitable, error));
  co_return !error;
}

asio::awaitable<void> Connection::Run() {
  error_code ignored;
  stream_.socket().set_option(tcp::no_delay(true), ignored);
  while (co_await ReadRequest()) {
    shared_->Begin();
    const bool keep_open = co_await Answer();
    shared_->End();
    if (!keep_open) break;
  }
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  co_await Linger();
}

asio::awaitable<void> Connection::RunRefused() {
  keep_alive_ = false;
  shared_->handler->Count("other", "other", 503);
  co_await SendWhole(shared_->handler->Error(503, "too many connections; try again later"), false);
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_send, ignored);
  co_await Linger();
}

asio::awaitable<void> Connection::Linger() {
  error_code error;
  stream_.expires_after(kLinger);
  std::vector<char> dropped(4096);
  for (size_t total = 0; !error && total < kLingerBytes;) {
    total += co_await stream_.async_read_some(asio::buffer(dropped),
                                              asio::redirect_error(asio::use_awaitable, error));
  }
}

asio::awaitable<bool> Connection::ReadRequest() {
  error_code error;
  if (buffer_.size() == 0) {
    stream_.expires_after(shared_->options.idle_timeout);
    const size_t size = co_await stream_.async_read_some(
        buffer_.prepare(kReadBytes), asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return false;
    buffer_.commit(size);
  }
  http::request_parser<http::string_body> parser;
  parser.header_limit(static_cast<std::uint32_t>(shared_->options.max_header_bytes));
  parser.body_limit(shared_->options.max_body_bytes);
  // Unknown until the head is read; an answer to a broken head closes.
  request_ = {};
  stream_.expires_after(shared_->options.read_timeout);
  co_await http::async_read_header(stream_, buffer_, parser,
                                   asio::redirect_error(asio::use_awaitable, error));
  if (error) co_return co_await AnswerReadError(error);
  if (!parser.is_done()) {
    if (EqualsIgnoreCase(std::string(parser.get()[http::field::expect]), "100-continue")) {
      if (!co_await Write("HTTP/1.1 100 Continue\r\n\r\n")) co_return false;
    }
    stream_.expires_after(shared_->options.read_timeout);
    co_await http::async_read(stream_, buffer_, parser,
                              asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return co_await AnswerReadError(error);
  }
  TakeRequest(parser.release());
  co_return true;
}

asio::awaitable<bool> Connection::AnswerReadError(error_code error) {
  int code = 400;
  std::string message = "the request is not valid HTTP: " + error.message();
  if (error == http::error::body_limit) {
    code = 413;
    message = absl::StrCat("the body is larger than ", shared_->options.max_body_bytes,
                           " bytes, the most allowed here (--max-body-mib)");
  } else if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    code = 431;
    message = absl::StrCat("the head of the request is larger than ",
                           shared_->options.max_header_bytes, " bytes, the most allowed");
  } else if (error == beast::error::timeout ||
             error.category() != http::make_error_code(http::error::bad_method).category() ||
             error == http::error::end_of_stream || error == http::error::partial_message) {
    co_return false;  // the client is gone, or the stream has closed the socket
  }
  shared_->handler->Count("other", "other", code);
  co_await SendWhole(shared_->handler->Error(code, message), false);
  co_return false;
}

void Connection::TakeRequest(http::request<http::string_body> message) {
  keep_alive_ = message.keep_alive();
  chunked_ok_ = message.version() >= 11;
  request_.method = std::string(message.method_string());
  request_.target = std::string(message.target());
  for (const auto& field : message) {
    request_.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  }
  request_.body = std::move(message.body());
}

void Connection::Dispatch() {
  if (shared_->handler->IsQuick(request_)) {
    reply_ = shared_->handler->Handle(request_);
    Wake();
    return;
  }
  const std::string method = request_.method;
  auto work = [self = shared_from_this(), request = std::move(request_)] {
    // The reply reaches the connection on its strand: until then it belongs to this task alone.
    auto reply = std::make_shared<HttpReply>(self->shared_->handler->Handle(request));
    asio::post(self->strand_, [self, reply] {
      self->reply_ = std::move(*reply);
      self->Wake();
    });
  };
  request_ = {};
  request_.method = method;
  if (!shared_->workers->Post(std::move(work))) {
    reply_ = {.response = shared_->handler->Error(503, "the server is too busy; try again later"),
              .source = nullptr};
    Wake();
  }
}

asio::awaitable<bool> Connection::Answer() {
  gone_ = false;
  Watch();
  Dispatch();
  while (!reply_.has_value()) co_await WaitForWake();
  bool keep_open = !gone_;
  if (keep_open) keep_open = co_await SendReply();
  // Here at the latest a request that nobody waits for is cancelled.
  reply_.reset();
  co_await StopWatching();
  co_return keep_open && !gone_;
}

asio::awaitable<bool> Connection::SendReply() {
  if (reply_->source != nullptr) {
    reply_->source->SetReadyCallback([weak = weak_from_this()] {
      if (auto self = weak.lock()) self->PostWake();
    });
    co_return co_await SendSource(*reply_->source);
  }
  AddHeaders(reply_->response);
  shared_->handler->Count(reply_->route, request_.method, reply_->response.code);
  co_return co_await SendWhole(reply_->response, keep_alive_ && !shared_->draining.load());
}

asio::awaitable<bool> Connection::SendWhole(const HttpResponse& response, bool keep_alive) {
  std::string data = ResponseHead(response, BodyFraming::kLength,
                                  static_cast<int64_t>(response.body.size()), keep_alive);
  if (request_.method != "HEAD") data += response.body;
  const bool sent = co_await Write(data);
  co_return sent&& keep_alive;
}

asio::awaitable<bool> Connection::SendSource(HttpSource& source) {
  const bool keep_alive = keep_alive_ && !shared_->draining.load();
  while (true) {
    HttpPart part = source.Take();
    if (part.empty()) {
      if (gone_) co_return false;
      co_await WaitForWake();
      continue;
    }
    if (part.head.has_value()) {
      AddHeaders(*part.head);
      shared_->handler->Count(reply_->route, request_.method, part.head->code);
      if (part.complete) {
        part.head->body = std::move(part.body);
        co_return co_await SendWhole(*part.head, keep_alive);
      }
    }
    std::string data;
    if (part.head.has_value()) {
      data =
          ResponseHead(*part.head, chunked_ok_ ? BodyFraming::kChunked : BodyFraming::kUntilClose,
                       0, keep_alive);
    }
    data += chunked_ok_ ? Chunk(part.body) : part.body;
    if (part.end && chunked_ok_) data += kLastChunk;
    if (!co_await Write(data)) co_return false;
    if (part.end) co_return keep_alive&& chunked_ok_ && !part.close;
  }
}

void Connection::Watch() {
  // A client that sends more requests ahead than this is not watched any more.
  if (gone_ || buffer_.size() >= kReadBytes) return;
  watching_ = true;
  stream_.expires_never();
  stream_.async_read_some(
      buffer_.prepare(kReadBytes),
      asio::bind_executor(strand_, [self = shared_from_this()](error_code error, size_t size) {
        self->watching_ = false;
        self->buffer_.commit(size);
        if (error) {
          self->gone_ = self->gone_ || !self->stop_watching_;
        } else if (!self->stop_watching_) {
          self->Watch();
        }
        self->Wake();
      }));
}

asio::awaitable<void> Connection::StopWatching() {
  stop_watching_ = true;
  if (watching_) stream_.cancel();
  while (watching_) co_await WaitForWake();
  stop_watching_ = false;
}

class HttpServerImpl final : public HttpServer {
 public:
  HttpServerImpl(HttpServerOptions options, HttpHandler* handler, WorkerPool* workers)
      : shared_(std::make_shared<Shared>()), acceptor_(context_), retry_(context_) {
    shared_->options = std::move(options);
    shared_->handler = handler;
    shared_->workers = workers;
  }
  ~HttpServerImpl() override { Stop(); }

  Status Listen();
  void StartThreads();
  int port() const override { return port_; }
  void StartDraining() override { shared_->draining.store(true); }
  bool WaitUntilIdle(std::chrono::milliseconds timeout) override;
  void Stop() override;

 private:
  asio::awaitable<void> AcceptLoop();
  asio::awaitable<void> Serve(std::shared_ptr<Connection> connection, bool refused);

  const std::shared_ptr<Shared> shared_;
  asio::io_context context_;
  tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  int port_ = 0;
  std::vector<std::thread> threads_;
  Mutex mutex_;
  std::unordered_map<Connection*, std::weak_ptr<Connection>> connections_ STERNA_GUARDED_BY(mutex_);
};

Status HttpServerImpl::Listen() {
  const HttpServerOptions& o = shared_->options;
  const auto failed = [&o](std::string_view what, const error_code& error) {
    return absl::UnavailableError(absl::StrCat("cannot ", std::string(what), " HTTP address ",
                                               o.host, " port ", o.port, ": ", error.message()));
  };
  error_code error;
  const auto address = asio::ip::make_address(o.host == "localhost" ? "127.0.0.1" : o.host, error);
  if (error) return failed("understand", error);
  const tcp::endpoint endpoint(address, static_cast<unsigned short>(o.port));
  acceptor_.open(endpoint.protocol(), error);
  if (error) return failed("open", error);
  acceptor_.set_option(asio::socket_base::reuse_address(true), error);
  acceptor_.bind(endpoint, error);
  if (error) return failed("bind", error);
  acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return failed("listen on", error);
  port_ = acceptor_.local_endpoint().port();
  return absl::OkStatus();
}

void HttpServerImpl::StartThreads() {
  asio::co_spawn(context_, AcceptLoop(), asio::detached);
  for (int i = 0; i < shared_->options.num_threads; ++i) {
    threads_.emplace_back([this] {
      NameThisThread("sterna-http");
      context_.run();
    });
  }
}

asio::awaitable<void> HttpServerImpl::AcceptLoop() {
  while (acceptor_.is_open()) {
    error_code error;
    tcp::socket socket = co_await acceptor_.async_accept(
        asio::make_strand(context_), asio::redirect_error(asio::use_awaitable, error));
    if (error) {
      if (error == asio::error::operation_aborted) co_return;
      // Out of file descriptors, most likely: let some connections end first.
      STERNA_LOG(kWarning, "cannot accept an HTTP connection: ", error.message());
      retry_.expires_after(std::chrono::milliseconds(100));
      co_await retry_.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    auto connection = std::make_shared<Connection>(std::move(socket), shared_);
    bool refused = false;
    {
      MutexLock lock(mutex_);
      refused = static_cast<int64_t>(connections_.size()) >= shared_->options.max_connections;
      if (!refused) connections_.emplace(connection.get(), connection);
    }
    asio::co_spawn(connection->executor(), Serve(connection, refused), asio::detached);
  }
}

asio::awaitable<void> HttpServerImpl::Serve(std::shared_ptr<Connection> connection, bool refused) {
  if (refused) {
    co_await connection->RunRefused();
    co_return;
  }
  co_await connection->Run();
  MutexLock lock(mutex_);
  connections_.erase(connection.get());
}

bool HttpServerImpl::WaitUntilIdle(std::chrono::milliseconds timeout) {
  const auto end = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(shared_->mutex);
  while (shared_->num_answering > 0) {
    const auto left = end - std::chrono::steady_clock::now();
    if (left <= std::chrono::nanoseconds(0)) return false;
    shared_->idle.WaitFor(shared_->mutex, left);
  }
  return true;
}

void HttpServerImpl::Stop() {
  context_.stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  MutexLock lock(mutex_);
  for (const auto& [key, weak] : connections_) {
    if (auto connection = weak.lock()) connection->Abandon();
  }
  connections_.clear();
}

}  // namespace

StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                        HttpHandler* handler, WorkerPool* workers) {
  auto server = std::make_unique<HttpServerImpl>(options, handler, workers);
  STERNA_RETURN_IF_ERROR(server->Listen());
  server->StartThreads();
  return server;
}

}  // namespace sterna
