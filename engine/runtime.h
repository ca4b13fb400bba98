// Everything a command needs to run a model: loads a checkpoint and owns its tokenizer,
// template, weights, device, meter and engine, in the right order of construction and destruction.
#ifndef STERNA_ENGINE_RUNTIME_H_
#define STERNA_ENGINE_RUNTIME_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "engine/engine.h"
#include "engine/model/lint.h"
#include "engine/model/model.h"
#include "engine/model/tensor_classes.h"
#include "engine/model/weights.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "kernels/devices.h"

namespace sterna {

inline constexpr int64_t kHostKvCacheMib = 1024;

struct RuntimeOptions {
  std::string model;  // as ModelFiles::Open takes it
  I2sLayout i2s_layout = I2sLayout::kX86;
  HeadOptions head;
  DeviceOptions device;
  EnergyMeterOptions energy;
  // num_kv_blocks 0: as many as kv_cache_mib, or what takes its place, holds. max_step_tokens 0: it
  // and max_step_prompt_tokens are what step_seconds allow (engine/tuning.h).
  EngineOptions engine;
  // 0: kHostKvCacheMib, or on a device with memory of its own what its model and work buffers leave
  // of `device_memory_fraction` of it.
  int64_t kv_cache_mib = 0;
  double device_memory_fraction = 0.9;
  double step_seconds = 0.25;
  LintRefusal lint_refusal = LintRefusal::kErrors;  // others are logged
  LoadProgress progress;                            // may be empty
  bool fingerprint = false;                         // whether ModelInfo is to have one
};

// What GetModel, /v1/models and `inspect` tell of the model.
struct ModelInfo {
  std::string family;        // "A", "A'", "B", "C", "D", "E"
  std::string architecture;  // ModelConfig::model_type
  std::string device;        // Ops::Name()
  int64_t parameters = 0;    // ternary and dense together
  int64_t ternary_bytes = 0;
  int64_t dense_bytes = 0;  // dense embedding, head and its shortlist
  std::string head_dtype;   // of the head in memory: "bf16", "f32", "int8" or "ternary"
  int64_t head_bytes = 0;
  int64_t head_shortlist_bytes = 0;  // 0: none
  int64_t work_bytes = 0;            // Model::work_bytes()
  int64_t kv_cache_bytes = 0;
  int64_t num_kv_blocks = 0;
  int64_t max_context_tokens = 0;
  int64_t max_step_tokens = 0;
  // What was chosen and measured at start: Ops::Tune's, and where the step budget depends on it
  // prompt_tokens_per_second and prompt_tokens_per_step.
  std::vector<Tuning> tuning;
  // Which kernels multiply by the ternary matrices of a layer, and by a ternary head.
  struct Product {
    std::string name;  // "qkv", "o", "gate_up", "down", "head"
    std::vector<ProductPath> paths;
  };
  std::vector<Product> products;
  int64_t vocab_size = 0;
  int64_t longest_token_bytes = 0;  // of a text that becomes one token
  std::vector<TensorClass> tensor_classes;
  std::optional<uint64_t> fingerprint;  // where it was asked for
  std::vector<LintFinding> findings;    // that did not refuse it
  int64_t load_ns = 0;                  // wall time from start to ready
  int64_t peak_resident_bytes = 0;      // of the process, until ready
};

class Runtime {
 public:
  virtual ~Runtime() = default;
  // `listener` (may be null) and `clock` must outlive the runtime. Errors name file and field.
  static StatusOr<std::unique_ptr<Runtime>> Create(const RuntimeOptions& options,
                                                   StatsListener* listener, const Clock* clock);

  virtual Engine& engine() = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  // Null when the checkpoint has no chat template.
  virtual const ChatTemplate* chat_template() const = 0;
  virtual const ModelConfig& config() const = 0;
  virtual const ModelInfo& info() const = 0;
  virtual const EnergyMeter& energy_meter() const = 0;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_RUNTIME_H_
