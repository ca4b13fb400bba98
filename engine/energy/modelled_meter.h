// The fallback where no counter exists: watts per busy core times the CPU time of this process,
// plus watts at rest times elapsed time. A model, not a measurement, and labelled so. Thread
// contract: as EnergyMeter.
#ifndef STERNA_ENGINE_ENERGY_MODELLED_METER_H_
#define STERNA_ENGINE_ENERGY_MODELLED_METER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "base/clock.h"
#include "engine/energy/energy_meter.h"

namespace sterna {

// One core of a current server under full vector load, its share of memory and losses included.
inline constexpr double kDefaultWattsPerCore = 6.0;
// At rest, for each CPU that this process may use.
inline constexpr double kDefaultIdleWattsPerCpu = 1.0;

class ModelledMeter final : public EnergyMeter {
 public:
  // `cpu_time_ns` tells the CPU time the process has used, all threads together. `clock` must
  // outlive this; watts are >= 0.
  ModelledMeter(double watts_per_core, double idle_watts, const Clock& clock,
                std::function<int64_t()> cpu_time_ns);

  StatusOr<int64_t> ReadNanojoules() override;
  std::string method() const override { return "modelled"; }
  std::string scope() const override;
  int64_t update_interval_ns() const override { return 0; }

 private:
  const double watts_per_core_;
  const double idle_watts_;
  const Clock& clock_;
  const std::function<int64_t()> cpu_time_ns_;
  const int64_t start_ns_;
  const int64_t start_cpu_ns_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_ENERGY_MODELLED_METER_H_
