#include "engine/runtime.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/process_memory.h"
#include "engine/cache/block_table.h"
#include "engine/cache/kv_cache.h"
#include "engine/checkpoint_lint.h"
#include "engine/model/fingerprint.h"
#include "engine/model/load_threads.h"
#include "engine/text/model_text.h"
#include "engine/tuning.h"

namespace sterna {
namespace {

// What there is for keys and values.
StatusOr<int64_t> KvCacheBytes(const RuntimeOptions& options, const Ops<float>& ops) {
  if (options.kv_cache_mib > 0) return options.kv_cache_mib << 20;
  const std::optional<MemoryBytes> memory = ops.memory();
  if (!memory) return kHostKvCacheMib << 20;
  const auto ours =
      static_cast<int64_t>(options.device_memory_fraction * static_cast<double>(memory->total));
  const int64_t used = memory->total - memory->free;
  if (ours > used) return ours - used;
  return absl::ResourceExhaustedError(absl::StrCat(
      ops.Name(), ": the model and its work buffers leave no room for keys and values: ",
      used >> 20, " of ", memory->total >> 20, " MiB are used, and device_memory_fraction ",
      options.device_memory_fraction, " allows for ", ours >> 20));
}

// More blocks than these can never be used at once.
int64_t MostKvBlocks(const EngineOptions& options, const ModelConfig& config) {
  int64_t context = config.max_positions;
  if (options.max_context_tokens > 0) context = std::min(context, options.max_context_tokens);
  return options.max_sequences * BlockTable::BlocksFor(context);
}

// As many blocks as there is room for.
StatusOr<int64_t> ChooseKvBlocks(const RuntimeOptions& options, const EngineOptions& engine,
                                 const ModelConfig& config, const Ops<float>& ops) {
  STERNA_ASSIGN_OR_RETURN(const int64_t bytes, KvCacheBytes(options, ops));
  const int64_t block_bytes = KvCache<float>::BytesPerBlock(config, engine.kv_type);
  const int64_t affordable = bytes / block_bytes;
  if (affordable < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the K/V cache's ", bytes, " bytes are less than one block of ", kKvBlockTokens,
        " tokens, which takes ", block_bytes, " bytes for this model"));
  }
  return std::min(affordable, MostKvBlocks(engine, config));
}

std::vector<ModelInfo::Product> DescribeProducts(const ModelWeights& weights,
                                                 const Ops<float>& ops) {
  const LayerWeights& layer = weights.layers.front();
  const auto paths = [&](std::initializer_list<const TernaryLinearWeights*> linears, bool gated) {
    std::vector<const TernaryMatrix*> matrices;
    for (const TernaryLinearWeights* linear : linears) matrices.push_back(&linear->w);
    return ops.ProductPaths(matrices, gated);
  };
  std::vector<ModelInfo::Product> products = {
      {.name = "qkv", .paths = paths({&layer.q, &layer.k, &layer.v}, false)},
      {.name = "o", .paths = paths({&layer.o}, false)},
      {.name = "gate_up", .paths = paths({&layer.gate, &layer.up}, true)},
      {.name = "down", .paths = paths({&layer.down}, false)}};
  if (const TernaryMatrix* head = weights.ternary_head()) {
    products.push_back({.name = "head", .paths = ops.ProductPaths({&head, 1}, false)});
  }
  return products;
}

// What is found out about weights before they are placed, for ModelInfo.
struct LoadedFacts {
  std::vector<LintFinding> findings;
  std::optional<uint64_t> fingerprint;
};

class RuntimeImpl final : public Runtime {
 public:
  // Members are built in the order of their dependencies and destroyed in reverse: the engine,
  // which uses everything else, goes first.
  RuntimeImpl(std::unique_ptr<Ops<float>> ops, Checkpoint checkpoint,
              std::unique_ptr<Tokenizer> tokenizer, std::optional<ChatTemplate> chat_template,
              std::unique_ptr<EnergyMeter> meter)
      : ops_(std::move(ops)),
        checkpoint_(std::move(checkpoint)),
        tokenizer_(std::move(tokenizer)),
        chat_template_(std::move(chat_template)),
        meter_(std::move(meter)) {}

