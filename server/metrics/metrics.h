// The server's Prometheus metrics: what the engine and the transports report, rendered as text.
//
// Names, types, labels and buckets come from server/metrics/metric_names.h and from nowhere else.
// Lifetime: made before the engine, which calls it as its StatsListener, and outlives it.
// Thread contract: all methods may be called from any thread.
#ifndef STERNA_SERVER_METRICS_METRICS_H_
#define STERNA_SERVER_METRICS_METRICS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/errors.h"
#include "engine/runtime.h"
#include "engine/stats.h"
#include "kernels/ops.h"

namespace sterna {

// What /metrics says about what is being served.
struct ServedModel {
  std::string name;           // as in /v1/models
  std::string architecture;   // e.g. "bitnet"
  std::string family;         // "A", "A'", "B", "C", "D", "E"
  std::string device;         // e.g. "cpu/avx512_vnni"
  std::string energy_method;  // EnergyMeter::method()
  std::string energy_scope;   // EnergyMeter::scope()
  int64_t step_token_budget = 0;
  std::vector<Tuning> tuning;                // ModelInfo's
  std::vector<ModelInfo::Product> products;  // likewise
};

class MetricsRegistry final : public StatsListener {
 public:
  // The Content-Type of Render().
  static constexpr std::string_view kContentType = "text/plain; version=0.0.4; charset=utf-8";

  MetricsRegistry();
  ~MetricsRegistry() override;

  // Once, as soon as the model is loaded; series that carry the energy method appear with it.
  void SetServedModel(const ServedModel& model);

  void OnStep(const StepStats& stats) override;
  void OnFinish(const RequestStats& stats) override;
  // Also for the transports, when a request fails validation and never reaches the engine.
  void OnRefused(ErrorLabel label) override;

  // Once for every HTTP response. `route` is the route's pattern, never the path a client sent (one
  // time series each): e.g. "/v1/completions", and "other" where none matched.
  void CountHttpRequest(std::string_view route, std::string_view method, int code);
  // Once for every gRPC call: method as in "Generate", code as in "RESOURCE_EXHAUSTED".
  void CountGrpcRequest(std::string_view method, std::string_view code);

  // All metrics in Prometheus' text format.
  std::string Render() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sterna

#endif  // STERNA_SERVER_METRICS_METRICS_H_
