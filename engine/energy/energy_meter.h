// Joules from one source, and the source's name.
// Thread contract: one caller at a time (the engine thread).
#ifndef STERNA_ENGINE_ENERGY_ENERGY_METER_H_
#define STERNA_ENGINE_ENERGY_ENERGY_METER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/status.h"

namespace sterna {

class EnergyMeter {
 public:
  virtual ~EnergyMeter() = default;

  // Nanojoules since the meter was made; never decreases. A source that fails after start keeps its
  // last value and reports the error.
  virtual StatusOr<int64_t> ReadNanojoules() = 0;

  // How the figure comes about, as clients see it: "nvml", "rapl" (measured) or "modelled"; the
  // latter two with "_cpu_only" behind them where the model runs on a GPU, which they do not count.
  virtual std::string method() const = 0;
  // What it covers, e.g. "gpu board", "cpu package + dram; not the gpu".
  virtual std::string scope() const = 0;
  // How often the source takes a new value; 0: with every read.
  virtual int64_t update_interval_ns() const = 0;
};

struct EnergyMeterOptions {
  // "auto": NVML for a model on a GPU, else RAPL, else the formula of the modelled meter; or one of
  // "nvml", "rapl", "modelled".
  std::string source = "auto";
  // The model's constants: watts for each fully used core of this process, and at rest for its
  // share of the machine.
  double watts_per_core = 0.0;  // 0: the default documented in docs/energy.md
  double idle_watts = 0.0;      // 0: likewise
};

// For a model on the GPU at `gpu_pci_bus_id` (as Ops has it), or on the CPU if that is empty. An
// unavailable source that was asked for by name is an error that says why, as is NVML for a model
// on the CPU; "auto" logs what it took and why the better ones were not there. A meter that counts
// no GPU where the model runs on one is logged as a warning, and its method and scope say so.
StatusOr<std::unique_ptr<EnergyMeter>> CreateEnergyMeter(const EnergyMeterOptions& options,
                                                         const std::string& gpu_pci_bus_id,
                                                         const Clock& clock);

}  // namespace sterna

#endif  // STERNA_ENGINE_ENERGY_ENERGY_METER_H_
