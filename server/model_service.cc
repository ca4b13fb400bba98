#include "server/model_service.h"

#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/errors.h"

namespace sterna {

int64_t ModelService::NowUnixSeconds() { return static_cast<int64_t>(std::time(nullptr)); }

void ModelService::SetRuntime(Runtime* runtime, GenerationDefaults defaults) {
  defaults_ = defaults;
  metrics_->SetServedModel({.name = name_,
                            .architecture = runtime->info().architecture,
                            .family = runtime->info().family,
                            .device = runtime->info().device,
                            .energy_method = runtime->energy_meter().method(),
                            .energy_scope = runtime->energy_meter().scope(),
                            .step_token_budget = runtime->info().max_step_tokens,
                            .tuning = runtime->info().tuning,
                            .products = runtime->info().products});
  runtime_.store(runtime, std::memory_order_release);
}

void ModelService::SetLoadProgress(int64_t done_bytes, int64_t total_bytes) {
  load_total_bytes_.store(total_bytes, std::memory_order_relaxed);
  load_done_bytes_.store(done_bytes, std::memory_order_relaxed);
}

void ModelService::SetLoadFailure(const Status& reason) {
  load_failure_ = std::string(reason.message());
  load_failed_.store(true, std::memory_order_release);
}

void ModelService::StartDraining() {
  draining_.store(true);
  if (Runtime* runtime = runtime_.load(std::memory_order_acquire))
    runtime->engine().StopAccepting();
}

ModelService::State ModelService::state() const {
  if (draining_.load()) return State::kDraining;
  Runtime* runtime = runtime_.load(std::memory_order_acquire);
  if (load_failed_.load(std::memory_order_acquire)) return State::kLoadFailed;
  if (runtime == nullptr) return State::kLoading;
  return runtime->engine().healthy() ? State::kReady : State::kFailed;
}

StatusOr<Runtime*> ModelService::Find(std::string_view model) const {
  if (!model.empty() && model != name_) {
    return MakeError(ErrorLabel::kModelNotFound,
                     absl::StrCat("the model '", std::string(model.substr(0, 256)),
                                  "' is not served here; '", name_, "' is"),
                     "model");
  }
  Runtime* runtime = runtime_.load(std::memory_order_acquire);
  if (runtime == nullptr && load_failed_.load(std::memory_order_acquire)) {
    return MakeError(ErrorLabel::kLoading,
                     "the model could not be loaded; /health/ready and the log say why");
  }
  if (runtime == nullptr) {
    return MakeError(ErrorLabel::kLoading, "the model is still loading; try again soon");
  }
  return runtime;
}

ModelLimits ModelService::limits() const {
  const Runtime* runtime = runtime_.load(std::memory_order_acquire);
  return {.vocab_size = runtime->info().vocab_size,
          .max_context_tokens = runtime->info().max_context_tokens};
}

StatusOr<std::vector<std::shared_ptr<TokenStream>>> ModelService::Submit(
    std::vector<Request> requests) {
  Engine& engine = runtime_.load(std::memory_order_acquire)->engine();
  std::vector<std::shared_ptr<TokenStream>> streams;
  for (Request& request : requests) {
    StatusOr<std::shared_ptr<TokenStream>> stream = engine.Submit(std::move(request));
    if (!stream.ok()) {
      for (const auto& accepted : streams) accepted->Cancel();
      return stream.status();
    }
    streams.push_back(*std::move(stream));
  }
  return streams;
}

}  // namespace sterna
