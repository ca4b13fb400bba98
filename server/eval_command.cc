// `sterna eval`: the perplexity of a text (server/eval/perplexity.h), or how many items of a task a
// model gets right (server/eval/items.h). Both ask the engine for logprobs of prompts, as clients
// of the server may.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/runtime.h"
#include "engine/tuning.h"
#include "server/command.h"
#include "server/config.h"
#include "server/eval/items.h"
#include "server/eval/perplexity.h"
#include "server/eval/progress_bar.h"
#include "server/eval/scoring.h"
#include "server/prompt.h"

namespace sterna {
namespace {

using Json = nlohmann::ordered_json;

// Where --context says nothing: longer windows take long and say little more.
constexpr int64_t kMostDefaultContext = 2048;

struct EvalConfig : RuntimeConfig {
  EvalConfig() {
    max_step_tokens = kMostPromptTokens;  // nobody waits, so nothing is measured
    head.shortlist = "off";               // all logits are wanted
  }
  std::string file;
  std::string items;
  std::string suffix;
  int64_t context = 0;
  int64_t stride = 0;
  bool bos = true;
  int64_t limit = 0;
  bool json = false;
};

// Of the flags that load a model, those that evaluation has a use for.
std::vector<Flag> EvalFlags(EvalConfig& c) {
  constexpr std::string_view kUsed[] = {
      "model",          "i2s-layout", "device",         "device-index",
      "threads",        "cpu-isa",    "kv-cache-mib",   "gpu-memory-fraction",
      "kv-cache-dtype", "head-dtype", "max-step-tokens"};
  std::vector<Flag> flags;
  for (const Flag& flag : RuntimeFlags(c)) {
    if (std::ranges::find(kUsed, flag.name) != std::end(kUsed)) flags.push_back(flag);
    if (flag.name == "max-step-tokens") {
      flags.back().help = "Tokens of one step, of all windows or items that run at once.";
      flags.back().min = 1;
    }
  }
  const std::vector<Flag> own = {
      {.name = "file", .value = &c.file, .help = "A text, UTF-8, whose perplexity is told."},
      {.name = "items",
       .value = &c.items,
       .help = "A task instead: JSON Lines with a context and choices, or a continuation, in each "
               "(docs/evaluation.md); the share that the model gets right is told."},
      {.name = "suffix",
       .value = &c.suffix,
       .help = "With --items: text to add to every context, such as $'\\nAnswer:'."},
      {.name = "context",
       .value = &c.context,
       .help = "Most tokens of a window or an item, BOS included; longer items lose their "
               "beginning. 0: the model's limit, at most 2048.",
       .min = 0,
       .max = 1 << 24},
      {.name = "stride",
       .value = &c.stride,
       .help = "With --file: tokens of the text from one window to the next, of which that many, "
               "the last, are scored; 0: windows do not overlap.",
       .min = 0,
       .max = 1 << 24},
      {.name = "bos",
       .value = &c.bos,
       .help = "Begin every window and context with the special tokens that the tokenizer adds."},
      {.name = "limit",
       .value = &c.limit,
       .help = "Only the first so many windows or items; 0: all.",
       .min = 0,
       .max = 1 << 30},
      {.name = "json", .value = &c.json, .help = "Print JSON instead of text."}};
  flags.insert(flags.end(), own.begin(), own.end());
  return flags;
}

Status CheckFlags(const EvalConfig& c) {
  if (c.file.empty() == c.items.empty()) {
    return absl::InvalidArgumentError(
        c.file.empty() ? "--file and --items are missing; one of them names what to score"
                       : "--file and --items are both given; one of them names what to score");
  }
  if (!c.file.empty() && !c.suffix.empty()) {
    return absl::InvalidArgumentError("--suffix is only allowed with --items");
  }
  if (!c.items.empty() && c.stride > 0) {
    return absl::InvalidArgumentError("--stride is only allowed with --file");
  }
  return absl::OkStatus();
}

StatusOr<std::unique_ptr<Runtime>> LoadModel(const EvalConfig& config) {
  RuntimeOptions options = ToRuntimeOptions(config);
  options.engine.max_context_tokens = config.context > 0 ? config.context : kMostDefaultContext;
  options.engine.max_scored_tokens = config.max_step_tokens;
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<Runtime> runtime,
                          Runtime::Create(options, nullptr, &Clock::Steady()));
  const int64_t limit = runtime->engine().max_context_tokens();
  if (config.context > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("--context is ", config.context, "; this model's limit is ", limit));
  }
  return runtime;
}

StatusOr<std::vector<PromptScore>> Score(Runtime& runtime, const std::string& unit, int64_t count,
                                         const std::function<ScoringPrompt(int64_t)>& prompt) {
  ProgressBar bar(unit, count);
  return ScorePrompts(runtime.engine(), count, prompt, [&](int64_t done) { bar.Update(done); });
}

