// A ternary model small enough to run thousands of steps of in a test, with a tokenizer whose
// tokens are bytes, and an engine around them.
#ifndef STERNA_TESTS_TESTING_TINY_MODEL_H_
#define STERNA_TESTS_TESTING_TINY_MODEL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/mutex.h"
#include "engine/engine.h"
#include "engine/model/weights.h"
#include "kernels/devices.h"

namespace sterna::testing {

// Grouped heads, and sizes that are no multiples of a packed block.
inline ModelConfig TinyConfig() {
  ModelConfig config;
  config.model_type = "llama";
  config.hidden_size = 72;
  config.ffn_size = 100;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 12;
  config.vocab_size = 260;
  config.max_positions = 512;
  config.tie_embeddings = true;
  config.eos_token_ids = {257};
  return config;
}

// Ids 0 to 255 are bytes; 256 is BOS, 257 EOS, the rest are unused.
class ByteTokenizer final : public Tokenizer {
 public:
  StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool add_special,
                                        bool) const override {
    std::vector<int32_t> ids;
    if (add_special) ids.push_back(256);
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }
  std::string TokenBytes(int32_t id) const override {
    return id >= 0 && id < 256 ? std::string(1, static_cast<char>(id)) : std::string();
  }
  std::string_view kind() const override { return "bytes"; }
  bool StripsLeadingSpace() const override { return false; }
  int32_t vocab_size() const override { return 260; }
  std::optional<int32_t> bos_id() const override { return 256; }
  std::optional<int32_t> TokenToId(std::string_view token) const override {
    if (token == "<s>") return 256;
    if (token == "</s>") return 257;
    return std::nullopt;
  }
  std::string IdToToken(int32_t id) const override {
    if (id == 256) return "<s>";
    if (id == 257) return "</s>";
    return TokenBytes(id);
  }
  bool IsSpecial(int32_t id) const override { return id >= 256; }
};

// A meter that says what it is told.
class FakeMeter final : public EnergyMeter {
 public:
  StatusOr<int64_t> ReadNanojoules() override { return nanojoules_.load(); }
  std::string method() const override { return "fake"; }
  std::string scope() const override { return "test"; }
  int64_t update_interval_ns() const override { return 0; }
  void Add(int64_t nanojoules) { nanojoules_ += nanojoules; }
  int64_t nanojoules() const { return nanojoules_; }

 private:
  std::atomic<int64_t> nanojoules_ = 0;
};

// Adds up what the engine reports, and can hold the engine up at the end of its step.
class RecordingListener final : public StatsListener {
 public:
  struct Sums {
    int64_t steps = 0;
    int64_t duration_ns = 0;  // of all steps
    int64_t prompt_tokens = 0;
    int64_t recomputed_tokens = 0;
    int64_t output_tokens = 0;
    int64_t preemptions = 0;
    int64_t ttft_count = 0;
    int64_t inter_token_count = 0;
    int64_t queue_count = 0;
    int64_t finished = 0;
    int64_t refused = 0;
    int64_t most_running = 0;
    int64_t most_prompt_tokens = 0;  // of a step
    int64_t kv_blocks_used = 0;      // after the last step
    EnergyTotals energy;             // after the last step
  };

  // From here to Release the engine's thread stays in OnStep when it next comes there.
  void Hold() {
    MutexLock lock(mutex_);
    held_ = true;
  }
  void Release() {
    MutexLock lock(mutex_);
    held_ = false;
    released_.NotifyAll();
  }

