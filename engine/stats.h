// Plain numbers the engine hands out as things happen: the only source of metrics.
#ifndef STERNA_ENGINE_STATS_H_
#define STERNA_ENGINE_STATS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/energy/energy_ledger.h"
#include "engine/errors.h"
#include "engine/token_stream.h"

namespace sterna {

// After every step, and about once a second while idle (then with zero tokens).
struct StepStats {
  int64_t duration_ns = 0;    // of this step's forward pass and sampling
  int64_t running = 0;        // sequences with KV blocks
  int64_t waiting = 0;        // accepted, not running (preempted ones included)
  int64_t prompt_tokens = 0;  // prompt tokens computed in this step, each prompt token counted once
  int64_t recomputed_tokens = 0;  // computed again after a preemption
  int64_t output_tokens = 0;      // tokens generated in this step
  int64_t preemptions = 0;        // in this step
  int64_t kv_blocks_used = 0;
  int64_t kv_blocks_total = 0;
  std::vector<int64_t> queue_ns;  // of requests first scheduled in this step: wait since arrival
  std::vector<int64_t> ttft_ns;   // of requests whose first token came: since arrival
  std::vector<int64_t> inter_token_ns;  // of every further token: since the one before it
  EnergyTotals energy;                  // since start
};

// Once for every accepted request.
struct RequestStats {
  FinishReason reason = FinishReason::kStop;
  ErrorLabel error = ErrorLabel::kInternal;  // for kFailed and kCancelled
  Usage usage;
  int64_t e2e_ns = 0;  // arrival to completion
};

// Thread contract: called on the engine thread, but OnRefused on the thread that submitted. Must
// return quickly.
class StatsListener {
 public:
  virtual ~StatsListener() = default;
  virtual void OnStep(const StepStats& stats) = 0;
  virtual void OnFinish(const RequestStats& stats) = 0;
  // A request that was not accepted (queue full, draining, does not fit).
  virtual void OnRefused(ErrorLabel label) = 0;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_STATS_H_
