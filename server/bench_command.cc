// `sterna bench`: how fast a model runs on this machine, without a server around it. Prompt
// processing for every prompt length and decoding for every batch size run in turn, as many times
// as there are repetitions; the medians are printed.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/process_memory.h"
#include "engine/cache/block_pool.h"
#include "engine/cache/kv_cache.h"
#include "engine/energy/energy_meter.h"
#include "engine/model/model.h"
#include "engine/model/shapes.h"
#include "engine/schedule/scheduler.h"
#include "engine/tuning.h"
#include "kernels/devices.h"
#include "server/command.h"
#include "server/config.h"

namespace sterna {
namespace {

struct BenchConfig {
  std::string shape;  // one of ShapePresetNames(), with random weights; or
  std::string model;  // a checkpoint directory
  std::string prompt_tokens = "128,512";
  std::string batch = "1,8";
  int64_t decode_tokens = 32;
  int64_t context_tokens = 128;
  int64_t repetitions = 3;
  DeviceConfig device;
  std::string kv_cache_dtype = "f16";
  bool async_scheduling = true;
  HeadConfig head;
  int64_t seed = 0;
  std::string json;
};

constexpr int64_t kMostSequences = 512;

// One thing that is measured: a prompt of `tokens`, or `sequences` that decode side by side.
struct Case {
  std::string name;  // "pp512", "tg32 x 8"
  int64_t prompt_tokens = 0;
  int64_t sequences = 0;
  std::vector<double> tokens_per_second = {};  // one per repetition
  double joules = 0;                           // of all repetitions together, while timed

  double JoulesPerToken(int64_t decode_tokens) const {
    const auto tokens = static_cast<double>(prompt_tokens + sequences * decode_tokens);
    return joules / (tokens * static_cast<double>(tokens_per_second.size()));
  }
  double Median() const {
    std::vector<double> sorted = tokens_per_second;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

StatusOr<std::vector<int64_t>> ParseList(std::string_view flag, const std::string& text,
                                         int64_t max) {
  std::vector<int64_t> values;
  for (const absl::string_view item : absl::StrSplit(text, ',', absl::SkipEmpty())) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(item, &value) || value < 1 || value > max) {
      return absl::InvalidArgumentError(absl::StrCat("--", std::string(flag), " holds \"", item,
                                                     "\"; it takes whole numbers from 1 to ", max,
                                                     ", separated by commas"));
    }
    values.push_back(value);
  }
  return values;
}

class Bench {
 public:
  // All must outlive the bench.
  Bench(const BenchConfig& options, Model<float>& model, KvCache<float>& cache, EnergyMeter& meter)
      : options_(options), model_(model), cache_(cache), meter_(meter), pool_(cache.num_blocks()) {}

  Status Measure(Case& c) {
    const int64_t tokens = c.prompt_tokens + c.sequences * options_.decode_tokens;
    STERNA_ASSIGN_OR_RETURN(const Cost cost,
                            c.prompt_tokens > 0 ? Prefill(c.prompt_tokens) : Decode(c.sequences));
    c.tokens_per_second.push_back(static_cast<double>(tokens) * 1e9 / static_cast<double>(cost.ns));
    c.joules += static_cast<double>(cost.nanojoules) / 1e9;
    return absl::OkStatus();
  }

 private:
  struct Cost {
    int64_t ns;
    int64_t nanojoules;
  };

  // What `body` takes.
  template <typename Body>
  StatusOr<Cost> Measured(const Body& body) {
    STERNA_ASSIGN_OR_RETURN(const int64_t joules_before, meter_.ReadNanojoules());
    const int64_t start_ns = Clock::Steady().NowNs();
    STERNA_RETURN_IF_ERROR(body());
    const int64_t ns = Clock::Steady().NowNs() - start_ns;
    STERNA_ASSIGN_OR_RETURN(const int64_t joules_after, meter_.ReadNanojoules());
    return Cost{.ns = ns, .nanojoules = joules_after - joules_before};
  }

