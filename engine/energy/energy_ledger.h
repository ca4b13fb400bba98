// Splits the meter's joules among requests, exactly: at every moment, in integer nanojoules,
//
//   requests (prefill + decode) + idle + overhead + settlement == meter
//
// A step's energy is shared among the sequences that ran in it, by predicted cost (docs/energy.md);
// energy while nothing is asked for is idle; between steps while work waits, overhead. Where the
// source updates too seldom to see a step, the step is charged an estimate, and settlement holds the
// (signed) difference to what the counter then says.
//
// Thread contract: one caller at a time (the engine thread).
#ifndef STERNA_ENGINE_ENERGY_ENERGY_LEDGER_H_
#define STERNA_ENGINE_ENERGY_ENERGY_LEDGER_H_

#include <cstdint>
#include <span>

#include "base/clock.h"
#include "engine/energy/energy_meter.h"

namespace sterna {

// Nanojoules since start.
struct EnergyTotals {
  int64_t prefill_nj = 0;
  int64_t decode_nj = 0;
  int64_t idle_nj = 0;
  int64_t overhead_nj = 0;
  int64_t settlement_nj = 0;  // may be negative
  int64_t meter_nj = 0;       // the sum of all the others
};

// What one sequence did in a step.
struct StepWork {
  int64_t prompt_tokens = 0;   // computed of its prompt, or again after preemption
  int64_t output_tokens = 0;   // 0 or 1 decode token computed
  int64_t context_tokens = 0;  // sum over its tokens in this step of the positions each attended to
};

// What the shares are computed from; the engine derives it from the model's shapes.
struct EnergyCostModel {
  double weight_bytes = 0;             // read once a step, shared equally by token
  double macs_per_token = 0;           // multiply-adds of all linear layers
  double kv_bytes_per_context_token = 0;  // read by attention
};

class EnergyLedger {
 public:
  // `meter` and `clock` must outlive this.
  EnergyLedger(EnergyMeter* meter, const Clock* clock, const EnergyCostModel& costs);

  // A step begins now. `was_idle`: nothing was asked for since the last step ended.
  void BeginStep(bool was_idle);
  // The step ends now. Writes each sequence's share to `shares_nj` (same length as `work`); the
  // caller sums them up per request.
  void EndStep(std::span<const StepWork> work, std::span<int64_t> shares_nj);
  // Called now and then while idle, so that totals keep up with the meter.
  void Settle();

  const EnergyTotals& totals() const { return totals_; }

 private:
  EnergyMeter* meter_;
  const Clock* clock_;
  EnergyCostModel costs_;
  EnergyTotals totals_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_ENERGY_ENERGY_LEDGER_H_