  // Chooses the number of K/V blocks where that is left to us.
  Status StartEngine(const RuntimeOptions& runtime_options, EngineOptions& options,
                     StatsListener* listener, const Clock* clock) {
    const bool choose_blocks = options.num_kv_blocks == 0;
    if (choose_blocks) options.num_kv_blocks = MostKvBlocks(options, checkpoint_.config);
    STERNA_ASSIGN_OR_RETURN(
        model_, Model<float>::Create(&checkpoint_.config, &checkpoint_.weights, ops_.get(),
                                     LargestStep(options, checkpoint_.config)));
    if (choose_blocks) {
      // Only now is it known what the model leaves of a device's memory.
      STERNA_ASSIGN_OR_RETURN(options.num_kv_blocks,
                              ChooseKvBlocks(runtime_options, options, checkpoint_.config, *ops_));
    }
    STERNA_ASSIGN_OR_RETURN(engine_, Engine::Create(options, &*model_, tokenizer_.get(),
                                                    meter_.get(), listener, clock));
    return absl::OkStatus();
  }
  // Measures what is left to measurement; sets options' max_step_tokens and max_step_prompt_tokens
  // where the former is 0.
  Status Tune(double step_seconds, EngineOptions& options);
  void Describe(const EngineOptions& options, LoadedFacts facts, int64_t load_ns);

  Engine& engine() override { return *engine_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const ChatTemplate* chat_template() const override {
    return chat_template_ ? &*chat_template_ : nullptr;
  }
  const ModelConfig& config() const override { return checkpoint_.config; }
  const ModelInfo& info() const override { return info_; }
  const EnergyMeter& energy_meter() const override { return *meter_; }

 private:
  std::unique_ptr<Ops<float>> ops_;
  Checkpoint checkpoint_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<ChatTemplate> chat_template_;
  std::unique_ptr<EnergyMeter> meter_;
  std::optional<Model<float>> model_;
  std::unique_ptr<Engine> engine_;
  std::vector<Tuning> tuning_;
  ModelInfo info_;
};

Status RuntimeImpl::Tune(double step_seconds, EngineOptions& options) {
  tuning_ = TuneOps(checkpoint_.weights, ops_.get());
  if (options.max_step_tokens > 0) return absl::OkStatus();
  if (ops_->memory()) {
    options.max_step_prompt_tokens = kDevicePromptTokens;
    options.max_step_tokens = options.max_sequences + options.max_step_prompt_tokens;
    return absl::OkStatus();
  }
  STERNA_ASSIGN_OR_RETURN(const double rate,
                          MeasurePromptRate(checkpoint_.config, checkpoint_.weights, ops_.get()));
  options.max_step_prompt_tokens = ChoosePromptTokens(rate, step_seconds);
  options.max_step_tokens = options.max_sequences + options.max_step_prompt_tokens;
  tuning_.push_back({.name = "prompt_tokens_per_second", .value = rate});
  tuning_.push_back({.name = "prompt_tokens_per_step",
                     .value = static_cast<double>(options.max_step_prompt_tokens)});
  return absl::OkStatus();
}

// Special tokens, which add no bytes to a text, by their spelling.
int64_t LongestTokenBytes(const Tokenizer& tokenizer) {
  size_t longest = 0;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const size_t bytes = tokenizer.TokenBytes(id).size();
    longest = std::max(longest, bytes > 0 ? bytes : tokenizer.IdToToken(id).size());
  }
  return static_cast<int64_t>(longest);
}

void RuntimeImpl::Describe(const EngineOptions& options, LoadedFacts facts, int64_t load_ns) {
  const ModelConfig& config = checkpoint_.config;
  const ModelWeights& weights = checkpoint_.weights;
  info_ = {.family = std::string(FamilyName(config.family)),
           .architecture = config.model_type,
           .device = ops_->Name(),
           .parameters = weights.num_parameters(),
           .ternary_bytes = weights.ternary_bytes(),
           .dense_bytes = weights.dense_bytes(),
           .head_dtype = std::string(weights.head_dtype()),
           .head_bytes = weights.head_bytes(),
           .head_shortlist_bytes = weights.shortlist.bytes(),
           .work_bytes = model_->work_bytes(),
           .kv_cache_bytes =
               options.num_kv_blocks * KvCache<float>::BytesPerBlock(config, options.kv_type),
           .num_kv_blocks = options.num_kv_blocks,
           .max_context_tokens = engine_->max_context_tokens(),
           .max_step_tokens = options.max_step_tokens,
           .tuning = tuning_,
           .products = DescribeProducts(weights, *ops_),
           .vocab_size = config.vocab_size,
           .longest_token_bytes = LongestTokenBytes(*tokenizer_),
           .tensor_classes = TensorClasses(weights),
           .fingerprint = facts.fingerprint,
           .findings = std::move(facts.findings),
           .load_ns = load_ns,
           .peak_resident_bytes = PeakResidentBytes()};
}

