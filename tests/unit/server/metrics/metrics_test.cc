#include "server/metrics/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/mapped_file.h"
#include "base/process_threads.h"
#include "server/metrics/metric_names.h"
#include "server/metrics/metrics_page.h"
#include "tests/testing/paths.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// The samples of a rendered page: name and labels as written -> value.
std::map<std::string, double> Samples(const std::string& text) {
  std::map<std::string, double> result;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t space = line.rfind(' ');
    result[line.substr(0, space)] = std::strtod(line.c_str() + space, nullptr);
  }
  return result;
}

ServedModel Model() {
  return {.name = "stories",
          .architecture = "llama",
          .family = "B",
          .device = "cpu/scalar",
          .energy_method = "modelled",
          .energy_scope = "process cpu time x 6.0 W",
          .step_token_budget = 192,
          .tuning = {{.name = "amx_from_tokens", .value = 5}},
          .products = {{.name = "qkv", .paths = {{1, "mma_8"}, {9, "mma_16"}}}}};
}

StepStats Step() {
  StepStats stats;
  stats.duration_ns = 3'000'000;
  stats.running = 3;
  stats.waiting = 2;
  stats.prompt_tokens = 40;
  stats.recomputed_tokens = 7;
  stats.output_tokens = 2;
  stats.preemptions = 1;
  stats.kv_blocks_used = 5;
  stats.kv_blocks_total = 20;
  stats.queue_ns = {150'000, 30'000'000};
  stats.ttft_ns = {4'000'000};
  stats.inter_token_ns = {90'000, 1'500'000, 700'000'000'000};
  stats.energy = {.prefill_nj = 3'000'000'001,
                  .decode_nj = 1'000'000'000,
                  .idle_nj = 500'000'000,
                  .overhead_nj = 250'000'000,
                  .settlement_nj = -125'000'000,
                  .meter_nj = 4'625'000'001};
  return stats;
}

RequestStats Finished(FinishReason reason, ErrorLabel error = ErrorLabel::kInternal) {
  RequestStats stats;
  stats.reason = reason;
  stats.error = error;
  stats.usage = {.prompt_tokens = 20,
                 .completion_tokens = 9,
                 .energy_nj = 1'500'000'000,
                 .energy_method = "modelled"};
  stats.e2e_ns = 2'500'000'000;
  return stats;
}

TEST(MetricsTest, StepsAddUpInCountersGaugesAndHistograms) {
  MetricsRegistry metrics;
  metrics.SetServedModel(Model());
  metrics.OnStep(Step());
  metrics.OnStep(Step());
  auto s = Samples(metrics.Render());
  EXPECT_EQ(s["sterna_prompt_tokens_total"], 80);
  EXPECT_EQ(s["sterna_recomputed_tokens_total"], 14);
  EXPECT_EQ(s["sterna_generation_tokens_total"], 4);
  EXPECT_EQ(s["sterna_preemptions_total"], 2);
  EXPECT_EQ(s["sterna_requests_running"], 3);
  EXPECT_EQ(s["sterna_requests_waiting"], 2);
  EXPECT_EQ(s["sterna_kv_cache_blocks"], 20);
  EXPECT_EQ(s["sterna_kv_cache_blocks_used"], 5);
  EXPECT_EQ(s["sterna_kv_cache_usage_ratio"], 0.25);
  EXPECT_EQ(s["sterna_step_duration_seconds_count"], 2);
  EXPECT_EQ(s["sterna_step_token_budget"], 192);
  EXPECT_EQ(s["sterna_tuning{name=\"amx_from_tokens\"}"], 5);
  EXPECT_EQ(s["sterna_product_path_info{from_tokens=\"9\",path=\"mma_16\",product=\"qkv\"}"], 1);
  EXPECT_DOUBLE_EQ(s["sterna_step_duration_seconds_sum"], 0.006);
  EXPECT_EQ(s["sterna_step_tokens_bucket{le=\"32\"}"], 0);
  EXPECT_EQ(s["sterna_step_tokens_bucket{le=\"64\"}"], 2);
  EXPECT_EQ(s["sterna_request_queue_time_seconds_bucket{le=\"0.0001\"}"], 0);
  EXPECT_EQ(s["sterna_request_queue_time_seconds_bucket{le=\"0.0002\"}"], 2);
  EXPECT_EQ(s["sterna_request_queue_time_seconds_count"], 4);
  EXPECT_EQ(s["sterna_time_to_first_token_seconds_count"], 2);
  EXPECT_EQ(s["sterna_inter_token_latency_seconds_bucket{le=\"0.0001\"}"], 2);
  EXPECT_EQ(s["sterna_inter_token_latency_seconds_bucket{le=\"300\"}"], 4);
  EXPECT_EQ(s["sterna_inter_token_latency_seconds_bucket{le=\"+Inf\"}"], 6);
}

TEST(MetricsTest, AHeartbeatIsNotAStep) {
  MetricsRegistry metrics;
  StepStats idle;
  idle.kv_blocks_total = 8;
  metrics.OnStep(idle);
  auto s = Samples(metrics.Render());
  EXPECT_EQ(s["sterna_step_duration_seconds_count"], 0);
  EXPECT_EQ(s["sterna_step_tokens_count"], 0);
  EXPECT_EQ(s["sterna_kv_cache_blocks"], 8);
}

TEST(MetricsTest, EnergyIsTheLedgersToTheNanojoule) {
  MetricsRegistry metrics;
  metrics.OnStep(Step());
  EXPECT_THAT(metrics.Render(), Not(HasSubstr("sterna_energy_joules_total")));
  metrics.SetServedModel(Model());
  auto s = Samples(metrics.Render());
  const auto phase = [&](const std::string& name) {
    return s["sterna_energy_joules_total{method=\"modelled\",phase=\"" + name + "\"}"];
  };
  EXPECT_EQ(phase("prefill"), 3.000000001);
  EXPECT_EQ(phase("decode"), 1.0);
  EXPECT_EQ(phase("idle"), 0.5);
  EXPECT_EQ(phase("overhead"), 0.25);
  EXPECT_EQ(s["sterna_energy_settlement_joules{method=\"modelled\"}"], -0.125);
  EXPECT_EQ(s["sterna_energy_meter_joules_total{method=\"modelled\"}"], 4.625000001);
  EXPECT_DOUBLE_EQ(s["sterna_energy_per_output_token_joules{method=\"modelled\"}"],
                   4.000000001 / 2);
}

TEST(MetricsTest, JoulesPerTokenNeedATokenFirst) {
  MetricsRegistry metrics;
  metrics.SetServedModel(Model());
  EXPECT_THAT(metrics.Render(), Not(HasSubstr("sterna_energy_per_output_token_joules")));
}

TEST(MetricsTest, RequestsAreCountedByReasonAndLabel) {
  MetricsRegistry metrics;
  metrics.OnFinish(Finished(FinishReason::kStop));
  metrics.OnFinish(Finished(FinishReason::kLength));
  metrics.OnFinish(Finished(FinishReason::kCancelled, ErrorLabel::kCancelled));
  metrics.OnFinish(Finished(FinishReason::kFailed, ErrorLabel::kInternal));
  metrics.OnRefused(ErrorLabel::kQueueFull);
  metrics.OnRefused(ErrorLabel::kQueueFull);
  auto s = Samples(metrics.Render());
  for (const std::string reason : {"stop", "length", "cancelled", "failed"}) {
    EXPECT_EQ(s["sterna_requests_finished_total{reason=\"" + reason + "\"}"], 1) << reason;
  }
  EXPECT_EQ(s["sterna_requests_failed_total{label=\"internal\"}"], 1);
  EXPECT_EQ(s["sterna_requests_failed_total{label=\"cancelled\"}"], 0);
  EXPECT_EQ(s["sterna_requests_refused_total{label=\"queue_full\"}"], 2);
  EXPECT_TRUE(s.contains("sterna_requests_refused_total{label=\"draining\"}"));
  EXPECT_EQ(s["sterna_request_duration_seconds_sum"], 10);
  EXPECT_EQ(s["sterna_request_prompt_tokens_sum"], 80);
  EXPECT_EQ(s["sterna_request_generation_tokens_sum"], 36);
  EXPECT_EQ(s["sterna_request_energy_joules_sum{method=\"modelled\"}"], 6);
  EXPECT_EQ(s["sterna_request_energy_joules_bucket{method=\"modelled\",le=\"1\"}"], 0);
  EXPECT_EQ(s["sterna_request_energy_joules_bucket{method=\"modelled\",le=\"2\"}"], 4);
}

TEST(MetricsTest, EveryErrorLabelIsListedAndStartsAtZero) {
  MetricsRegistry metrics;
  const auto s = Samples(metrics.Render());
  int labels = 0;
  for (int i = 0; i <= static_cast<int>(ErrorLabel::kInternal); ++i, ++labels) {
    const std::string name(ErrorLabelName(static_cast<ErrorLabel>(i)));
    EXPECT_THAT(kErrorLabels[0].values, HasSubstr(name));
    EXPECT_TRUE(s.contains("sterna_requests_refused_total{label=\"" + name + "\"}")) << name;
    EXPECT_TRUE(s.contains("sterna_requests_failed_total{label=\"" + name + "\"}")) << name;
  }
  const std::string listed = kErrorLabels[0].values;
  EXPECT_EQ(std::count(listed.begin(), listed.end(), ',') + 1, labels);
}

TEST(MetricsTest, TransportRequestsAreCountedAndUnknownMethodsFoldIntoOne) {
  MetricsRegistry metrics;
  metrics.CountHttpRequest("/v1/completions", "POST", 200);
  metrics.CountHttpRequest("/v1/completions", "POST", 200);
  metrics.CountHttpRequest("other", "BREW", 405);
  metrics.CountHttpRequest("other", "X\"\n", 405);
  metrics.CountGrpcRequest("Generate", "OK");
  auto s = Samples(metrics.Render());
  const std::string name = "sterna_http_requests_total";
  EXPECT_EQ((s[name + "{code=\"200\",method=\"POST\",route=\"/v1/completions\"}"]), 2);
  EXPECT_EQ((s[name + "{code=\"405\",method=\"other\",route=\"other\"}"]), 2);
  EXPECT_EQ((s["sterna_grpc_requests_total{code=\"OK\",method=\"Generate\"}"]), 1);
}

// A registry in which every metric of the table has at least one sample.
std::string RenderEverything() {
  MetricsRegistry metrics;
  metrics.SetServedModel(Model());
  metrics.OnStep(Step());
  metrics.OnFinish(Finished(FinishReason::kStop));
  metrics.CountHttpRequest("/metrics", "GET", 200);
  metrics.CountGrpcRequest("Generate", "OK");
  return metrics.Render();
}

TEST(MetricsTest, ProcessorTimeIsSharedOutToThreadsAndNeverFalls) {
  MetricsRegistry metrics;
  const auto role = [](const std::string& page, const char* name) {
    return Samples(page).at("sterna_thread_cpu_seconds_total{thread=\"" + std::string(name) +
                            "\"}");
  };
  std::string before = metrics.Render();
  std::thread http([&] {
    NameThisThread("sterna-http");
    if (ThreadCpuNs().empty()) return;  // no schedstat here: all of it is "other"
    while (role(metrics.Render(), "http") < role(before, "http") + 0.02) {
    }
  });
  http.join();
  const std::string after = metrics.Render();  // its time stays, though it has ended
  double total = 0;
  for (const char* name : {"engine", "compute", "http", "worker", "other"}) {
    EXPECT_GE(role(after, name), role(before, name)) << name;
    total += role(after, name);
  }
  if (!ThreadCpuNs().empty()) {
    EXPECT_GE(role(after, "http"), role(before, "http") + 0.02);
  }
  EXPECT_LE(total, static_cast<double>(ProcessCpuNs()) * 1e-9);
}

TEST(MetricsTest, RendersTheWholeTableAndNothingElse) {
  std::set<std::string> rendered;
  std::istringstream lines(RenderEverything());
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("# TYPE ")) rendered.insert(line.substr(7));
  }
  std::set<std::string> expected;
  for (const MetricSpec& spec : kMetrics) {
    const char* type = spec.type == MetricType::kCounter ? " counter"
                       : spec.type == MetricType::kGauge ? " gauge"
                                                         : " histogram";
    expected.insert(std::string(spec.name) + type);
  }
  EXPECT_EQ(rendered, expected);
}