  std::unique_ptr<Sequence> NewSequence(int64_t prompt_tokens, uint64_t order) {
    std::vector<int32_t> prompt(prompt_tokens);
    for (int64_t i = 0; i < prompt_tokens; ++i) {
      prompt[i] = static_cast<int32_t>((i * 7919 + static_cast<int64_t>(order) * 104729 + 1) %
                                       model_.config().vocab_size);
    }
    return std::make_unique<Sequence>(std::move(prompt), 0, order, &pool_);
  }

  struct StepInFlight {
    std::vector<Sequence*> sampled;
    std::vector<SampleResult> results;
  };

  // Asks for one step of `scheduler` and waits for the one before it, or, where nothing runs ahead,
  // for itself; every sequence whose tokens are all computed gets a greedy one.
  Status Step(Scheduler& scheduler) {
    const StepPlan plan = scheduler.Plan();
    const StepBatch batch = BuildStepBatch(plan);
    StepInFlight step = {.results = std::vector<SampleResult>(batch.logit_rows.size())};
    const std::vector<SampleParams> params(step.results.size(), SampleParams{.temperature = 0.0f});
    model_.Forward(batch, cache_, params);
    if (!params.empty()) model_.Sample(params, step.results);
    model_.ops().Mark();
    const bool ahead = options_.async_scheduling && model_.ops().runs_ahead();
    for (const ScheduledSequence& w : plan.work) {
      w.sequence->Advance(w.num_tokens);
      if (w.sequence->num_to_compute() > 0) continue;
      if (ahead) w.sequence->ExpectToken(DrawnToken(std::ssize(step.sampled)));
      step.sampled.push_back(w.sequence);
    }
    std::optional<StepInFlight> before = std::exchange(in_flight_, std::move(step));
    if (before) STERNA_RETURN_IF_ERROR(Wait(*before));
    return ahead ? absl::OkStatus() : WaitForAll();
  }

  // For the earliest step in flight, `step`.
  Status Wait(const StepInFlight& step) {
    STERNA_RETURN_IF_ERROR(model_.ops().Wait());
    for (size_t i = 0; i < step.sampled.size(); ++i) {
      step.sampled[i]->AppendToken(step.results[i].token);
    }
    return absl::OkStatus();
  }
  Status WaitForAll() {
    const std::optional<StepInFlight> last = std::exchange(in_flight_, std::nullopt);
    return last ? Wait(*last) : absl::OkStatus();
  }

  StatusOr<Cost> Prefill(int64_t prompt_tokens) {
    Scheduler scheduler(SchedulerOptionsFor(1), &pool_);
    const std::unique_ptr<Sequence> sequence = NewSequence(prompt_tokens, 0);
    scheduler.Add(sequence.get());
    return Measured([&]() -> Status {
      while (sequence->num_tokens() == prompt_tokens) STERNA_RETURN_IF_ERROR(Step(scheduler));
      return WaitForAll();
    });
  }

  StatusOr<Cost> Decode(int64_t num_sequences) {
    Scheduler scheduler(SchedulerOptionsFor(num_sequences), &pool_);
    std::vector<std::unique_ptr<Sequence>> sequences;
    for (int64_t s = 0; s < num_sequences; ++s) {
      sequences.push_back(NewSequence(options_.context_tokens, s));
      scheduler.Add(sequences.back().get());
    }
    // None decodes before all have their context: without a next token the scheduler leaves them.
    while (sequences.back()->num_computed() < options_.context_tokens) {
      const StepPlan plan = scheduler.Plan();
      model_.Forward(BuildStepBatch(plan), cache_);
      STERNA_RETURN_IF_ERROR(model_.ops().Finish());
      for (const ScheduledSequence& w : plan.work) w.sequence->Advance(w.num_tokens);
    }
    for (const auto& sequence : sequences) sequence->AppendToken(sequence->tokens().front());
    STERNA_RETURN_IF_ERROR(Step(scheduler));  // whatever is done at the first only
    STERNA_RETURN_IF_ERROR(WaitForAll());
    return Measured([&]() -> Status {
      for (int64_t t = 0; t < options_.decode_tokens; ++t) STERNA_RETURN_IF_ERROR(Step(scheduler));
      return WaitForAll();
    });
  }

