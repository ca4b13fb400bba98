#include "server/metrics/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "base/process_threads.h"
#include "server/metrics/metric_names.h"

namespace sterna {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using Labels = std::map<std::string, std::string>;

constexpr size_t kNumMetrics = kMetrics.size();
constexpr size_t Index(MetricId id) { return static_cast<size_t>(id); }

constexpr std::array kFinishReasons = {FinishReason::kStop, FinishReason::kLength,
                                       FinishReason::kCancelled, FinishReason::kFailed};
constexpr std::array<std::string_view, 7> kHttpMethods = {"GET",    "HEAD",    "POST", "PUT",
                                                          "DELETE", "OPTIONS", "PATCH"};

double Seconds(int64_t ns) { return static_cast<double>(ns) * 1e-9; }
double Joules(int64_t nj) { return static_cast<double>(nj) * 1e-9; }

// Metrics whose values are the ledger's integers, taken as they are at every scrape: a counter that
// is incremented by rounded differences would drift from them.
// Whether it is collected when it is asked for, not kept in the registry.
bool IsCollected(MetricId id) {
  return id == MetricId::kThreadCpu || id == MetricId::kEnergy ||
         id == MetricId::kEnergySettlement || id == MetricId::kEnergyMeter ||
         id == MetricId::kJoulesPerOutputToken;
}

void AddValue(MetricFamily& family, const Labels& labels, double value) {
  ClientMetric metric;
  for (const auto& [name, label_value] : labels) metric.label.push_back({name, label_value});
  (family.type == prometheus::MetricType::Counter ? metric.counter.value : metric.gauge.value) =
      value;
  family.metric.push_back(std::move(metric));
}

MetricFamily MakeFamily(MetricId id) {
  MetricFamily family;
  family.name = SpecOf(id).name;
  family.help = SpecOf(id).help;
  family.type = SpecOf(id).type == MetricType::kCounter ? prometheus::MetricType::Counter
                                                        : prometheus::MetricType::Gauge;
  return family;
}

}  // namespace

struct MetricsRegistry::Impl {
  Impl();

  prometheus::Counter& counter(MetricId id, const Labels& labels = {}) {
    return counters[Index(id)]->Add(labels);
  }
  prometheus::Gauge& gauge(MetricId id, const Labels& labels = {}) {
    return gauges[Index(id)]->Add(labels);
  }
  prometheus::Histogram& histogram(MetricId id, const Labels& labels = {}) {
    const std::span<const double> bounds = SpecOf(id).buckets;
    return histograms[Index(id)]->Add(
        labels, prometheus::Histogram::BucketBoundaries(bounds.begin(), bounds.end()));
  }
  // The series of a metric without labels, looked up once: these are used in every step.
  prometheus::Counter& plain_counter(MetricId id) { return *plain_counters[Index(id)]; }
  prometheus::Gauge& plain_gauge(MetricId id) { return *plain_gauges[Index(id)]; }
  prometheus::Histogram& plain_histogram(MetricId id) { return *plain_histograms[Index(id)]; }

  std::vector<MetricFamily> CollectEnergy() STERNA_EXCLUDES(mutex);
  MetricFamily CollectThreads() STERNA_EXCLUDES(mutex);

  prometheus::Registry registry;
  // By MetricId; each metric is in the array of its type.
  std::array<prometheus::Family<prometheus::Counter>*, kNumMetrics> counters{};
  std::array<prometheus::Family<prometheus::Gauge>*, kNumMetrics> gauges{};
  std::array<prometheus::Family<prometheus::Histogram>*, kNumMetrics> histograms{};
  std::array<prometheus::Counter*, kNumMetrics> plain_counters{};
  std::array<prometheus::Gauge*, kNumMetrics> plain_gauges{};
  std::array<prometheus::Histogram*, kNumMetrics> plain_histograms{};

  Mutex mutex;
  EnergyTotals energy STERNA_GUARDED_BY(mutex);
  int64_t output_tokens STERNA_GUARDED_BY(mutex) = 0;
  std::map<std::string, int64_t> thread_cpu_ns STERNA_GUARDED_BY(mutex);  // as last collected
  std::optional<std::string> energy_method STERNA_GUARDED_BY(mutex);
};

