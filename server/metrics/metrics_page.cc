#include "server/metrics/metrics_page.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "server/metrics/metric_names.h"

namespace sterna {
namespace {

constexpr std::string_view kHead = R"(# Metrics

<!-- Made by `sterna-metrics-doc` from server/metrics/metric_names.h; do not edit. -->

`GET /metrics` on the HTTP port answers in Prometheus' text format. A scrape reads numbers that are
already there; it does not touch the engine. Counters and histograms start at zero with the process.
Energy is described in [energy.md](energy.md), dashboards and alerts in
[operations.md](operations.md).

| Metric | Type | Unit | Labels | Meaning |
|---|---|---|---|---|
)";

constexpr std::string_view kSums = R"(
## Sums that hold

- `sum(sterna_energy_joules_total) + sterna_energy_settlement_joules == sterna_energy_meter_joules_total`,
  exactly in the ledger's integer nanojoules, to rounding in these decimal figures.
- `sterna_generation_tokens_total` equals the `completion_tokens` of all ended requests together once
  nothing runs, cancelled and failed ones included.
- `sum(sterna_requests_finished_total)` counts every accepted request once when it ends; those that
  were not accepted are in `sterna_requests_refused_total` and in no other.

## Buckets

Upper bounds of the histograms; every one ends in `+Inf`.

| Metric | Bounds |
|---|---|
)";

std::string_view TypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "";
}

}  // namespace

std::string MetricsPage() {
  std::string page(kHead);
  for (const MetricSpec& spec : kMetrics) {
    std::string labels;
    for (const MetricLabel& label : spec.labels) {
      absl::StrAppend(&labels, labels.empty() ? "" : "; ", "`", label.name, "` (", label.values,
                      ")");
    }
    absl::StrAppend(&page, "| `", spec.name, "` | ", std::string(TypeName(spec.type)), " | ",
                    spec.unit, " | ", labels, " | ", spec.help, " |\n");
  }
  absl::StrAppend(&page, std::string(kSums));
  for (const MetricSpec& spec : kMetrics) {
    if (spec.type != MetricType::kHistogram) continue;
    std::string bounds;
    for (const double bound : spec.buckets) {
      absl::StrAppend(&bounds, bounds.empty() ? "" : ", ", bound);
    }
    absl::StrAppend(&page, "| `", spec.name, "` | ", bounds, " |\n");
  }
  return page;
}

}  // namespace sterna
