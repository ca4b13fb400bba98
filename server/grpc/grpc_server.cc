#include "server/grpc/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/errors.h"
#include "server/grpc/generate_reactor.h"
#include "server/grpc/grpc_messages.h"
#include "server/prompt.h"
#include "sterna/v1/inference.grpc.pb.h"

namespace sterna {
namespace {

constexpr char kServiceName[] = "sterna.v1.Inference";
// Streams that wait to be written to; each is there at most once.
constexpr size_t kMaxDeliveries = 1 << 20;
// Calls at once on one connection.
constexpr int kMaxConcurrentStreams = 1024;

class InferenceService final : public v1::Inference::CallbackService {
 public:
  InferenceService(ModelService* service, WorkerPool* workers)
      : delivery_(1, kMaxDeliveries),
        resources_{.service = service, .workers = workers, .delivery = &delivery_} {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    return StartGenerate(resources_, context, request);
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Answer(context, "Tokenize", [this, request, response]() -> Status {
      STERNA_ASSIGN_OR_RETURN(Runtime * runtime, resources_.service->Find(request->model()));
      const bool add_special = !request->has_add_special_tokens() || request->add_special_tokens();
      STERNA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              EncodePrompt(*runtime, request->text(), add_special, "text"));
      response->mutable_ids()->Add(ids.begin(), ids.end());
      response->set_max_context_tokens(runtime->info().max_context_tokens);
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Answer(context, "Detokenize", [this, request, response]() -> Status {
      STERNA_ASSIGN_OR_RETURN(Runtime * runtime, resources_.service->Find(request->model()));
      STERNA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                              CheckTokenIds({request->ids().begin(), request->ids().end()},
                                            resources_.service->limits(), "ids"));
      response->set_text(Decode(runtime->tokenizer(), ids));
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    return Answer(context, "GetModel", [this, request, response]() -> Status {
      STERNA_ASSIGN_OR_RETURN(Runtime * runtime, resources_.service->Find(request->model()));
      FillModel(resources_.service->name(), *runtime, response);
      return absl::OkStatus();
    });
  }

 private:
  // Runs `work` on a worker and finishes the call with its status. gRPC keeps context, request and
  // response alive until then.
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, std::string_view method,
                                   std::function<Status()> work) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    const bool posted =
        resources_.workers->Post([this, context, reactor, method, work = std::move(work)] {
          const Status status = WithoutExceptions(work);
          if (!status.ok()) resources_.service->CountRefused(status);
          reactor->Finish(EndCall(*resources_.service, *context, method, status));
        });
    if (!posted) {
      const Status status =
          MakeError(ErrorLabel::kQueueFull, "too many requests wait to be read; try again later");
      resources_.service->CountRefused(status);
      reactor->Finish(EndCall(*resources_.service, *context, method, status));
    }
    return reactor;
  }

  WorkerPool delivery_;
  const GrpcCallResources resources_;
};

class GrpcServerImpl final : public GrpcServer {
 public:
  GrpcServerImpl(ModelService* service, WorkerPool* workers) : service_(service, workers) {}
  ~GrpcServerImpl() override { Stop(std::chrono::milliseconds(0)); }

  Status Listen(const GrpcServerOptions& options);
  int port() const override { return port_; }
  void SetServing(bool serving) override {
    grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
    health->SetServingStatus(serving);
    health->SetServingStatus(kServiceName, serving);
  }
  void Stop(std::chrono::milliseconds grace) override {
    if (server_ == nullptr) return;
    server_->Shutdown(std::chrono::system_clock::now() + grace);
    server_->Wait();
    server_.reset();
  }

 private:
  InferenceService service_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

Status GrpcServerImpl::Listen(const GrpcServerOptions& options) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  const bool ipv6 = options.host.find(':') != std::string::npos;
  const std::string address = ipv6 ? absl::StrCat("[", options.host, "]:", options.port)
                                   : absl::StrCat(options.host, ":", options.port);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
  builder.RegisterService(&service_);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  // Without this a second server would share the port in silence.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreams);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port_ == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on gRPC address ", address,
                                               "; is another program using the port?"));
  }
  SetServing(false);
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcServerOptions& options,
                                                        ModelService* service,
                                                        WorkerPool* workers) {
  auto server = std::make_unique<GrpcServerImpl>(service, workers);
  STERNA_RETURN_IF_ERROR(server->Listen(options));
  return server;
}

}  // namespace sterna
