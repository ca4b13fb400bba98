// What both transports serve: the model, from the moment it is loaded until the server drains.
//
// Lifetime: made before the transports, which answer kLoading until SetRuntime; outlives them.
// Thread contract: all methods may be called from any thread, SetRuntime once.
#ifndef STERNA_SERVER_MODEL_SERVICE_H_
#define STERNA_SERVER_MODEL_SERVICE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/runtime.h"
#include "server/metrics/metrics.h"
#include "server/validation.h"

namespace sterna {

class ModelService {
 public:
  // `name`: what clients call the model. `metrics` must outlive this.
  ModelService(std::string name, MetricsRegistry* metrics)
      : name_(std::move(name)), metrics_(metrics), created_(NowUnixSeconds()) {}

  // From now on requests are served. `runtime` must outlive all of them.
  void SetRuntime(Runtime* runtime, GenerationDefaults defaults);
  // New requests are refused with kDraining; what was accepted goes on.
  void StartDraining();

  // Of the tensors' bytes, how many are loaded; until SetRuntime or SetLoadFailure.
  void SetLoadProgress(int64_t done_bytes, int64_t total_bytes);
  // There will be no runtime, for this reason. Instead of SetRuntime, once.
  void SetLoadFailure(const Status& reason);

  // kFailed: the engine failed while it served.
  enum class State { kLoading, kLoadFailed, kReady, kDraining, kFailed };
  State state() const;
  int64_t load_done_bytes() const { return load_done_bytes_.load(std::memory_order_relaxed); }
  int64_t load_total_bytes() const { return load_total_bytes_.load(std::memory_order_relaxed); }
  // Once state() has been kLoadFailed.
  const std::string& load_failure() const { return load_failure_; }

  // The runtime; kLoading before there is one, kModelNotFound when `model` is neither empty nor the
  // served name.
  StatusOr<Runtime*> Find(std::string_view model) const;

  // What BuildRequest needs; only once Find has succeeded.
  const GenerationDefaults& defaults() const { return defaults_; }
  ModelLimits limits() const;

  // Submits all or none: when one is refused, those before it are cancelled.
  StatusOr<std::vector<std::shared_ptr<TokenStream>>> Submit(std::vector<Request> requests);

  // Counts a request that failed before Submit.
  void CountRefused(const Status& status) { metrics_->OnRefused(ErrorLabelOf(status)); }

  const std::string& name() const { return name_; }
  MetricsRegistry& metrics() { return *metrics_; }
  // When the server was started.
  int64_t created_unix_seconds() const { return created_; }
  static int64_t NowUnixSeconds();

 private:
  const std::string name_;
  MetricsRegistry* const metrics_;
  const int64_t created_;
  GenerationDefaults defaults_;  // written before runtime_ is published, const from then on
  std::atomic<Runtime*> runtime_{nullptr};
  std::atomic<bool> draining_{false};
  std::atomic<int64_t> load_done_bytes_{0};
  std::atomic<int64_t> load_total_bytes_{0};
  std::string load_failure_;  // written before load_failed_ is published, const from then on
  std::atomic<bool> load_failed_{false};
};

}  // namespace sterna

#endif  // STERNA_SERVER_MODEL_SERVICE_H_