MetricsRegistry::Impl::Impl() {
  for (const MetricSpec& spec : kMetrics) {
    if (IsCollected(spec.id)) continue;
    const size_t i = Index(spec.id);
    switch (spec.type) {
      case MetricType::kCounter:
        counters[i] =
            &prometheus::BuildCounter().Name(spec.name).Help(spec.help).Register(registry);
        if (spec.labels.empty()) plain_counters[i] = &counter(spec.id);
        break;
      case MetricType::kGauge:
        gauges[i] = &prometheus::BuildGauge().Name(spec.name).Help(spec.help).Register(registry);
        if (spec.labels.empty()) plain_gauges[i] = &gauge(spec.id);
        break;
      case MetricType::kHistogram:
        histograms[i] =
            &prometheus::BuildHistogram().Name(spec.name).Help(spec.help).Register(registry);
        if (spec.labels.empty()) plain_histograms[i] = &histogram(spec.id);
        break;
    }
  }
  // Series that exist from the start, so that a first occurrence is an increase and not a birth.
  for (const FinishReason reason : kFinishReasons) {
    counter(MetricId::kRequestsFinished, {{"reason", std::string(FinishReasonName(reason))}});
  }
  for (int i = 0; i <= static_cast<int>(ErrorLabel::kInternal); ++i) {
    const Labels labels = {{"label", std::string(ErrorLabelName(static_cast<ErrorLabel>(i)))}};
    counter(MetricId::kRequestsFailed, labels);
    counter(MetricId::kRequestsRefused, labels);
  }
  gauge(MetricId::kBuildInfo, {{"version", STERNA_VERSION}}).Set(1);
}

std::vector<MetricFamily> MetricsRegistry::Impl::CollectEnergy() {
  MutexLock lock(mutex);
  if (!energy_method.has_value()) return {};
  const Labels method = {{"method", *energy_method}};
  MetricFamily by_phase = MakeFamily(MetricId::kEnergy);
  for (const auto& [phase, nj] :
       {std::pair{"prefill", energy.prefill_nj}, std::pair{"decode", energy.decode_nj},
        std::pair{"idle", energy.idle_nj}, std::pair{"overhead", energy.overhead_nj}}) {
    Labels labels = method;
    labels["phase"] = phase;
    AddValue(by_phase, labels, Joules(nj));
  }
  MetricFamily settlement = MakeFamily(MetricId::kEnergySettlement);
  AddValue(settlement, method, Joules(energy.settlement_nj));
  MetricFamily meter = MakeFamily(MetricId::kEnergyMeter);
  AddValue(meter, method, Joules(energy.meter_nj));
  MetricFamily per_token = MakeFamily(MetricId::kJoulesPerOutputToken);
  // No tokens, no figure: the series appears with the first token.
  if (output_tokens > 0) {
    AddValue(per_token, method,
             Joules(energy.prefill_nj + energy.decode_nj) / static_cast<double>(output_tokens));
  }
  return {by_phase, settlement, meter, per_token};
}

MetricFamily MetricsRegistry::Impl::CollectThreads() {
  // Outside the lock, which the engine takes in every step.
  std::map<std::string, int64_t> by_name = ThreadCpuNs();
  int64_t rest_ns = ProcessCpuNs();
  MutexLock lock(mutex);
  MetricFamily family = MakeFamily(MetricId::kThreadCpu);
  for (const std::string role : {"engine", "compute", "http", "worker", "other"}) {
    const int64_t ns = role == "other" ? rest_ns : by_name["sterna-" + role];
    int64_t& taken_ns = thread_cpu_ns[role];
    taken_ns = std::max(taken_ns, ns);  // a counter never falls, though a thread may end
    rest_ns -= taken_ns;
    AddValue(family, {{"thread", role}}, Seconds(taken_ns));
  }
  return family;
}

MetricsRegistry::MetricsRegistry() : impl_(std::make_unique<Impl>()) {}
MetricsRegistry::~MetricsRegistry() = default;

void MetricsRegistry::SetServedModel(const ServedModel& model) {
  impl_
      ->gauge(MetricId::kModelInfo, {{"model", model.name},
                                     {"architecture", model.architecture},
                                     {"family", model.family},
                                     {"device", model.device}})
      .Set(1);
  impl_
      ->gauge(MetricId::kEnergySourceInfo,
              {{"method", model.energy_method}, {"scope", model.energy_scope}})
      .Set(1);
  impl_->plain_gauge(MetricId::kStepTokenBudget).Set(static_cast<double>(model.step_token_budget));
  for (const Tuning& t : model.tuning) {
    impl_->gauge(MetricId::kTuning, {{"name", t.name}}).Set(t.value);
  }
  for (const ModelInfo::Product& product : model.products) {
    for (const ProductPath& path : product.paths) {
      impl_
          ->gauge(MetricId::kProductPathInfo, {{"product", product.name},
                                               {"from_tokens", std::to_string(path.from_tokens)},
                                               {"path", path.name}})
          .Set(1);
    }
  }
  MutexLock lock(impl_->mutex);
  impl_->energy_method = model.energy_method;
}