// Nothing where the model has none.
StatusOr<std::optional<ChatTemplate>> ChatTemplateOf(const ModelFiles& files) {
  StatusOr<ChatTemplate> compiled = LoadChatTemplate(files);
  if (compiled.ok()) return std::optional<ChatTemplate>(*std::move(compiled));
  if (!absl::IsNotFound(compiled.status())) return compiled.status();
  STERNA_LOG(kInfo, files.path(), " has no chat template; chat requests are refused");
  return std::optional<ChatTemplate>();
}

// Logs what is wrong with the checkpoint, and refuses what the options say is too wrong.
StatusOr<LoadedFacts> Examine(const RuntimeOptions& options, const Checkpoint& checkpoint,
                              TensorNames names, const Tokenizer& tokenizer,
                              const std::optional<ChatTemplate>& chat_template) {
  LoadedFacts facts;
  facts.findings =
      LintLoaded(checkpoint, names, &tokenizer, chat_template ? &*chat_template : nullptr);
  for (const LintFinding& finding : facts.findings) {
    STERNA_LOG(kWarning, options.model, ": ", LintText(finding));
  }
  STERNA_RETURN_IF_ERROR(
      Annotate(RefuseFindings(facts.findings, options.lint_refusal), options.model));
  if (options.fingerprint) {
    ThreadPool pool(NumLoadThreads());
    facts.fingerprint = Fingerprint(checkpoint.weights, pool);
  }
  return facts;
}

}  // namespace

StatusOr<std::unique_ptr<Runtime>> Runtime::Create(const RuntimeOptions& options,
                                                   StatsListener* listener, const Clock* clock) {
  const int64_t start_ns = clock->NowNs();
  // The cheap files first: a wrong directory or flag is reported before gigabytes are read.
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<Ops<float>> ops, CreateOps(options.device));
  STERNA_RETURN_IF_ERROR(CheckKvType(*ops, options.engine.kv_type));
  STERNA_ASSIGN_OR_RETURN(const HeadOptions head, HeadFor(options.head, *ops));
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<EnergyMeter> meter,
                          CreateEnergyMeter(options.energy, ops->pci_bus_id(), *clock));
  STERNA_ASSIGN_OR_RETURN(const ModelFiles files, ModelFiles::Open(options.model));
  STERNA_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(files));
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(files));
  STERNA_RETURN_IF_ERROR(CheckVocabulary(*tokenizer, config, files.path()));
  STERNA_ASSIGN_OR_RETURN(std::optional<ChatTemplate> chat_template, ChatTemplateOf(files));
  // What a model will leave of a device's own memory is not known yet; all else is.
  if (options.kv_cache_mib > 0 || !ops->memory()) {
    STERNA_RETURN_IF_ERROR(ChooseKvBlocks(options, options.engine, config, *ops).status());
  }
  EngineOptions engine_options = options.engine;
  STERNA_ASSIGN_OR_RETURN(
      Checkpoint checkpoint,
      LoadCheckpoint(
          files, {.head = head, .i2s_layout = options.i2s_layout, .progress = options.progress}));
  const TensorNames names =
      files.gguf() != nullptr ? TensorNames::kGguf : TensorNames::kHuggingFace;
  STERNA_ASSIGN_OR_RETURN(LoadedFacts facts,
                          Examine(options, checkpoint, names, *tokenizer, chat_template));
  STERNA_RETURN_IF_ERROR(PlaceWeights(*ops, checkpoint.weights));

  auto runtime =
      std::make_unique<RuntimeImpl>(std::move(ops), std::move(checkpoint), std::move(tokenizer),
                                    std::move(chat_template), std::move(meter));
  STERNA_RETURN_IF_ERROR(runtime->Tune(options.step_seconds, engine_options));
  STERNA_RETURN_IF_ERROR(runtime->StartEngine(options, engine_options, listener, clock));
  runtime->Describe(engine_options, std::move(facts), clock->NowNs() - start_ns);
  return runtime;
}

}  // namespace sterna