TEST(MetricsTest, TableKeepsToTheRules) {
  for (const MetricSpec& spec : kMetrics) {
    const std::string name = spec.name;
    EXPECT_TRUE(name.starts_with("sterna_")) << name;
    EXPECT_EQ(name.ends_with("_total"), spec.type == MetricType::kCounter) << name;
    EXPECT_EQ(spec.buckets.empty(), spec.type != MetricType::kHistogram) << name;
    EXPECT_TRUE(std::is_sorted(spec.buckets.begin(), spec.buckets.end())) << name;
    EXPECT_TRUE(std::string(spec.help).ends_with(".")) << name;
    for (const std::string unit : {"seconds", "joules"}) {
      if (spec.unit == unit) {
        EXPECT_THAT(name, HasSubstr("_" + unit));
      }
    }
  }
}

TEST(MetricsTest, PromtoolAcceptsThePage) {
  // scripts/setup puts it beside the other test tools.
  std::string promtool = testing::SourcePath(".venv/bin/promtool");
  if (!std::filesystem::exists(promtool)) promtool = "promtool";
  if (std::system(("command -v " + promtool + " > /dev/null").c_str()) != 0) {
    GTEST_SKIP() << "promtool is not installed: the metrics page was not checked by it";
  }
  const std::filesystem::path path = std::filesystem::temp_directory_path() /
                                     ("sterna_metrics_" + std::to_string(getpid()) + ".txt");
  std::ofstream(path) << RenderEverything();
  FILE* pipe = popen((promtool + " check metrics < " + path.string() + " 2>&1").c_str(), "r");
  ASSERT_NE(pipe, nullptr);
  std::string output;
  char buffer[256];
  while (fgets(buffer, sizeof(buffer), pipe) != nullptr) output += buffer;
  EXPECT_EQ(pclose(pipe), 0) << output;
  EXPECT_EQ(output, "");  // a lint warning would be printed here
  std::filesystem::remove(path);
}

TEST(MetricsTest, ThreadsMayReportAndScrapeAtOnce) {
  MetricsRegistry metrics;
  metrics.SetServedModel(Model());
  constexpr int kRounds = 500;
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    for (int i = 0; i < kRounds; ++i) metrics.OnStep(Step());
  });
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        metrics.OnRefused(ErrorLabel::kQueueFull);
        metrics.CountHttpRequest("/v1/completions", "POST", 200 + i % 3);
        if (i % 50 == 0) metrics.Render();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  auto s = Samples(metrics.Render());
  EXPECT_EQ(s["sterna_generation_tokens_total"], 2 * kRounds);
  EXPECT_EQ(s["sterna_requests_refused_total{label=\"queue_full\"}"], 2 * kRounds);
  EXPECT_EQ(s["sterna_inter_token_latency_seconds_count"], 3 * kRounds);
}

TEST(MetricsPageTest, CommittedPageIsTheGeneratedOne) {
  const StatusOr<std::string> committed = ReadTextFile(testing::SourcePath("docs/metrics.md"));
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(*committed, MetricsPage())
      << "build sterna-metrics-doc and write its output to docs/metrics.md";
}

}  // namespace
}  // namespace sterna