StatusOr<Json> EvaluateText(const EvalConfig& config) {
  STERNA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(config.file));
  STERNA_ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime, LoadModel(config));
  const Tokenizer& tokenizer = runtime->tokenizer();
  const StatusOr<std::vector<int32_t>> ids =
      tokenizer.Encode(text, /*add_special=*/false, /*parse_special=*/true);
  if (!ids.ok()) return Annotate(ids.status(), config.file);
  const WindowOptions options = {.context = runtime->engine().max_context_tokens(),
                                 .stride = config.stride,
                                 .bos = config.bos ? AddedBos(tokenizer) : std::nullopt};
  const int64_t most = WindowTokens(options);
  if (most < 1 || config.stride > most) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--context is ", options.context,
        config.stride > 0 ? absl::StrCat(" and --stride ", config.stride) : "", "; a window holds ",
        most, " tokens of the text beside BOS, and windows advance by 1 to as many"));
  }
  const TextWindows windows(*ids, options);
  const int64_t count = config.limit > 0 ? std::min(windows.size(), config.limit) : windows.size();
  STERNA_ASSIGN_OR_RETURN(
      const std::vector<PromptScore> scores,
      Score(*runtime, "windows", count, [&](int64_t index) { return windows[index]; }));
  PromptScore sum;
  for (const PromptScore& score : scores) {
    sum.log_likelihood += score.log_likelihood;
    sum.num_tokens += score.num_tokens;
  }
  if (sum.num_tokens == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.file, " has ", ids->size(), " tokens, none of which can be scored"));
  }
  const double mean = -sum.log_likelihood / static_cast<double>(sum.num_tokens);
  return Json{
      {"model", config.model},           {"file", config.file},
      {"context", options.context},      {"stride", config.stride > 0 ? config.stride : most},
      {"bos", options.bos.has_value()},  {"windows", count},
      {"scored_tokens", sum.num_tokens}, {"mean_negative_log_likelihood", mean},
      {"perplexity", std::exp(mean)}};
}

StatusOr<Json> EvaluateItems(const EvalConfig& config) {
  STERNA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(config.items));
  STERNA_ASSIGN_OR_RETURN(std::vector<EvalItem> items, ReadItems(text, config.items, config.limit));
  STERNA_ASSIGN_OR_RETURN(const std::unique_ptr<Runtime> runtime, LoadModel(config));
  const int64_t context = runtime->engine().max_context_tokens();
  std::vector<ScoringPrompt> prompts;
  for (size_t i = 0; i < items.size(); ++i) {
    items[i].context += config.suffix;
    StatusOr<std::vector<ScoringPrompt>> some =
        EncodeItem(runtime->tokenizer(), items[i], config.bos, context);
    if (!some.ok()) {
      return Annotate(some.status(), absl::StrCat(config.items, ": item ", i));
    }
    std::ranges::move(*some, std::back_inserter(prompts));
  }
  STERNA_ASSIGN_OR_RETURN(const std::vector<PromptScore> scores,
                          Score(*runtime, "prompts", std::ssize(prompts),
                                [&](int64_t index) { return std::move(prompts[index]); }));
  Json out = {{"model", config.model},
              {"items_file", config.items},
              {"context", context},
              {"bos", config.bos && AddedBos(runtime->tokenizer()).has_value()},
              {"items", items.size()}};
  const auto add = [&](const char* name, double share) {
    out[name] = share;
    out[absl::StrCat(name, "_stderr")] = StandardError(share, items.size());
  };
  if (items[0].gold.has_value()) {
    const ChoiceFigures figures = JudgeChoices(items, scores);
    add("acc", figures.acc);
    add("acc_norm", figures.acc_norm);
    add("acc_bytes", figures.acc_bytes);
  } else {
    const ContinuationFigures figures = JudgeContinuations(scores);
    add("acc", figures.acc);
    out["perplexity"] = figures.perplexity;
  }
  return out;
}

void PrintText(const Json& result) {
  const auto number = [&](const char* name) { return result[name].get<double>(); };
  const auto count = [&](const char* name) {
    return static_cast<long long>(result[name].get<int64_t>());
  };
  if (!result.contains("items")) {
    std::printf("perplexity %.4f over %lld tokens in %lld windows of %lld (%.5f nats a token)\n",
                number("perplexity"), count("scored_tokens"), count("windows"), count("context"),
                number("mean_negative_log_likelihood"));
    return;
  }
  for (const char* name : {"acc", "acc_norm", "acc_bytes"}) {
    if (!result.contains(name)) continue;
    std::printf("%s %.4f +- %.4f, ", name, number(name),
                number(absl::StrCat(name, "_stderr").c_str()));
  }
  if (result.contains("perplexity")) std::printf("perplexity %.4f, ", number("perplexity"));
  std::printf("over %lld items\n", count("items"));
}

int RunEval(std::span<const std::string> args) {
  EvalConfig config;
  Status status = ParseFlags(args, EvalFlags(config));
  if (status.ok()) status = CheckFlags(config);
  if (status.ok()) status = ResolveModel(config);
  if (!status.ok()) return UsageError(status);
  const StatusOr<Json> result = config.items.empty() ? EvaluateText(config) : EvaluateItems(config);
  if (!result.ok()) return Failure(result.status());
  if (config.json) {
    std::printf("%s\n", result->dump(2).c_str());
  } else {
    PrintText(*result);
  }
  return kExitOk;
}

std::string DescribeEvalFlags(bool markdown) {
  EvalConfig config;
  return DescribeFlags(EvalFlags(config), markdown);
}

}  // namespace

Command EvalCommand() {
  return {.name = "eval",
          .summary = "Scores a text (perplexity) or the items of a task (accuracy).",
          .run = &RunEval,
          .describe_flags = &DescribeEvalFlags};
}

}  // namespace sterna