  void OnStep(const StepStats& stats) override {
    MutexLock lock(mutex_);
    while (held_) released_.Wait(mutex_);
    ++sums_.steps;
    sums_.duration_ns += stats.duration_ns;
    sums_.prompt_tokens += stats.prompt_tokens;
    sums_.recomputed_tokens += stats.recomputed_tokens;
    sums_.output_tokens += stats.output_tokens;
    sums_.preemptions += stats.preemptions;
    sums_.ttft_count += static_cast<int64_t>(stats.ttft_ns.size());
    sums_.inter_token_count += static_cast<int64_t>(stats.inter_token_ns.size());
    sums_.queue_count += static_cast<int64_t>(stats.queue_ns.size());
    sums_.most_running = std::max(sums_.most_running, stats.running);
    sums_.most_prompt_tokens = std::max(sums_.most_prompt_tokens, stats.prompt_tokens);
    sums_.kv_blocks_used = stats.kv_blocks_used;
    sums_.energy = stats.energy;
  }
  void OnFinish(const RequestStats&) override {
    MutexLock lock(mutex_);
    ++sums_.finished;
  }
  void OnRefused(ErrorLabel) override {
    MutexLock lock(mutex_);
    ++sums_.refused;
  }
  Sums sums() const {
    MutexLock lock(mutex_);
    return sums_;
  }

 private:
  mutable Mutex mutex_;
  CondVar released_;
  bool held_ STERNA_GUARDED_BY(mutex_) = false;
  Sums sums_ STERNA_GUARDED_BY(mutex_);
};

// One model and one engine over it.
struct TinyEngineOptions {
  ModelConfig model = TinyConfig();
  EngineOptions engine = {.max_step_tokens = 512,
                          .max_chunk_tokens = 512,
                          .max_sequences = 64,
                          .max_queue = 256,
                          .num_kv_blocks = 2048,
                          .check_integrity = true};
  CpuOptions cpu = {.num_threads = 1};
  HeadOptions head;
};

class TinyEngine {
 public:
  explicit TinyEngine(const TinyEngineOptions& options = {},
                      std::unique_ptr<Ops<float>> ops = nullptr)
      : config_(options.model),
        weights_(MakeRandomWeights(config_, 1, /*sub_norms=*/false, options.head)) {
    if (ops == nullptr) {
      StatusOr<std::unique_ptr<Ops<float>>> cpu = CreateCpuOps(options.cpu);
      STERNA_CHECK(cpu.ok());
      ops = *std::move(cpu);
    }
    ops_ = std::move(ops);
    STERNA_CHECK(PlaceWeights(*ops_, weights_).ok());
    StatusOr<Model<float>> model =
        Model<float>::Create(&config_, &weights_, ops_.get(), LargestStep(options.engine, config_));
    STERNA_CHECK(model.ok());
    model_ = *std::move(model);
    StatusOr<std::unique_ptr<Engine>> engine = Engine::Create(
        options.engine, &*model_, &tokenizer_, &meter_, &listener_, &Clock::Steady());
    STERNA_CHECK(engine.ok());
    engine_ = *std::move(engine);
  }

  Engine& engine() { return *engine_; }
  const ModelConfig& config() const { return config_; }
  const Model<float>& model() const { return *model_; }
  FakeMeter& meter() { return meter_; }
  RecordingListener& listener() { return listener_; }
  RecordingListener::Sums sums() const { return listener_.sums(); }
  // Ends the engine, so that everything it reports has been reported.
  void Stop() { engine_.reset(); }

 private:
  ModelConfig config_;
  std::unique_ptr<Ops<float>> ops_;
  ModelWeights weights_;
  ByteTokenizer tokenizer_;
  FakeMeter meter_;
  RecordingListener listener_;
  std::optional<Model<float>> model_;
  std::unique_ptr<Engine> engine_;
};

// Everything one stream brought.
struct Output {
  std::vector<OutputToken> prompt_logprobs;
  std::vector<OutputToken> tokens;
  std::string text;
  Completion end;
};

inline Output ReadAll(TokenStream& stream) {
  Output output;
  while (true) {
    StreamUpdate update = stream.WaitAndTake();
    STERNA_CHECK(!update.empty());
    STERNA_CHECK(update.prompt_logprobs.empty() || output.tokens.empty());
    output.prompt_logprobs.insert(output.prompt_logprobs.end(), update.prompt_logprobs.begin(),
                                  update.prompt_logprobs.end());
    output.tokens.insert(output.tokens.end(), update.tokens.begin(), update.tokens.end());
    output.text += update.text;
    if (update.end) {
      output.end = *std::move(update.end);
      return output;
    }
  }
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_TINY_MODEL_H_
