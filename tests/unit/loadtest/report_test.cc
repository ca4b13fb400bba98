#include "loadtest/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace sterna {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using Json = nlohmann::json;

RequestResult Answer(double ttft, double e2e, int64_t tokens) {
  return {.ttft_seconds = ttft,
          .e2e_seconds = e2e,
          .gaps_seconds = {0.010, 0.030},
          .pieces = 3,
          .prompt_tokens = 10,
          .output_tokens = tokens,
          .energy_millijoules = 500,
          .energy_method = "modelled"};
}

LoadtestResult Result() {
  LoadtestResult result{.model = "stories", .seconds = 4};
  result.requests = {Answer(0.1, 1.1, 11), Answer(0.3, 2.3, 21)};
  result.requests.push_back({.error = "http 429 queue_full", .error_detail = "full"});
  result.before = MetricSamples{{"sterna_prompt_tokens_total", 100},
                                {"sterna_generation_tokens_total", 1000},
                                {"sterna_requests_finished_total{reason=\"stop\"}", 4},
                                {"sterna_energy_joules_total{phase=\"decode\"}", 5}};
  result.after = MetricSamples{{"sterna_prompt_tokens_total", 120},
                               {"sterna_generation_tokens_total", 1032},
                               {"sterna_requests_finished_total{reason=\"stop\"}", 5},
                               {"sterna_requests_finished_total{reason=\"length\"}", 1},
                               {"sterna_energy_joules_total{phase=\"decode\"}", 5.6},
                               {"sterna_energy_joules_total{phase=\"idle\"}", 50},
                               {"sterna_energy_joules_total{phase=\"prefill\"}", 0.4004}};
  return result;
}

TEST(ReportTest, AddsUpWhatSucceeded) {
  const Report report = MakeReport({.slo_ttft_ms = 200}, Result());
  EXPECT_EQ(report.sent, 3);
  EXPECT_EQ(report.succeeded, 2);
  EXPECT_EQ(report.errors.at("http 429 queue_full"), 1);
  EXPECT_EQ(report.prompt_tokens, 20);
  EXPECT_EQ(report.output_tokens, 32);
  EXPECT_DOUBLE_EQ(report.ttft_ms.mean, 200);
  EXPECT_DOUBLE_EQ(report.itl_ms.mean, 20);
  EXPECT_EQ(report.itl_ms.count, 4);
  EXPECT_DOUBLE_EQ(report.tpot_ms.mean, 100);
  EXPECT_DOUBLE_EQ(report.e2e_ms.max, 2300);
  EXPECT_DOUBLE_EQ(report.energy_joules, 1.0);
  EXPECT_EQ(report.good, 1);
}

TEST(ReportTest, ComparesWithTheServersCounters) {
  LoadtestResult result = Result();
  EXPECT_TRUE(MakeReport({}, result).CountersMatch());
  EXPECT_THAT(ReportAsTable(MakeReport({}, result)), Not(HasSubstr("MISMATCH")));
  result.after->at("sterna_generation_tokens_total") += 1;
  const Report off = MakeReport({}, result);
  EXPECT_FALSE(off.CountersMatch());
  EXPECT_THAT(ReportAsTable(off), HasSubstr("MISMATCH"));
  result = Result();
  result.after->at("sterna_energy_joules_total{phase=\"decode\"}") += 0.01;  // over the rounding
  EXPECT_FALSE(MakeReport({}, result).CountersMatch());
  result.after.reset();
  EXPECT_FALSE(MakeReport({}, result).CountersMatch());
  EXPECT_THAT(ReportAsTable(MakeReport({}, result)), HasSubstr("exports no counters"));
}

TEST(ReportTest, TableHasTheFiguresPeopleLookFor) {
  const std::string table = ReportAsTable(MakeReport({.slo_e2e_ms = 2000}, Result()));
  for (const std::string text :
       {"2 succeeded of 3", "1 x http 429 queue_full (full)", "output tokens/s              8.00",
        "goodput, requests/s          0.25 (1 within the limits)",
        "energy, J                    1.000 (modelled)", "J per output token           0.031250",
        "J per request                0.5000", "time to first token", "p99"}) {
    EXPECT_THAT(table, HasSubstr(text));
  }
}

TEST(ReportTest, JsonHasItsShape) {
  LoadtestOptions options;
  options.rate = 2.5;
  const Json json = Json::parse(ReportAsJson(options, MakeReport(options, Result())));
  EXPECT_EQ(json["tool"], "sterna-loadtest");
  EXPECT_EQ(json["options"]["rate"], 2.5);
  EXPECT_EQ(json["requests"]["succeeded"], 2);
  EXPECT_EQ(json["requests"]["errors"]["http 429 queue_full"], 1);
  EXPECT_EQ(json["tokens"]["output"], 32);
  EXPECT_EQ(json["per_second"]["output_tokens"], 8.0);
  for (const std::string latency :
       {"time_to_first_token", "inter_token_latency", "time_per_output_token", "end_to_end"}) {
    for (const std::string field : {"count", "mean", "p50", "p90", "p95", "p99", "max"}) {
      EXPECT_TRUE(json["milliseconds"][latency][field].is_number()) << latency << "." << field;
    }
  }
  EXPECT_EQ(json["energy"]["method"], "modelled");
  EXPECT_EQ(json["energy"]["joules_per_request"], 0.5);
  EXPECT_TRUE(json["goodput"].is_null());
  EXPECT_EQ(json["counters"].size(), 4u);
  EXPECT_EQ(json["counters"][0]["matches"], true);
}

TEST(ReportTest, NothingSucceededDividesByNothing) {
  LoadtestResult result{.model = "m", .seconds = 0};
  result.interrupted = true;
  result.requests.push_back({.error = "timeout"});
  const Report report = MakeReport({}, result);
  EXPECT_THAT(ReportAsTable(report), HasSubstr("Interrupted: these are partial results."));
  const Json json = Json::parse(ReportAsJson({}, report));
  EXPECT_EQ(json["per_second"]["requests"], 0.0);
  EXPECT_TRUE(json["energy"].is_null());
}

}  // namespace
}  // namespace sterna
