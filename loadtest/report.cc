#include "loadtest/report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace sterna {
namespace {

using Json = nlohmann::json;

double PerSecond(double count, const Report& report) {
  return report.seconds > 0 ? count / report.seconds : 0;
}

double Ratio(double a, double b) { return b > 0 ? a / b : 0; }

std::vector<CounterComparison> CompareCounters(const Report& report, const MetricSamples& before,
                                               const MetricSamples& after) {
  const auto increase = [&](const std::string& name, const std::string& label = "") {
    return SumOfSamples(after, name, label) - SumOfSamples(before, name, label);
  };
  std::vector<CounterComparison> counters;
  const auto compare = [&](const std::string& name, double client, double server,
                           double tolerance) {
    counters.push_back({.name = name, .client = client, .server = server, .tolerance = tolerance});
  };
  const double succeeded = static_cast<double>(report.succeeded);
  for (const auto& [name, client] :
       {std::pair{"sterna_prompt_tokens_total", static_cast<double>(report.prompt_tokens)},
        std::pair{"sterna_generation_tokens_total", static_cast<double>(report.output_tokens)},
        std::pair{"sterna_requests_finished_total", succeeded}}) {
    const auto first = after.lower_bound(name);
    if (first == after.end() || !first->first.starts_with(name)) continue;
    compare(name, client, increase(name), 0);
  }
  const std::string energy = "sterna_energy_joules_total";
  if (SumOfSamples(after, energy) > 0) {
    // Each answer is rounded to millijoules.
    compare(energy, report.energy_joules,
            increase(energy, "phase=\"prefill\"") + increase(energy, "phase=\"decode\""),
            0.0005 * succeeded + 1e-6);
  }
  return counters;
}

Json DistributionAsJson(const Distribution& d) {
  return {{"count", d.count}, {"mean", d.mean}, {"p50", d.p50}, {"p90", d.p90},
          {"p95", d.p95},     {"p99", d.p99},   {"max", d.max}};
}

void AppendLatencies(std::string* text, const Report& report) {
  absl::StrAppendFormat(text, "\n%-28s %9s %9s %9s %9s %9s %9s\n", "milliseconds", "mean", "p50",
                        "p90", "p95", "p99", "max");
  for (const auto& [name, d] : {std::pair{"time to first token", report.ttft_ms},
                                std::pair{"inter-token latency", report.itl_ms},
                                std::pair{"time per output token", report.tpot_ms},
                                std::pair{"end to end", report.e2e_ms}}) {
    absl::StrAppendFormat(text, "%-28s %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", name, d.mean, d.p50,
                          d.p90, d.p95, d.p99, d.max);
  }
}

void AppendCounters(std::string* text, const Report& report) {
  if (report.counters.empty()) {
    absl::StrAppend(text, "\nThe server exports no counters to compare with.\n");
    return;
  }
  absl::StrAppendFormat(text, "\n%-34s %14s %14s\n", "server's counters", "clients", "server");
  for (const CounterComparison& c : report.counters) {
    const int digits = c.tolerance > 0 ? 3 : 0;
    absl::StrAppendFormat(text, "%-34s %14.*f %14.*f  %s\n", c.name, digits, c.client, digits,
                          c.server, c.matches() ? "equal" : "MISMATCH");
  }
}

}  // namespace

bool CounterComparison::matches() const { return std::abs(client - server) <= tolerance; }

bool Report::CountersMatch() const {
  return !counters.empty() && std::all_of(counters.begin(), counters.end(),
                                          [](const CounterComparison& c) { return c.matches(); });
}

Report MakeReport(const LoadtestOptions& options, const LoadtestResult& result) {
  Report report{.model = result.model,
                .seconds = result.seconds,
                .interrupted = result.interrupted,
                .sent = static_cast<int64_t>(result.requests.size()),
                .late_starts = result.late_starts};
  std::vector<double> ttft, itl, tpot, e2e;
  int64_t good = 0;
  for (const RequestResult& r : result.requests) {
    if (!r.ok()) {
      ++report.errors[r.error];
      report.error_details.emplace(r.error, r.error_detail);
      continue;
    }
    ++report.succeeded;
    report.prompt_tokens += r.prompt_tokens;
    report.output_tokens += r.output_tokens;
    report.energy_joules += static_cast<double>(r.energy_millijoules) / 1000;
    if (!r.energy_method.empty()) report.energy_method = r.energy_method;
    ttft.push_back(r.ttft_seconds * 1000);
    e2e.push_back(r.e2e_seconds * 1000);
    for (const double gap : r.gaps_seconds) itl.push_back(gap * 1000);
    if (r.output_tokens > 1) {
      tpot.push_back((r.e2e_seconds - r.ttft_seconds) * 1000 /
                     static_cast<double>(r.output_tokens - 1));
    }
    const bool within = (options.slo_ttft_ms == 0 || ttft.back() <= options.slo_ttft_ms) &&
                        (options.slo_e2e_ms == 0 || e2e.back() <= options.slo_e2e_ms);
    good += within ? 1 : 0;
  }
  report.ttft_ms = Summarise(std::move(ttft));
  report.itl_ms = Summarise(std::move(itl));
  report.tpot_ms = Summarise(std::move(tpot));
  report.e2e_ms = Summarise(std::move(e2e));
  if (options.slo_ttft_ms > 0 || options.slo_e2e_ms > 0) report.good = good;
  if (result.before.has_value() && result.after.has_value()) {
    report.counters = CompareCounters(report, *result.before, *result.after);
  }
  return report;
}