  SchedulerOptions SchedulerOptionsFor(int64_t num_sequences) const {
    const int64_t step_tokens = model_.limits().tokens;
    return {.max_step_tokens = step_tokens,
            .max_step_prompt_tokens = step_tokens,
            .max_chunk_tokens = step_tokens,
            .max_sequences = num_sequences};
  }

  const BenchConfig& options_;
  Model<float>& model_;
  KvCache<float>& cache_;
  EnergyMeter& meter_;
  BlockPool pool_;
  std::optional<StepInFlight> in_flight_;
};

// Runs every case as often as there are repetitions, in turn.
Status MeasureAll(const BenchConfig& config, const Checkpoint& checkpoint, Ops<float>& ops,
                  EnergyMeter& meter, const StepLimits& limits, std::vector<Case>& cases) {
  STERNA_ASSIGN_OR_RETURN(
      Model<float> model,
      Model<float>::Create(&checkpoint.config, &checkpoint.weights, &ops, limits));
  const int64_t blocks = limits.sequences * BlockTable::BlocksFor(limits.context_tokens);
  STERNA_ASSIGN_OR_RETURN(
      KvCache<float> cache,
      KvCache<float>::Create(checkpoint.config, KvTypeOf(config.kv_cache_dtype), blocks, ops));
  model.RecordDecodeSteps(cache, limits.context_tokens);
  STERNA_RETURN_IF_ERROR(ops.Finish());
  Bench bench(config, model, cache, meter);
  for (int64_t repetition = 0; repetition < config.repetitions; ++repetition) {
    for (Case& c : cases) STERNA_RETURN_IF_ERROR(bench.Measure(c));
  }
  return absl::OkStatus();
}

StatusOr<Checkpoint> LoadOrMake(const BenchConfig& config, const Ops<float>& ops) {
  STERNA_ASSIGN_OR_RETURN(const HeadOptions head, HeadFor(HeadOptionsOf(config.head), ops));
  if (config.shape.empty()) {
    RuntimeConfig runtime{.model = config.model};
    STERNA_RETURN_IF_ERROR(ResolveModel(runtime));
    return LoadCheckpoint(runtime.model, {.head = head});
  }
  if (!config.model.empty()) {
    return absl::InvalidArgumentError("--shape and --model exclude each other; give one of them");
  }
  STERNA_ASSIGN_OR_RETURN(ModelConfig shape, ShapePreset(config.shape));
  if (shape.family == CheckpointFamily::kGrouped) STERNA_RETURN_IF_ERROR(CheckTernaryHead(head));
  ModelWeights weights = MakeRandomWeights(shape, config.seed, shape.has_sub_norms(), head);
  return Checkpoint{.config = std::move(shape), .weights = std::move(weights)};
}

// What it took to have the weights in memory.
struct LoadCost {
  int64_t milliseconds = 0;
  int64_t peak_resident_bytes = 0;
};

nlohmann::json ToJson(const BenchConfig& config, const std::string& device,
                      const std::string& energy_method, const LoadCost& load,
                      const ModelWeights& weights, const std::vector<Tuning>& tuning,
                      const std::vector<Case>& cases) {
  nlohmann::json chosen = nlohmann::json::object();
  for (const Tuning& t : tuning) chosen[t.name] = t.value;
  nlohmann::json rows = nlohmann::json::array();
  for (const Case& c : cases) {
    rows.push_back({{"name", c.name},
                    {"prompt_tokens", c.prompt_tokens},
                    {"sequences", c.sequences},
                    {"tokens_per_second_median", c.Median()},
                    {"tokens_per_second", c.tokens_per_second},
                    {"joules_per_token", c.JoulesPerToken(config.decode_tokens)}});
  }
  return {{"model", config.shape.empty() ? config.model : config.shape},
          {"random_weights", !config.shape.empty()},
          {"device", device},
          {"ternary_bytes", weights.ternary_bytes()},
          {"head_bytes", weights.head_bytes()},
          {"head_shortlist_bytes", weights.shortlist.bytes()},
          {"kv_cache_dtype", config.kv_cache_dtype},
          {"async_scheduling", config.async_scheduling},
          {"head_dtype", weights.head_dtype()},
          {"context_tokens", config.context_tokens},
          {"decode_tokens", config.decode_tokens},
          {"load_milliseconds", load.milliseconds},
          {"load_peak_resident_bytes", load.peak_resident_bytes},
          {"tuning", std::move(chosen)},
          {"energy_method", energy_method},
          {"version", STERNA_VERSION},
          {"cases", std::move(rows)}};
}

void PrintTable(const BenchConfig& config, const std::vector<Case>& cases,
                const ModelWeights& weights) {
  double single = 0;
  for (const Case& c : cases) {
    if (c.sequences == 1) single = c.Median();
  }
  std::printf("%-12s %14s %10s %10s %10s %12s %10s\n", "test", "tok/s (median)", "min", "max",
              "J/tok", "weights GB/s", "x 1 stream");
  for (const Case& c : cases) {
    const auto [low, high] =
        std::minmax_element(c.tokens_per_second.begin(), c.tokens_per_second.end());
    std::printf("%-12s %14.2f %10.2f %10.2f %10.4f", c.name.c_str(), c.Median(), *low, *high,
                c.JoulesPerToken(config.decode_tokens));
    if (c.sequences > 0) {
      const auto step_bytes = static_cast<double>(weights.step_bytes(c.sequences));
      std::printf(" %12.2f", step_bytes * c.Median() / static_cast<double>(c.sequences) / 1e9);
      if (single > 0) std::printf(" %10.2f", c.Median() / single);
    }
    std::printf("\n");
  }
}

std::vector<Flag> BenchFlags(BenchConfig& config) {
  std::vector<std::string> shapes;
  for (const std::string_view name : ShapePresetNames()) shapes.emplace_back(name);
  std::vector<Flag> flags = {
      {.name = "shape",
       .value = &config.shape,
       .help = "Random ternary weights of a well-known model's shape, made on the fly.",
       .choices = std::move(shapes)},
      {.name = "model",
       .value = &config.model,
       .help = "Checkpoint directory; the model that ships if neither this nor --shape is given."},
      {.name = "prompt-tokens",
       .value = &config.prompt_tokens,
       .help = "Prompt lengths to measure, separated by commas; empty for none."},
      {.name = "batch",
       .value = &config.batch,
       .help =
           "Numbers of sequences that decode side by side, separated by commas; empty for none."},
      {.name = "decode-tokens",
       .value = &config.decode_tokens,
       .help = "Tokens each sequence decodes in one measurement.",
       .min = 1,
       .max = 4096},
      {.name = "context-tokens",
       .value = &config.context_tokens,
       .help = "Tokens each sequence holds before decoding is measured.",
       .min = 1,
       .max = 1 << 20},
      {.name = "repetitions",
       .value = &config.repetitions,
       .help = "How often every test runs, in turn with the others; the median is printed.",
       .min = 1,
       .max = 1000},
      KvCacheDtypeFlag(config.kv_cache_dtype),
      AsyncSchedulingFlag(config.async_scheduling),
      HeadDtypeFlag(config.head),
      HeadShortlistFlag(config.head),
      {.name = "seed", .value = &config.seed, .help = "Seed of the random weights.", .min = 0},
      {.name = "json", .value = &config.json, .help = "File to write the results to as JSON."},
  };
  const std::vector<Flag> device = DeviceFlags(config.device);
  flags.insert(flags.end(), device.begin(), device.end());
  return flags;
}

Status RunBench(const BenchConfig& config) {
  STERNA_ASSIGN_OR_RETURN(const std::vector<int64_t> prompts,
                          ParseList("prompt-tokens", config.prompt_tokens, 1 << 20));
  STERNA_ASSIGN_OR_RETURN(const std::vector<int64_t> batches,
                          ParseList("batch", config.batch, kMostSequences));
  STERNA_ASSIGN_OR_RETURN(const std::unique_ptr<Ops<float>> ops,
                          CreateOps(DeviceOptionsOf(config.device)));
  STERNA_ASSIGN_OR_RETURN(const std::unique_ptr<EnergyMeter> meter,
                          CreateEnergyMeter({}, ops->pci_bus_id(), Clock::Steady()));
  const int64_t start_ns = Clock::Steady().NowNs();
  STERNA_ASSIGN_OR_RETURN(Checkpoint checkpoint, LoadOrMake(config, *ops));
  STERNA_RETURN_IF_ERROR(PlaceWeights(*ops, checkpoint.weights));
  const LoadCost load = {.milliseconds = (Clock::Steady().NowNs() - start_ns) / 1'000'000,
                         .peak_resident_bytes = PeakResidentBytes()};

  std::vector<Case> cases;
  int64_t most_tokens = config.context_tokens + config.decode_tokens + 2;
  int64_t most_sequences = 1;
  for (const int64_t tokens : prompts) {
    cases.push_back({.name = absl::StrCat("pp", tokens), .prompt_tokens = tokens});
    most_tokens = std::max(most_tokens, tokens + 1);
  }
  for (const int64_t sequences : batches) {
    cases.push_back({.name = absl::StrCat("tg", config.decode_tokens, " x ", sequences),
                     .sequences = sequences});
    most_sequences = std::max(most_sequences, sequences);
  }
  if (most_tokens > checkpoint.config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("the tests need ", most_tokens,
                                                   " tokens of context; the model has ",
                                                   checkpoint.config.max_positions));
  }

