// Every metric the server exports: THE one place that knows their names, types, units, labels and
// buckets. The registry (server/metrics/metrics.h), the reference page (docs/metrics.md) and the
// checks on dashboards and alerts are all made from this table.
//
// Naming follows Prometheus' conventions: base units, the unit last, `_total` on counters.
#ifndef STERNA_SERVER_METRICS_METRIC_NAMES_H_
#define STERNA_SERVER_METRICS_METRIC_NAMES_H_

#include <array>
#include <cstddef>
#include <span>

namespace sterna {

enum class MetricType { kCounter, kGauge, kHistogram };

// In the table's order.
enum class MetricId {
  kPromptTokens,
  kGenerationTokens,
  kRecomputedTokens,
  kTimeToFirstToken,
  kInterTokenLatency,
  kE2eLatency,
  kQueueTime,
  kRequestPromptTokens,
  kRequestGenerationTokens,
  kRequestEnergy,
  kRequestsFinished,
  kRequestsFailed,
  kRequestsRefused,
  kRequestsRunning,
  kRequestsWaiting,
  kPreemptions,
  kStepDuration,
  kStepTokens,
  kStepTokenBudget,
  kTuning,
  kProductPathInfo,
  kKvUsage,
  kKvBlocks,
  kKvBlocksUsed,
  kEnergy,
  kEnergySettlement,
  kEnergyMeter,
  kJoulesPerOutputToken,
  kHttpRequests,
  kGrpcRequests,
  kModelInfo,
  kEnergySourceInfo,
  kBuildInfo,
  kThreadCpu,
  kCount,
};

struct MetricLabel {
  const char* name;
  const char* values;  // for the reader: which values there are
};

struct MetricSpec {
  MetricId id;
  const char* name;
  MetricType type;
  const char* unit;
  std::span<const MetricLabel> labels;
  std::span<const double> buckets;  // upper bounds, ascending; of histograms only
  const char* help;
};

// Ternary models make tokens within 1 to 5 ms, so latencies are resolved from 0.1 ms on; a request
// that waits in a long queue on a small machine takes minutes.
inline constexpr double kLatencyBuckets[] = {0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01,
                                             0.02,   0.05,   0.1,    0.2,   0.5,   1,     2,
                                             5,      10,     20,     60,    120,   300};
inline constexpr double kTokenBuckets[] = {1,   2,   4,    8,    16,   32,   64,    128,
                                           256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
inline constexpr double kJouleBuckets[] = {0.001, 0.01, 0.1, 0.2, 0.5, 1,   2,   5,   10,
                                           20,    50,   100, 200, 500, 1e3, 2e3, 5e3, 1e4};

inline constexpr MetricLabel kReasonLabels[] = {{"reason", "stop, length, cancelled, failed"}};
inline constexpr MetricLabel kTuningLabels[] = {
    {"name",
     "weight_streams, amx_from_tokens, "
     "prompt_tokens_per_second, prompt_tokens_per_step"}};
inline constexpr MetricLabel kProductLabels[] = {
    {"product", "qkv, o, gate_up, down, and head where it is ternary"},
    {"from_tokens", "the least tokens of a step that this path serves"},
    {"path",
     "on the CPU the instruction set, such as avx512_vnni or amx; on a GPU mma_ or wgmma_ and the "
     "tokens of a tile, _tall where a tile has twice the rows, _split_ and how many blocks of "
     "threads "
     "share the columns"}};
inline constexpr MetricLabel kErrorLabels[] = {
    {"label",
     "invalid_request, model_not_found, context_length_exceeded, queue_full, draining, loading, "
     "cancelled, "
     "internal"}};
inline constexpr char kEnergyMethods[] = "nvml, rapl, modelled, rapl_cpu_only, modelled_cpu_only";
inline constexpr MetricLabel kPhaseLabels[] = {{"phase", "prefill, decode, idle, overhead"},
                                               {"method", kEnergyMethods}};
inline constexpr MetricLabel kMethodLabels[] = {{"method", kEnergyMethods}};
inline constexpr MetricLabel kHttpLabels[] = {
    {"route", "the route's pattern; other where none matched"},
    {"method", "GET, POST, ...; other for unknown ones"},
    {"code", "HTTP status"}};
inline constexpr MetricLabel kGrpcLabels[] = {
    {"method", "Generate, Tokenize, Detokenize, GetModel"},
    {"code", "gRPC status, as in RESOURCE_EXHAUSTED"}};
inline constexpr MetricLabel kModelLabels[] = {{"model", "the name clients use"},
                                               {"architecture", "config.json's model_type"},
                                               {"family", "checkpoint family: A, A', B, C, D"},
                                               {"device", "such as cpu/avx512_vnni"}};
inline constexpr MetricLabel kSourceLabels[] = {{"method", kEnergyMethods},
                                                {"scope", "what the figure covers"}};
inline constexpr MetricLabel kThreadLabels[] = {
    {"thread",
     "engine (schedules, samples and computes), compute, http, worker (parses and tokenises), "
     "other (gRPC, loading)"}};
inline constexpr MetricLabel kBuildLabels[] = {{"version", "of the server"}};

inline constexpr auto kMetrics = std::to_array<MetricSpec>({
    {MetricId::kPromptTokens,
     "sterna_prompt_tokens_total",
     MetricType::kCounter,
     "tokens",
     {},
     {},
     "Prompt tokens computed, each once."},
    {MetricId::kGenerationTokens,
     "sterna_generation_tokens_total",
     MetricType::kCounter,
     "tokens",
     {},
     {},
     "Output tokens generated."},
    {MetricId::kRecomputedTokens,
     "sterna_recomputed_tokens_total",
     MetricType::kCounter,
     "tokens",
     {},
     {},
     "Tokens computed again after a preemption."},
    {MetricId::kTimeToFirstToken,
     "sterna_time_to_first_token_seconds",
     MetricType::kHistogram,
     "seconds",
     {},
     kLatencyBuckets,
     "From a request's arrival to its first output token."},
    {MetricId::kInterTokenLatency,
     "sterna_inter_token_latency_seconds",
     MetricType::kHistogram,
     "seconds",
     {},
     kLatencyBuckets,
     "From one output token of a request to the next."},
    {MetricId::kE2eLatency,
     "sterna_request_duration_seconds",
     MetricType::kHistogram,
     "seconds",
     {},
     kLatencyBuckets,
     "From an accepted request's arrival to its end, however it ended."},
    {MetricId::kQueueTime,
     "sterna_request_queue_time_seconds",
     MetricType::kHistogram,
     "seconds",
     {},
     kLatencyBuckets,
     "From a request's arrival to the first step it ran in."},
    {MetricId::kRequestPromptTokens,
     "sterna_request_prompt_tokens",
     MetricType::kHistogram,
     "tokens",
     {},
     kTokenBuckets,
     "Prompt tokens of each ended request."},
    {MetricId::kRequestGenerationTokens,
     "sterna_request_generation_tokens",
     MetricType::kHistogram,
     "tokens",
     {},
     kTokenBuckets,
     "Output tokens of each ended request."},
    {MetricId::kRequestEnergy, "sterna_request_energy_joules", MetricType::kHistogram, "joules",
     kMethodLabels, kJouleBuckets, "Energy attributed to each ended request."},
    {MetricId::kRequestsFinished,
     "sterna_requests_finished_total",
     MetricType::kCounter,
     "requests",
     kReasonLabels,
     {},
     "Accepted requests that ended, by reason."},
    {MetricId::kRequestsFailed,
     "sterna_requests_failed_total",
     MetricType::kCounter,
     "requests",
     kErrorLabels,
     {},
     "Accepted requests that ended as failed, by error label."},
    {MetricId::kRequestsRefused,
     "sterna_requests_refused_total",
     MetricType::kCounter,
     "requests",
     kErrorLabels,
     {},
     "Requests that were not accepted, by error label."},
    {MetricId::kRequestsRunning,
     "sterna_requests_running",
     MetricType::kGauge,
     "requests",
     {},
     {},
     "Requests that hold KV cache blocks."},
    {MetricId::kRequestsWaiting,
     "sterna_requests_waiting",
     MetricType::kGauge,
     "requests",
     {},
     {},
     "Accepted requests that wait to run, preempted ones included."},
    {MetricId::kPreemptions,
     "sterna_preemptions_total",
     MetricType::kCounter,
     "preemptions",
     {},
     {},
     "Times a running request gave up its KV cache blocks to be computed again later."},
    {MetricId::kStepDuration,
     "sterna_step_duration_seconds",
     MetricType::kHistogram,
     "seconds",
     {},
     kLatencyBuckets,
     "Duration of an engine step: forward pass and sampling."},
    {MetricId::kStepTokens,
     "sterna_step_tokens",
     MetricType::kHistogram,
     "tokens",
     {},
     kTokenBuckets,
     "Tokens in an engine step: prompt, recomputed and output together."},
    {MetricId::kStepTokenBudget,
     "sterna_step_token_budget",
     MetricType::kGauge,
     "tokens",
     {},
     {},
     "Most tokens of one step, prompts and outputs together."},
    {MetricId::kTuning,
     "sterna_tuning",
     MetricType::kGauge,
     "",
     kTuningLabels,
     {},
     "What was measured or chosen by measurement at start."},
    {MetricId::kProductPathInfo,
     "sterna_product_path_info",
     MetricType::kGauge,
     "",
     kProductLabels,
     {},
     "Which kernel multiplies by the ternary matrices; always 1."},
    {MetricId::kKvUsage,
     "sterna_kv_cache_usage_ratio",
     MetricType::kGauge,
     "ratio",
     {},
     {},
     "Part of the KV cache blocks in use, from 0 to 1."},
    {MetricId::kKvBlocks,
     "sterna_kv_cache_blocks",
     MetricType::kGauge,
     "blocks",
     {},
     {},
     "KV cache blocks there are."},
    {MetricId::kKvBlocksUsed,
     "sterna_kv_cache_blocks_used",
     MetricType::kGauge,
     "blocks",
     {},
     {},
     "KV cache blocks in use."},
    {MetricId::kEnergy,
     "sterna_energy_joules_total",
     MetricType::kCounter,
     "joules",
     kPhaseLabels,
     {},
     "Energy attributed, by phase: requests' prefill and decode, idle, and overhead."},
    {MetricId::kEnergySettlement,
     "sterna_energy_settlement_joules",
     MetricType::kGauge,
     "joules",
     kMethodLabels,
     {},
     "What the energy counter says beyond all phases together; negative where they say more."},
    {MetricId::kEnergyMeter,
     "sterna_energy_meter_joules_total",
     MetricType::kCounter,
     "joules",
     kMethodLabels,
     {},
     "What the energy counter says since start: the sum of all phases and the settlement."},
    {MetricId::kJoulesPerOutputToken,
     "sterna_energy_per_output_token_joules",
     MetricType::kGauge,
     "joules",
     kMethodLabels,
     {},
     "Energy of requests, prefill and decode, since start divided by output tokens since start."},
    {MetricId::kHttpRequests,
     "sterna_http_requests_total",
     MetricType::kCounter,
     "requests",
     kHttpLabels,
     {},
     "HTTP requests answered."},
    {MetricId::kGrpcRequests,
     "sterna_grpc_requests_total",
     MetricType::kCounter,
     "requests",
     kGrpcLabels,
     {},
     "gRPC calls ended."},
    {MetricId::kModelInfo,
     "sterna_model_info",
     MetricType::kGauge,
     "",
     kModelLabels,
     {},
     "The served model; always 1."},
    {MetricId::kEnergySourceInfo,
     "sterna_energy_source_info",
     MetricType::kGauge,
     "",
     kSourceLabels,
     {},
     "Where joules come from; always 1."},
    {MetricId::kBuildInfo,
     "sterna_build_info",
     MetricType::kGauge,
     "",
     kBuildLabels,
     {},
     "The server's build; always 1."},
    {MetricId::kThreadCpu,
     "sterna_thread_cpu_seconds_total",
     MetricType::kCounter,
     "seconds",
     kThreadLabels,
     {},
     "Processor time of the process by what its threads do; those that compute also wait for one "
     "another, up to 50 microseconds at a time."},
});

constexpr bool MetricsAreInOrder() {
  for (size_t i = 0; i < kMetrics.size(); ++i) {
    if (kMetrics[i].id != static_cast<MetricId>(i)) return false;
  }
  return kMetrics.size() == static_cast<size_t>(MetricId::kCount);
}
static_assert(MetricsAreInOrder(), "kMetrics lists every MetricId once, in the enum's order");

constexpr const MetricSpec& SpecOf(MetricId id) { return kMetrics[static_cast<size_t>(id)]; }

}  // namespace sterna

#endif  // STERNA_SERVER_METRICS_METRIC_NAMES_H_
