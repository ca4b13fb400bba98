// `sterna eval`: the perplexity of a text file.
//
// The file is encoded as one text and cut into windows of `context - 1` tokens, none overlapping;
// each window is read after BOS (for a tokenizer without BOS, after nothing, and its first token is
// not scored), and every token in it is scored given all before it in the window. Perplexity is
// exp(mean negative log-likelihood) over all scored tokens. No window sees the one before, so
// figures are a little higher than with overlapping windows and depend on --context.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/cache/block_table.h"
#include "engine/model/model.h"
#include "engine/tuning.h"
#include "kernels/devices.h"
#include "server/command.h"
#include "server/config.h"

namespace sterna {
namespace {

struct EvalConfig : RuntimeConfig {
  EvalConfig() { max_step_tokens = kMostPromptTokens; }  // nobody waits, so nothing is measured
  std::string file;
  int64_t context = 512;
  bool json = false;
};

// Of the flags that load a model, those that evaluation has a use for.
std::vector<Flag> EvalFlags(EvalConfig& c) {
  std::vector<Flag> flags;
  for (const Flag& flag : RuntimeFlags(c)) {
    if (flag.name == "model" || flag.name == "threads" || flag.name == "cpu-isa" ||
        flag.name == "max-step-tokens" || flag.name == "kv-cache-dtype" ||
        flag.name == "head-dtype") {
      flags.push_back(flag);
    }
    if (flag.name == "max-step-tokens") {
      flags.back().help = "Tokens of one step.";
      flags.back().min = 1;
    }
  }
  flags.push_back({.name = "file", .value = &c.file, .help = "The text to score, UTF-8."});
  flags.push_back({.name = "context",
                   .value = &c.context,
                   .help = "Tokens of a window, BOS included.",
                   .min = 2,
                   .max = 1 << 24});
  flags.push_back({.name = "json", .value = &c.json, .help = "Print JSON instead of text."});
  return flags;
}

struct EvalResult {
  int64_t windows = 0;
  int64_t scored_tokens = 0;
  double negative_log_likelihood = 0;  // natural, summed
};

// One sequence at a time over blocks 0, 1, 2, ...; every token's logits are looked at.
class Evaluator {
 public:
  // `checkpoint`, whose weights are placed, and `ops` must outlive the evaluator.
  static StatusOr<Evaluator> Create(const Checkpoint& checkpoint, Ops<float>* ops, KvType kv_type,
                                    int64_t context, int64_t step_tokens) {
    step_tokens = std::min(step_tokens, context);
    STERNA_ASSIGN_OR_RETURN(Model<float> model,
                            Model<float>::Create(&checkpoint.config, &checkpoint.weights, ops,
                                                 {.tokens = step_tokens,
                                                  .logit_rows = step_tokens,
                                                  .sequences = 1,
                                                  .context_tokens = context}));
    STERNA_ASSIGN_OR_RETURN(
        KvCache<float> cache,
        KvCache<float>::Create(checkpoint.config, kv_type, BlockTable::BlocksFor(context), *ops));
    return Evaluator(std::move(model), std::move(cache));
  }

  Status AddWindow(const std::vector<int32_t>& tokens, EvalResult* result);

 private:
  Evaluator(Model<float> model, KvCache<float> cache)
      : model_(std::move(model)), cache_(std::move(cache)) {}
  StepBatch BatchOf(const std::vector<int32_t>& tokens, int64_t begin, int64_t end) const;

  Model<float> model_;
  KvCache<float> cache_;
};

StepBatch Evaluator::BatchOf(const std::vector<int32_t>& tokens, int64_t begin, int64_t end) const {
  StepBatch batch;
  batch.num_sequences = 1;
  batch.max_blocks = cache_.num_blocks();
  for (int64_t block = 0; block < batch.max_blocks; ++block) {
    batch.block_tables.push_back(static_cast<int32_t>(block));
  }
  for (int64_t i = begin; i < end; ++i) {
    batch.token_ids.push_back(tokens[i]);
    batch.positions.push_back(static_cast<int32_t>(i));
    // Block b of the sequence is block b of the cache, so slots are positions.
    batch.slots.push_back(static_cast<int32_t>(i));
    batch.sequence.push_back(0);
    batch.logit_rows.push_back(static_cast<int32_t>(i - begin));
  }
  return batch;
}

double NegativeLogLikelihood(std::span<const float> logits, int32_t token) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum) - logits[static_cast<size_t>(token)];
}

