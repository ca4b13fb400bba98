// A model being served: takes requests from any number of threads and runs them all, batched, on
// one thread of its own.
//
// The engine thread owns all sequence, block and cache state, so that state has no locks; requests
// cross one queue to it and tokens come back through TokenStreams.
// Thread contract: all public methods may be called from any thread.
#ifndef STERNA_ENGINE_ENGINE_H_
#define STERNA_ENGINE_ENGINE_H_

#include <chrono>
#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "base/status.h"
#include "engine/energy/energy_meter.h"
#include "engine/model/model.h"
#include "engine/request.h"
#include "engine/stats.h"
#include "engine/text/tokenizer.h"
#include "engine/token_stream.h"

namespace sterna {

struct EngineOptions {
  int64_t max_step_tokens = 512;       // token budget of one step, prompt and output together
  int64_t max_step_prompt_tokens = 0;  // of it for prompts; 0: what outputs leave
  int64_t max_chunk_tokens = 512;      // most prompt tokens of one sequence in one step
  int64_t max_sequences = 64;          // running at once
  // Prompt tokens of one step whose logprobs are told: so many rows of logits beside one for each
  // sequence. Prompts of which more are wanted are computed in chunks.
  int64_t max_scored_tokens = 128;
  int64_t max_queue = 256;         // waiting at once; more are refused
  int64_t num_kv_blocks = 0;       // of kKvBlockTokens tokens each; >= 1
  KvType kv_type = KvType::kF16;   // what the cache stores
  int64_t max_context_tokens = 0;  // prompt + output of one request; 0: the model's own limit
  // Plans a step while the one before it runs, where the device lets it (Ops::runs_ahead).
  bool async_scheduling = true;
  // Records the steps of decoding before the first request, where the device records any, so that
  // none has to wait for it.
  bool record_at_start = false;
  bool check_integrity = false;  // CheckIntegrity after every step, not only when idle (tests)
};

// The largest step of an engine with these options, num_kv_blocks included: what its model must
// have room for.
StepLimits LargestStep(const EngineOptions& options, const ModelConfig& config);

class Engine {
 public:
  // All pointers must outlive the engine; `listener` may be null. `eos_token_ids` come from the
  // model's config. InvalidArgument names the option that is out of range; ResourceExhausted where
  // the device has no memory for the K/V cache.
  static StatusOr<std::unique_ptr<Engine>> Create(const EngineOptions& options, Model<float>* model,
                                                  const Tokenizer* tokenizer, EnergyMeter* meter,
                                                  StatsListener* listener, const Clock* clock);
  // Cancels what still runs.
  virtual ~Engine() = default;

  // Accepts the request, or refuses it at once: kQueueFull, kDraining, kContextLengthExceeded (with
  // the numbers) or kInvalidRequest (an empty prompt, a token outside the vocabulary).
  virtual StatusOr<std::shared_ptr<TokenStream>> Submit(Request request) = 0;

  // Refuses new requests from now on (kDraining); what was accepted goes on.
  virtual void StopAccepting() = 0;
  // Waits until nothing is running or waiting; false when `timeout` passed first.
  virtual bool WaitUntilIdle(std::chrono::nanoseconds timeout) = 0;
  // Ends everything accepted as cancelled.
  virtual void CancelAll() = 0;

  // Largest prompt + output of one request: the smaller of model, option and cache.
  virtual int64_t max_context_tokens() const = 0;
  // False once a device failure has ended the step loop; requests are then refused.
  virtual bool healthy() const = 0;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_ENGINE_H_