void MetricsRegistry::OnStep(const StepStats& stats) {
  Impl& m = *impl_;
  m.plain_counter(MetricId::kPromptTokens).Increment(static_cast<double>(stats.prompt_tokens));
  m.plain_counter(MetricId::kGenerationTokens).Increment(static_cast<double>(stats.output_tokens));
  m.plain_counter(MetricId::kRecomputedTokens)
      .Increment(static_cast<double>(stats.recomputed_tokens));
  m.plain_counter(MetricId::kPreemptions).Increment(static_cast<double>(stats.preemptions));
  m.plain_gauge(MetricId::kRequestsRunning).Set(static_cast<double>(stats.running));
  m.plain_gauge(MetricId::kRequestsWaiting).Set(static_cast<double>(stats.waiting));
  const double blocks = static_cast<double>(stats.kv_blocks_total);
  const double used = static_cast<double>(stats.kv_blocks_used);
  m.plain_gauge(MetricId::kKvBlocks).Set(blocks);
  m.plain_gauge(MetricId::kKvBlocksUsed).Set(used);
  m.plain_gauge(MetricId::kKvUsage).Set(blocks > 0 ? used / blocks : 0);

  const int64_t tokens = stats.prompt_tokens + stats.recomputed_tokens + stats.output_tokens;
  // Without tokens it is a heartbeat, not a step.
  if (tokens > 0) {
    m.plain_histogram(MetricId::kStepDuration).Observe(Seconds(stats.duration_ns));
    m.plain_histogram(MetricId::kStepTokens).Observe(static_cast<double>(tokens));
  }
  const auto observe_all = [&](MetricId id, const std::vector<int64_t>& values_ns) {
    for (const int64_t ns : values_ns) m.plain_histogram(id).Observe(Seconds(ns));
  };
  observe_all(MetricId::kQueueTime, stats.queue_ns);
  observe_all(MetricId::kTimeToFirstToken, stats.ttft_ns);
  observe_all(MetricId::kInterTokenLatency, stats.inter_token_ns);

  MutexLock lock(m.mutex);
  m.energy = stats.energy;
  m.output_tokens += stats.output_tokens;
}

void MetricsRegistry::OnFinish(const RequestStats& stats) {
  Impl& m = *impl_;
  m.counter(MetricId::kRequestsFinished, {{"reason", std::string(FinishReasonName(stats.reason))}})
      .Increment();
  if (stats.reason == FinishReason::kFailed) {
    m.counter(MetricId::kRequestsFailed, {{"label", std::string(ErrorLabelName(stats.error))}})
        .Increment();
  }
  m.plain_histogram(MetricId::kE2eLatency).Observe(Seconds(stats.e2e_ns));
  m.plain_histogram(MetricId::kRequestPromptTokens)
      .Observe(static_cast<double>(stats.usage.prompt_tokens));
  m.plain_histogram(MetricId::kRequestGenerationTokens)
      .Observe(static_cast<double>(stats.usage.completion_tokens));
  m.histogram(MetricId::kRequestEnergy, {{"method", stats.usage.energy_method}})
      .Observe(Joules(stats.usage.energy_nj));
}

void MetricsRegistry::OnRefused(ErrorLabel label) {
  impl_->counter(MetricId::kRequestsRefused, {{"label", std::string(ErrorLabelName(label))}})
      .Increment();
}

void MetricsRegistry::CountHttpRequest(std::string_view route, std::string_view method, int code) {
  // A client chooses the method, so only known ones may become time series.
  const bool known =
      std::find(kHttpMethods.begin(), kHttpMethods.end(), method) != kHttpMethods.end();
  impl_
      ->counter(MetricId::kHttpRequests, {{"route", std::string(route)},
                                          {"method", std::string(known ? method : "other")},
                                          {"code", std::to_string(code)}})
      .Increment();
}

void MetricsRegistry::CountGrpcRequest(std::string_view method, std::string_view code) {
  impl_
      ->counter(MetricId::kGrpcRequests,
                {{"method", std::string(method)}, {"code", std::string(code)}})
      .Increment();
}

std::string MetricsRegistry::Render() const {
  std::vector<MetricFamily> families = impl_->registry.Collect();
  for (MetricFamily& family : impl_->CollectEnergy()) families.push_back(std::move(family));
  families.push_back(impl_->CollectThreads());
  std::erase_if(families, [](const MetricFamily& family) { return family.metric.empty(); });
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace sterna