Status Evaluator::AddWindow(const std::vector<int32_t>& tokens, EvalResult* result) {
  const auto count = static_cast<int64_t>(tokens.size());
  const int64_t step_tokens = model_.limits().tokens;
  // One at a time: all of a step's can be hundreds of megabytes.
  std::vector<float> row(static_cast<size_t>(model_.config().vocab_size));
  const auto row_bytes = static_cast<int64_t>(row.size() * sizeof(float));
  // The last token is only predicted, never read.
  for (int64_t begin = 0; begin < count - 1; begin += step_tokens) {
    const int64_t end = std::min(begin + step_tokens, count - 1);
    const Mat<const float> logits = model_.Forward(BatchOf(tokens, begin, end), cache_);
    for (int64_t i = begin; i < end; ++i) {
      STERNA_RETURN_IF_ERROR(model_.ops().CopyToHost(row.data(), logits.row(i - begin), row_bytes));
      result->negative_log_likelihood += NegativeLogLikelihood(row, tokens[i + 1]);
      ++result->scored_tokens;
    }
  }
  ++result->windows;
  return absl::OkStatus();
}

StatusOr<EvalResult> Evaluate(const EvalConfig& config) {
  STERNA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(config.file));
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<Ops<float>> ops,
                          CreateOps(ToRuntimeOptions(config).device));
  STERNA_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(config.model));
  STERNA_ASSIGN_OR_RETURN(
      Checkpoint checkpoint,
      LoadCheckpoint(config.model, {.head = {.type = HeadOptionsOf(config.head).type}}));
  if (config.context > checkpoint.config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("--context is ", config.context,
                                                   "; this model's limit is ",
                                                   checkpoint.config.max_positions));
  }
  STERNA_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                          tokenizer->Encode(text, /*add_special=*/false, /*parse_special=*/false));
  if (ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.file, " has ", ids.size(), " tokens; at least 2 are needed"));
  }
  const std::optional<int32_t> bos = tokenizer->bos_id();
  const int64_t per_window = config.context - (bos.has_value() ? 1 : 0);
  STERNA_RETURN_IF_ERROR(PlaceWeights(*ops, checkpoint.weights));
  STERNA_ASSIGN_OR_RETURN(Evaluator evaluator,
                          Evaluator::Create(checkpoint, ops.get(), KvTypeOf(config.kv_cache_dtype),
                                            config.context, config.max_step_tokens));
  EvalResult result;
  for (size_t begin = 0; begin < ids.size(); begin += per_window) {
    std::vector<int32_t> window;
    if (bos.has_value()) window.push_back(*bos);
    const size_t end = std::min(ids.size(), begin + static_cast<size_t>(per_window));
    window.insert(window.end(), ids.begin() + static_cast<int64_t>(begin),
                  ids.begin() + static_cast<int64_t>(end));
    STERNA_RETURN_IF_ERROR(evaluator.AddWindow(window, &result));
  }
  return result;
}

int RunEval(std::span<const std::string> args) {
  EvalConfig config;
  Status status = ParseFlags(args, EvalFlags(config));
  if (status.ok() && config.file.empty()) {
    status = absl::InvalidArgumentError("--file is missing; it names the text to score");
  }
  if (status.ok()) status = ResolveModel(config);
  if (!status.ok()) return UsageError(status);
  const StatusOr<EvalResult> result = Evaluate(config);
  if (!result.ok()) return Failure(result.status());
  const double mean = result->negative_log_likelihood / static_cast<double>(result->scored_tokens);
  if (config.json) {
    const nlohmann::ordered_json out = {{"model", config.model},
                                        {"file", config.file},
                                        {"context", config.context},
                                        {"windows", result->windows},
                                        {"scored_tokens", result->scored_tokens},
                                        {"mean_negative_log_likelihood", mean},
                                        {"perplexity", std::exp(mean)}};
    std::printf("%s\n", out.dump(2).c_str());
  } else {
    std::printf("perplexity %.4f over %lld tokens in %lld windows of %lld (%.5f nats a token)\n",
                std::exp(mean), static_cast<long long>(result->scored_tokens),
                static_cast<long long>(result->windows), static_cast<long long>(config.context),
                mean);
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
          .summary = "Scores a text file: perplexity over windows that do not overlap.",
          .run = &RunEval,
          .describe_flags = &DescribeEvalFlags};
}

}  // namespace sterna