std::string ReportAsTable(const Report& report) {
  std::string text;
  const auto line = [&](const std::string& name, const std::string& value) {
    absl::StrAppendFormat(&text, "%-28s %s\n", name, value);
  };
  const auto rate = [&](double count) { return absl::StrFormat("%.2f", PerSecond(count, report)); };
  const double output = static_cast<double>(report.output_tokens);
  const double succeeded = static_cast<double>(report.succeeded);
  if (report.interrupted) absl::StrAppend(&text, "Interrupted: these are partial results.\n");
  line("model", report.model);
  line("seconds", absl::StrFormat("%.2f", report.seconds));
  line("requests", absl::StrCat(report.succeeded, " succeeded of ", report.sent));
  for (const auto& [kind, count] : report.errors) {
    line("  error", absl::StrCat(count, " x ", kind, " (", report.error_details.at(kind), ")"));
  }
  if (report.late_starts > 0) {
    line("late starts", absl::StrCat(report.late_starts, " (raise --max-in-flight)"));
  }
  line("prompt tokens", absl::StrCat(report.prompt_tokens));
  line("output tokens", absl::StrCat(report.output_tokens));
  line("requests/s", rate(succeeded));
  line("output tokens/s", rate(output));
  line("total tokens/s", rate(output + static_cast<double>(report.prompt_tokens)));
  if (report.good.has_value()) {
    line("goodput, requests/s", absl::StrCat(rate(static_cast<double>(*report.good)), " (",
                                             *report.good, " within the limits)"));
  }
  if (!report.energy_method.empty()) {
    line("energy, J", absl::StrFormat("%.3f (%s)", report.energy_joules, report.energy_method));
    line("J per output token", absl::StrFormat("%.6f", Ratio(report.energy_joules, output)));
    line("J per request", absl::StrFormat("%.4f", Ratio(report.energy_joules, succeeded)));
  }
  AppendLatencies(&text, report);
  AppendCounters(&text, report);
  return text;
}

std::string ReportAsJson(const LoadtestOptions& options, const Report& report) {
  const double output = static_cast<double>(report.output_tokens);
  const double succeeded = static_cast<double>(report.succeeded);
  Json counters = Json::array();
  for (const CounterComparison& c : report.counters) {
    counters.push_back({{"name", c.name},
                        {"client", c.client},
                        {"server", c.server},
                        {"tolerance", c.tolerance},
                        {"matches", c.matches()}});
  }
  Json json = {
      {"tool", "sterna-loadtest"},
      {"version", STERNA_VERSION},
      {"options",
       {{"url", options.url},
        {"endpoint", options.endpoint},
        {"concurrency", options.concurrency},
        {"rate", options.rate},
        {"max_in_flight", options.max_in_flight},
        {"requests", options.requests},
        {"duration_seconds", options.duration_seconds},
        {"warmup", options.warmup},
        {"prompt_tokens", options.prompt_tokens},
        {"prompts", options.prompts_file},
        {"max_tokens", options.max_tokens},
        {"temperature", options.temperature},
        {"seed", options.seed},
        {"ignore_eos", options.ignore_eos}}},
      {"model", report.model},
      {"seconds", report.seconds},
      {"interrupted", report.interrupted},
      {"requests",
       {{"sent", report.sent},
        {"succeeded", report.succeeded},
        {"late_starts", report.late_starts},
        {"errors", report.errors}}},
      {"tokens", {{"prompt", report.prompt_tokens}, {"output", report.output_tokens}}},
      {"per_second",
       {{"requests", PerSecond(succeeded, report)},
        {"output_tokens", PerSecond(output, report)},
        {"total_tokens", PerSecond(output + static_cast<double>(report.prompt_tokens), report)}}},
      {"milliseconds",
       {{"time_to_first_token", DistributionAsJson(report.ttft_ms)},
        {"inter_token_latency", DistributionAsJson(report.itl_ms)},
        {"time_per_output_token", DistributionAsJson(report.tpot_ms)},
        {"end_to_end", DistributionAsJson(report.e2e_ms)}}},
      {"energy", nullptr},
      {"goodput", nullptr},
      {"counters", counters}};
  if (!report.energy_method.empty()) {
    json["energy"] = {{"method", report.energy_method},
                      {"joules", report.energy_joules},
                      {"joules_per_output_token", Ratio(report.energy_joules, output)},
                      {"joules_per_request", Ratio(report.energy_joules, succeeded)}};
  }
  if (report.good.has_value()) {
    json["goodput"] = {
        {"slo_ttft_ms", options.slo_ttft_ms},
        {"slo_e2e_ms", options.slo_e2e_ms},
        {"requests", *report.good},
        {"requests_per_second", PerSecond(static_cast<double>(*report.good), report)}};
  }
  return json.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace sterna
