#include "server/grpc/generate_reactor.h"

#include <exception>
#include <functional>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/mutex.h"
#include "engine/errors.h"
#include "server/grpc/grpc_messages.h"
#include "server/prompt.h"

namespace sterna {
namespace {

constexpr size_t kMaxRequestIdBytes = 128;

class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  GenerateReactor(const GrpcCallResources& resources, grpc::CallbackServerContext* context,
                  const v1::GenerateRequest* request)
      : resources_(resources), context_(context), request_(request) {}

  void Begin();

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // On a worker: validates, tokenises and submits.
  void Prepare();
  StatusOr<Request> Build();
  // Takes what the stream has and writes it, unless a write is in flight. StartWrite and Finish may
  // call back before they return, so no lock is held then.
  void Pump() STERNA_EXCLUDES(mutex_);
  void End(const Status& status) STERNA_EXCLUDES(mutex_);

  const GrpcCallResources resources_;
  grpc::CallbackServerContext* const context_;
  const v1::GenerateRequest* const request_;  // gRPC's, alive until OnDone
  std::string id_;
  const Tokenizer* tokenizer_ = nullptr;
  // gRPC holds a plain pointer: this keeps the reactor alive from Begin to OnDone, and callbacks
  // that come later find it gone.
  std::shared_ptr<GenerateReactor> self_;

