// `sterna serve`: loads a model and serves it over HTTP and gRPC until it is told to stop.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "server/command.h"
#include "server/config.h"
#include "server/grpc/grpc_server.h"
#include "server/http/api_handler.h"
#include "server/http/http_server.h"
#include "server/shutdown.h"

namespace sterna {
namespace {

using std::chrono::milliseconds;

// Requests that wait for a worker; HTTP's are bounded by its connections as well.
constexpr size_t kMaxWaitingCalls = 4096;
// How long transports may take to hand over what has been generated.
constexpr milliseconds kFlushTimeout(5000);

milliseconds Milliseconds(double seconds) {
  return milliseconds(static_cast<int64_t>(seconds * 1000));
}

HttpServerOptions HttpOptions(const ServerConfig& c) {
  return {.host = c.host,
          .port = static_cast<int>(c.http_port),
          .num_threads = static_cast<int>(c.http_threads),
          .max_connections = c.max_connections,
          .max_body_bytes = static_cast<uint64_t>(c.max_body_mib) << 20,
          .read_timeout = Milliseconds(c.read_timeout_seconds),
          .idle_timeout = Milliseconds(c.idle_timeout_seconds),
          .write_timeout = Milliseconds(c.write_timeout_seconds)};
}

// One line of JSON on standard output, for programs that start the server.
void Announce(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

// Everything that serves, in order of construction. The transports listen before the model is
// loaded, so that a port in use is found at once and probes are answered meanwhile.
class Server {
 public:
  explicit Server(const ServerConfig& config)
      : config_(config),
        workers_(static_cast<int>(config.worker_threads), kMaxWaitingCalls),
        service_(config.served_model_name, &metrics_),
        handler_(MakeApiHandler(&service_, config.cors_allow_origin)) {}

  // Workers last: calls that end find them, and no task outlives the transport it answers to.
  ~Server() {
    if (grpc_ != nullptr) grpc_->Stop(milliseconds(0));
    if (http_ != nullptr) http_->Stop();
    workers_.Stop();
  }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  Status Listen();
  Status Load();
  // Stays, alive but not ready, with the reason for whoever asks.
  void StayUnready(const Status& reason);
  // Ends in order: no new requests, running ones within the time limit, then the transports.
  void Drain();

 private:
  const ServerConfig config_;
  MetricsRegistry metrics_;
  WorkerPool workers_;
  ModelService service_;
  std::unique_ptr<HttpHandler> handler_;
  // Before the transports: what they still hold when they go refers to it.
  std::unique_ptr<Runtime> runtime_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
};

Status Server::Listen() {
  STERNA_ASSIGN_OR_RETURN(http_,
                          HttpServer::Start(HttpOptions(config_), handler_.get(), &workers_));
  STERNA_ASSIGN_OR_RETURN(grpc_,
                          GrpcServer::Start({.host = config_.host,
                                             .port = static_cast<int>(config_.grpc_port),
                                             .max_message_bytes = config_.max_body_mib << 20},
                                            &service_, &workers_));
  STERNA_LOG(kInfo, "listening on ", config_.host, ": HTTP port ", http_->port(), ", gRPC port ",
             grpc_->port());
  Announce(absl::StrCat(R"({"event":"listening","http_port":)", http_->port(), R"(,"grpc_port":)",
                        grpc_->port(), "}"));
  return absl::OkStatus();
}

Status Server::Load() {
  STERNA_LOG(kInfo, "loading ", config_.model);
  STERNA_ASSIGN_OR_RETURN(GenerationDefaults defaults, ReadGenerationDefaults(config_.model));
  RuntimeOptions options = ToRuntimeOptions(config_);
  options.engine.record_at_start = true;
  options.progress = [this, show = options.progress](int64_t done, int64_t total) {
    service_.SetLoadProgress(done, total);
    if (show) show(done, total);
  };
  STERNA_ASSIGN_OR_RETURN(runtime_, Runtime::Create(options, &metrics_, &Clock::Steady()));
  const ModelInfo& info = runtime_->info();
  STERNA_LOG(kInfo, "serving '", config_.served_model_name, "': family ", info.family, ", ",
             info.parameters, " parameters, on ", info.device, ", ", info.num_kv_blocks,
             " KV blocks (", info.kv_cache_bytes >> 20, " MiB), context ", info.max_context_tokens,
             " tokens, loaded in ", info.load_ns / 1000000, " ms, peak memory ",
             info.peak_resident_bytes >> 20, " MiB; energy: ", runtime_->energy_meter().method(),
             " (", runtime_->energy_meter().scope(), ")");
  service_.SetRuntime(runtime_.get(), defaults);
  grpc_->SetServing(true);
  Announce(R"({"event":"ready"})");
  return absl::OkStatus();
}

void Server::StayUnready(const Status& reason) {
  STERNA_LOG(kError, "the model cannot be loaded: ", reason.message());
  service_.SetLoadFailure(reason);
  const nlohmann::ordered_json event = {{"event", "load_failed"},
                                        {"reason", std::string(reason.message())}};
  Announce(event.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

void Server::Drain() {
  service_.StartDraining();
  grpc_->SetServing(false);
  http_->StartDraining();
  if (runtime_ != nullptr &&
      !runtime_->engine().WaitUntilIdle(Milliseconds(config_.drain_timeout_seconds))) {
    STERNA_LOG(kWarning, "cancelling what still runs after ", config_.drain_timeout_seconds,
               " seconds");
    runtime_->engine().CancelAll();
    runtime_->engine().WaitUntilIdle(kFlushTimeout);
  }
  if (!http_->WaitUntilIdle(kFlushTimeout)) {
    STERNA_LOG(kWarning, "closing HTTP connections whose clients do not read");
  }
  grpc_->Stop(kFlushTimeout);
}

int RunServe(std::span<const std::string> args) {
  const StatusOr<ServerConfig> config = ParseServerConfig(args);
  if (!config.ok()) return UsageError(config.status());
  ShutdownSignal::Block();
  ShutdownSignal shutdown;
  Server server(*config);
  if (const Status status = server.Listen(); !status.ok()) return Failure(status);
  const Status loaded = server.Load();
  if (!loaded.ok() && config->exit_on_load_failure) return Failure(loaded);
  if (!loaded.ok()) server.StayUnready(loaded);
  const std::string signal = shutdown.Wait();
  STERNA_LOG(kInfo, signal, ": draining");
  server.Drain();
  STERNA_LOG(kInfo, "stopped");
  return loaded.ok() ? kExitOk : kExitFailure;
}

std::string DescribeServeFlags(bool markdown) {
  ServerConfig config;
  return DescribeFlags(ServerFlags(config), markdown);
}

}  // namespace

Command ServeCommand() {
  return {.name = "serve",
          .summary = "Serves a model over HTTP and gRPC until SIGTERM or SIGINT.",
          .run = &RunServe,
          .describe_flags = &DescribeServeFlags};
}

}  // namespace sterna
