#include "engine/energy/energy_ledger.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/logging.h"

namespace sterna {
namespace {

// From this many update intervals on, a span is charged what the counter says; below, the counter's
// lag would be more than a tenth of it.
constexpr int64_t kDirectIntervals = 10;
// How much of a window's error goes into the power estimate, for a window of kDirectIntervals; less
// for shorter ones. The gain is per joule, not per watt: the estimate then moves in proportion to
// the settlement it caused, so the settlement cannot grow beyond what the true power ranges over.
constexpr double kGain = 0.5;

// Picojoules, each sequence's predicted part of the step; integers, so that sums have no order.
std::vector<int64_t> PredictedCosts(const EnergyCostModel& costs, std::span<const StepWork> work) {
  int64_t total_tokens = 0;
  for (const StepWork& w : work) {
    STERNA_CHECK(w.prompt_tokens >= 0 && w.output_tokens >= 0 && w.context_tokens >= 0);
    total_tokens += w.prompt_tokens + w.output_tokens;
  }
  // A share of the int64 range for each, so that the sum cannot overflow whatever the model says.
  const double limit = 9e18 / static_cast<double>(std::max<size_t>(work.size(), 1));
  std::vector<int64_t> result;
  result.reserve(work.size());
  for (const StepWork& w : work) {
    const double tokens = static_cast<double>(w.prompt_tokens + w.output_tokens);
    if (tokens == 0) {
      result.push_back(0);
      continue;
    }
    const double bytes = costs.weight_bytes * (tokens / static_cast<double>(total_tokens)) +
                         costs.kv_bytes_per_context_token * static_cast<double>(w.context_tokens);
    const double picojoules = costs.picojoules_per_byte * bytes +
                              costs.picojoules_per_mac * costs.macs_per_token * tokens;
    // At least one: work is never free, and a model that knows no costs splits by sequence.
    result.push_back(static_cast<int64_t>(std::clamp(picojoules, 1.0, limit)));
  }
  return result;
}

}  // namespace

void SplitByWeight(int64_t total_nj, std::span<const int64_t> weights,
                   std::span<int64_t> shares_nj) {
  STERNA_CHECK(total_nj >= 0 && weights.size() == shares_nj.size());
  using Wide = unsigned __int128;
  Wide weight_sum = 0;
  for (int64_t weight : weights) weight_sum += static_cast<Wide>(weight);
  STERNA_CHECK(weight_sum > 0);

  std::vector<Wide> remainders(weights.size());
  int64_t left = total_nj;
  for (size_t i = 0; i < weights.size(); ++i) {
    const Wide product = static_cast<Wide>(total_nj) * static_cast<Wide>(weights[i]);
    shares_nj[i] = static_cast<int64_t>(product / weight_sum);
    remainders[i] = product % weight_sum;
    left -= shares_nj[i];
  }
  // Fewer than weights.size() nanojoules are left: one each to those who were cut the most.
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  for (int64_t i = 0; i < left; ++i) ++shares_nj[order[static_cast<size_t>(i)]];
}

EnergyLedger::EnergyLedger(EnergyMeter* meter, const Clock* clock, const EnergyCostModel& costs)
    : meter_(meter),
      clock_(clock),
      costs_(costs),
      interval_ns_(meter->update_interval_ns()),
      boundary_ns_(clock->NowNs()) {
  // Loading the model came before: nobody had asked for anything yet.
  if (ReadMeter()) totals_.idle_nj = totals_.meter_nj;
  StartWindow(0);
  Balance();
}

void EnergyLedger::BeginStep(bool was_idle) {
  const int64_t charge_nj = ChargeSpan(was_idle ? kIdle : kBusy);
  (was_idle ? totals_.idle_nj : totals_.overhead_nj) += charge_nj;
  Balance();
}

void EnergyLedger::EndStep(std::span<const StepWork> work, std::span<int64_t> shares_nj) {
  STERNA_CHECK(work.size() == shares_nj.size());
  const int64_t charge_nj = ChargeSpan(kBusy);
  const std::vector<int64_t> costs = PredictedCosts(costs_, work);
  if (std::all_of(costs.begin(), costs.end(), [](int64_t cost) { return cost == 0; })) {
    std::fill(shares_nj.begin(), shares_nj.end(), 0);
    totals_.overhead_nj += charge_nj;
    Balance();
    return;
  }
  SplitByWeight(charge_nj, costs, shares_nj);
  for (size_t i = 0; i < work.size(); ++i) {
    if (work[i].request_ended) totals_.overhead_nj += std::exchange(shares_nj[i], 0);
    if (shares_nj[i] == 0) continue;
    const int64_t phases[2] = {work[i].prompt_tokens, work[i].output_tokens};
    int64_t phase_nj[2];
    SplitByWeight(shares_nj[i], phases, phase_nj);
    totals_.prefill_nj += phase_nj[0];
    totals_.decode_nj += phase_nj[1];
  }
  Balance();
}

void EnergyLedger::Settle() {
  totals_.idle_nj += ChargeSpan(kIdle);
  Balance();
}

bool EnergyLedger::ReadMeter() {
  const StatusOr<int64_t> reading = meter_->ReadNanojoules();
  if (!reading.ok()) {
    if (!failure_logged_) {
      STERNA_LOG(kWarning, "energy meter (", meter_->method(), ") cannot be read; no energy is ",
                 "attributed until it can: ", reading.status().ToString());
      failure_logged_ = true;
    }
    failing_ = true;
    return false;
  }
  // A counter that goes back has been reset: it counts on from there.
  totals_.meter_nj += std::max<int64_t>(*reading - last_reading_nj_, 0);
  last_reading_nj_ = *reading;
  const bool recovered = failing_;
  failing_ = false;
  return !recovered;
}

int64_t EnergyLedger::ChargeSpan(Activity activity) {
  const int64_t now_ns = clock_->NowNs();
  const double span_ns = static_cast<double>(std::max<int64_t>(now_ns - boundary_ns_, 0));
  boundary_ns_ = now_ns;
  const bool readable = ReadMeter();
  const int64_t delta_nj = totals_.meter_nj - window_meter_nj_;
  if (!readable || interval_ns_ == 0) {
    StartWindow(0);
    return readable ? delta_nj : 0;
  }
  // Until a window has measured it, the other activity's power is the best guess.
  if (!power_known_[activity] && power_known_[1 - activity]) {
    nj_per_ns_[activity] = nj_per_ns_[1 - activity];
  }
  const double direct_ns = static_cast<double>(kDirectIntervals * interval_ns_);
  const double estimate_nj = nj_per_ns_[activity] * span_ns;
  window_ns_[activity] += span_ns;
  // A counter that stands still for long counts nothing: that, too, is a measurement.
  if (delta_nj == 0 && window_ns_[kBusy] + window_ns_[kIdle] < direct_ns) {
    window_charged_nj_ += estimate_nj;
    return std::llround(estimate_nj);
  }
  // The counter moved somewhere in this span, at most one interval ago; half of that on average.
  const double carry_nj =
      nj_per_ns_[activity] * std::min(span_ns, static_cast<double>(interval_ns_)) / 2;
  const double error_nj =
      static_cast<double>(delta_nj) - window_charged_nj_ - estimate_nj + carry_nj;
  double charge_nj = estimate_nj;
  if (span_ns >= direct_ns) {
    charge_nj = std::max(estimate_nj + error_nj, 0.0);
    if (!power_known_[activity]) {
      nj_per_ns_[activity] = charge_nj / span_ns;
      power_known_[activity] = true;
    }
  } else {
    LearnPower(error_nj);
  }
  StartWindow(carry_nj);
  return std::llround(charge_nj);
}

void EnergyLedger::LearnPower(double error_nj) {
  const double window_ns = window_ns_[kBusy] + window_ns_[kIdle];
  if (window_ns <= 0) return;
  for (const Activity activity : {kBusy, kIdle}) {
    const double part = window_ns_[activity] / window_ns;
    // The first window in which an activity has the upper hand sets its power outright.
    const bool first = !power_known_[activity] && part > 0.5;
    const double gain =
        first ? 1 / window_ns : kGain / static_cast<double>(kDirectIntervals * interval_ns_);
    nj_per_ns_[activity] = std::max(nj_per_ns_[activity] + gain * part * error_nj, 0.0);
    power_known_[activity] = power_known_[activity] || first;
  }
}

void EnergyLedger::StartWindow(double carry_nj) {
  window_meter_nj_ = totals_.meter_nj;
  window_charged_nj_ = carry_nj;
  window_ns_[kBusy] = window_ns_[kIdle] = 0;
}

void EnergyLedger::Balance() {
  totals_.settlement_nj = totals_.meter_nj - totals_.prefill_nj - totals_.decode_nj -
                          totals_.idle_nj - totals_.overhead_nj;
}

}  // namespace sterna
