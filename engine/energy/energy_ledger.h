// Splits the meter's joules among requests, exactly: at every moment, in integer nanojoules,
//
//   requests (prefill + decode) + idle + overhead + settlement == meter
//
// A step's energy is shared among the sequences that ran in it, by predicted cost (docs/energy.md);
// energy while nothing is asked for is idle; between steps while work waits, overhead. Where the
// source updates too seldom to see a step, the step is charged an estimate, and settlement holds
// the (signed) difference to what the counter then says. While the source cannot be read nothing is
// charged; what it turns out to have counted meanwhile goes to settlement.
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
  // Its request has ended meanwhile and can be charged no more: its share is overhead.
  bool request_ended = false;
};

// What the shares are computed from; the engine derives it from the model's shapes.
struct EnergyCostModel {
  double weight_bytes = 0;                // read once a step, shared equally by token
  double macs_per_token = 0;              // multiply-adds of all linear layers
  double kv_bytes_per_context_token = 0;  // read by attention
  // Only their ratio matters: what moving a byte costs against a multiply-add. The defaults are the
  // balance of one server core (10 GB/s against 120 G multiply-adds/s); docs/energy.md,
  // "Calibration".
  double picojoules_per_byte = 120;
  double picojoules_per_mac = 10;
};

class EnergyLedger {
 public:
  // `meter` and `clock` must outlive this.
  EnergyLedger(EnergyMeter* meter, const Clock* clock, const EnergyCostModel& costs);

  // A step begins now. `was_idle`: nothing was asked for since the last step ended.
  void BeginStep(bool was_idle);
  // The step ends now. Writes each sequence's share to `shares_nj` (same length as `work`), 0 where
  // its request has ended; the caller sums them up per request.
  void EndStep(std::span<const StepWork> work, std::span<int64_t> shares_nj);
  // Called now and then while idle, so that totals keep up with the meter.
  void Settle();

  const EnergyTotals& totals() const { return totals_; }

 private:
  enum Activity { kBusy, kIdle };  // the two mean powers that are told apart

  // Reads the meter, ends the span of time since the last call, which was one of `activity`, and
  // returns what to charge for it (>= 0). The caller adds it to totals_, then calls Balance().
  int64_t ChargeSpan(Activity activity);
  // Takes a reading into totals_.meter_nj; false when the source failed or has just come back, in
  // which case nothing can be said about the span.
  bool ReadMeter();
  // Corrects the power estimates by what the counter says beyond what was charged in the window.
  void LearnPower(double error_nj);
  // A window begins where the counter last moved; `carry_nj` have been charged since then.
  void StartWindow(double carry_nj);
  // Settlement is by definition what the other accounts do not hold.
  void Balance();

  EnergyMeter* meter_;
  const Clock* clock_;
  EnergyCostModel costs_;
  EnergyTotals totals_;

  int64_t interval_ns_;  // of the source
  int64_t boundary_ns_;  // where the current span began
  int64_t last_reading_nj_ = 0;
  bool failing_ = false;
  bool failure_logged_ = false;

  // The window: since the counter last moved. All zero for a source that is never late.
  int64_t window_meter_nj_ = 0;   // totals_.meter_nj at its start
  double window_charged_nj_ = 0;  // estimates charged in it
  double window_ns_[2] = {0, 0};  // by Activity
  double nj_per_ns_[2] = {0, 0};  // the power estimates, in watts, by Activity
  bool power_known_[2] = {false, false};
};

// Splits `total_nj` (>= 0) in proportion to `weights` (>= 0, not all zero) by largest remainder:
// the shares add up to it exactly, and do not depend on the order but for the last nanojoule among
// equals.
void SplitByWeight(int64_t total_nj, std::span<const int64_t> weights,
                   std::span<int64_t> shares_nj);

}  // namespace sterna

#endif  // STERNA_ENGINE_ENERGY_ENERGY_LEDGER_H_