  const std::vector<Tuning> tuning = TuneOps(checkpoint.weights, ops.get());
  const StepLimits limits = {.tokens = ops->memory() ? kDevicePromptTokens : kMostPromptTokens,
                             .logit_rows = most_sequences,
                             .sequences = most_sequences,
                             .context_tokens = most_tokens};
  STERNA_RETURN_IF_ERROR(MeasureAll(config, checkpoint, *ops, *meter, limits, cases));
  std::printf(
      "%s on %s: ternary weights %.1f MB, head %.1f MB (%s) and shortlist %.1f MB, K/V %s; in "
      "memory after %.2f s, peak %.1f MB; energy: %s (%s)\n",
      config.shape.empty() ? "checkpoint" : config.shape.c_str(), ops->Name().c_str(),
      static_cast<double>(checkpoint.weights.ternary_bytes()) / 1e6,
      static_cast<double>(checkpoint.weights.head_bytes()) / 1e6,
      std::string(checkpoint.weights.head_dtype()).c_str(),
      static_cast<double>(checkpoint.weights.shortlist.bytes()) / 1e6,
      config.kv_cache_dtype.c_str(), static_cast<double>(load.milliseconds) / 1e3,
      static_cast<double>(load.peak_resident_bytes) / 1e6, meter->method().c_str(),
      meter->scope().c_str());
  PrintTable(config, cases, checkpoint.weights);
  if (config.json.empty()) return absl::OkStatus();
  std::ofstream file(config.json);
  file << ToJson(config, ops->Name(), meter->method(), load, checkpoint.weights, tuning, cases)
              .dump(2)
       << "\n";
  file.close();
  return file ? absl::OkStatus()
              : absl::InvalidArgumentError(absl::StrCat("--json: cannot write ", config.json));
}

int RunBenchCommand(std::span<const std::string> args) {
  BenchConfig config;
  const Status parsed = ParseFlags(args, BenchFlags(config));
  if (!parsed.ok()) return UsageError(parsed);
  const Status status = RunBench(config);
  return status.ok() ? kExitOk : Failure(status);
}

}  // namespace

Command BenchCommand() {
  return {.name = "bench",
          .summary = "Measures prompt and decode speed, with a checkpoint or random weights.",
          .run = RunBenchCommand,
          .describe_flags = [](bool markdown) {
            BenchConfig config;
            return DescribeFlags(BenchFlags(config), markdown);
          }};
}

}  // namespace sterna