  Mutex mutex_;
  std::shared_ptr<TokenStream> stream_ STERNA_GUARDED_BY(mutex_);
  bool busy_ STERNA_GUARDED_BY(mutex_) = false;  // response_ belongs to a write in flight
  bool cancelled_ STERNA_GUARDED_BY(mutex_) = false;
  bool finished_ STERNA_GUARDED_BY(mutex_) = false;
  v1::GenerateResponse response_;
};

void GenerateReactor::Begin() {
  self_ = shared_from_this();
  // The task keeps the reactor alive by itself: a call that is cancelled may be done before it
  // runs.
  if (!resources_.workers->Post([self = self_] { self->Prepare(); })) {
    const Status status =
        MakeError(ErrorLabel::kQueueFull, "too many requests wait to be read; try again later");
    resources_.service->CountRefused(status);
    End(status);
  }
}

StatusOr<Request> GenerateReactor::Build() {
  ModelService& service = *resources_.service;
  STERNA_ASSIGN_OR_RETURN(Runtime * runtime, service.Find(request_->model()));
  tokenizer_ = &runtime->tokenizer();
  if (request_->request_id().size() > kMaxRequestIdBytes) {
    return MakeError(ErrorLabel::kInvalidRequest,
                     absl::StrCat("request_id has ", request_->request_id().size(),
                                  " bytes; at most ", kMaxRequestIdBytes, " are allowed"),
                     "request_id");
  }
  std::vector<int32_t> prompt;
  switch (request_->prompt_case()) {
    case v1::GenerateRequest::kText: {
      STERNA_ASSIGN_OR_RETURN(prompt, EncodePrompt(*runtime, request_->text(), true, "text"));
      break;
    }
    case v1::GenerateRequest::kTokenIds: {
      const auto& ids = request_->token_ids().ids();
      STERNA_ASSIGN_OR_RETURN(
          prompt, CheckTokenIds({ids.begin(), ids.end()}, service.limits(), "token_ids"));
      break;
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return MakeError(ErrorLabel::kInvalidRequest, "prompt is missing; set text or token_ids",
                       "prompt");
  }
  STERNA_ASSIGN_OR_RETURN(
      Request request, BuildRequest(ParametersOf(*request_), service.defaults(), service.limits(),
                                    std::move(prompt), std::nullopt));
  request.id = id_;
  return request;
}

void GenerateReactor::Prepare() {
  {
    MutexLock lock(mutex_);
    if (finished_) return;
  }
  id_ = request_->request_id().empty() ? RandomId("gen-") : request_->request_id();
  StatusOr<Request> request = Build();
  if (!request.ok()) {
    resources_.service->CountRefused(request.status());
    return End(request.status());
  }
  std::vector<Request> one;
  one.push_back(*std::move(request));
  StatusOr<std::vector<std::shared_ptr<TokenStream>>> streams =
      resources_.service->Submit(std::move(one));
  if (!streams.ok()) return End(streams.status());
  const std::shared_ptr<TokenStream> stream = (*streams)[0];
  bool cancelled = false;
  {
    MutexLock lock(mutex_);
    stream_ = stream;
    cancelled = cancelled_;
  }
  if (cancelled) stream->Cancel();
  stream->SetReadyCallback([weak = weak_from_this(), delivery = resources_.delivery] {
    delivery->Post([weak] {
      if (auto self = weak.lock()) self->Pump();
    });
  });
}

void GenerateReactor::Pump() {
  StreamUpdate update;
  {
    MutexLock lock(mutex_);
    if (finished_ || busy_ || stream_ == nullptr) return;
    update = stream_->Take();
    if (update.empty()) return;
    busy_ = true;
  }
  if (update.end.has_value() && !update.end->error.ok()) return End(update.end->error);
  response_.Clear();
  response_.set_request_id(id_);
  FillResponse(*tokenizer_, update, request_->sampling().has_logprobs(), &response_);
  if (!update.end.has_value()) return StartWrite(&response_);
  {
    MutexLock lock(mutex_);
    finished_ = true;
  }
  StartWriteAndFinish(&response_, grpc::WriteOptions(),
                      EndCall(*resources_.service, *context_, "Generate", absl::OkStatus()));
}

void GenerateReactor::End(const Status& status) {
  {
    MutexLock lock(mutex_);
    if (finished_) return;
    finished_ = true;
  }
  Finish(EndCall(*resources_.service, *context_, "Generate", status));
}

void GenerateReactor::OnWriteDone(bool ok) {
  {
    MutexLock lock(mutex_);
    if (finished_) return;
    busy_ = false;
  }
  // A failed write means that the call is broken off; OnCancel sees to the stream, and its end to
  // the call.
  if (!ok) return End(MakeError(ErrorLabel::kCancelled, "the client has gone away"));
  Pump();
}

void GenerateReactor::OnCancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  if (stream_ != nullptr) stream_->Cancel();
}

void GenerateReactor::OnDone() {
  std::shared_ptr<TokenStream> stream;
  {
    MutexLock lock(mutex_);
    stream = stream_;
  }
  if (stream != nullptr) {
    stream->SetReadyCallback(nullptr);
    // Harmless where it has ended; where the call has ended first, nobody waits for the rest.
    stream->Cancel();
  }
  self_.reset();
}

}  // namespace

Status WithoutExceptions(const std::function<Status()>& work) {
  try {
    return work();
  } catch (const std::exception& e) {
    STERNA_LOG(kError, "a gRPC call failed: ", e.what());
    return MakeError(ErrorLabel::kInternal, "the server failed to answer this call");
  }
}

grpc::ServerWriteReactor<v1::GenerateResponse>* StartGenerate(const GrpcCallResources& resources,
                                                              grpc::CallbackServerContext* context,
                                                              const v1::GenerateRequest* request) {
  const auto reactor = std::make_shared<GenerateReactor>(resources, context, request);
  reactor->Begin();
  return reactor.get();
}

grpc::Status EndCall(ModelService& service, grpc::CallbackServerContext& context,
                     std::string_view method, const Status& status) {
  grpc::Status result = ToGrpcStatus(status);
  service.metrics().CountGrpcRequest(method, GrpcCodeName(result.error_code()));
  if (!status.ok()) {
    context.AddTrailingMetadata("sterna-error-label",
                                std::string(ErrorLabelName(ErrorLabelOf(status))));
    const std::string param = ErrorParamOf(status);
    if (!param.empty()) context.AddTrailingMetadata("sterna-error-param", MetadataValue(param));
  }
  return result;
}

}  // namespace sterna
