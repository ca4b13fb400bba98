#include "engine/energy/energy_meter.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/logging.h"
#include "base/process_threads.h"
#include "engine/energy/modelled_meter.h"
#include "engine/energy/nvml_meter.h"
#include "engine/energy/rapl_meter.h"

namespace sterna {
namespace {

constexpr char kNvmlLibrary[] = "libnvidia-ml.so.1";
constexpr char kSysfsRoot[] = "/sys";

// What another source says of a process whose work is done on a GPU that the source does not count.
class CpuOnlyMeter final : public EnergyMeter {
 public:
  explicit CpuOnlyMeter(std::unique_ptr<EnergyMeter> cpu) : cpu_(std::move(cpu)) {}

  StatusOr<int64_t> ReadNanojoules() override { return cpu_->ReadNanojoules(); }
  std::string method() const override { return cpu_->method() + "_cpu_only"; }
  std::string scope() const override { return cpu_->scope() + "; not the gpu"; }
  int64_t update_interval_ns() const override { return cpu_->update_interval_ns(); }

 private:
  const std::unique_ptr<EnergyMeter> cpu_;
};

using MeterOr = StatusOr<std::unique_ptr<EnergyMeter>>;

MeterOr CreateNvml(const std::string& gpu_pci_bus_id) {
  if (gpu_pci_bus_id.empty()) {
    return absl::InvalidArgumentError(
        "energy source 'nvml' counts a GPU, and the model runs on the CPU; take auto, rapl or "
        "modelled");
  }
  STERNA_ASSIGN_OR_RETURN(const NvmlApi api, NvmlApi::Load(kNvmlLibrary));
  return NvmlMeter::Create(api, gpu_pci_bus_id);
}

std::unique_ptr<EnergyMeter> CreateModelled(const EnergyMeterOptions& options, const Clock& clock) {
  const double cpus = std::max(1u, std::thread::hardware_concurrency());
  return std::make_unique<ModelledMeter>(
      options.watts_per_core > 0 ? options.watts_per_core : kDefaultWattsPerCore,
      options.idle_watts > 0 ? options.idle_watts : kDefaultIdleWattsPerCpu * cpus, clock,
      ProcessCpuNs);
}

// The best there is. What is better and missing is added to `missing`.
MeterOr CreateBest(const EnergyMeterOptions& options, const std::string& gpu_pci_bus_id,
                   const Clock& clock, std::string& missing) {
  if (!gpu_pci_bus_id.empty()) {
    MeterOr nvml = CreateNvml(gpu_pci_bus_id);
    if (nvml.ok()) return nvml;
    absl::StrAppend(&missing, "; no nvml: ", nvml.status().message());
  }
  MeterOr rapl = RaplMeter::Create(kSysfsRoot);
  if (rapl.ok()) return rapl;
  absl::StrAppend(&missing, "; no rapl: ", rapl.status().message());
  return CreateModelled(options, clock);
}

MeterOr CreateFor(const EnergyMeterOptions& options, const std::string& gpu_pci_bus_id,
                  const Clock& clock, std::string& missing) {
  if (options.source == "auto") return CreateBest(options, gpu_pci_bus_id, clock, missing);
  if (options.source == "nvml") return CreateNvml(gpu_pci_bus_id);
  if (options.source == "rapl") return RaplMeter::Create(kSysfsRoot);
  if (options.source == "modelled") return CreateModelled(options, clock);
  return absl::InvalidArgumentError(absl::StrCat(
      "energy source '", options.source, "' is unknown; it is one of auto, nvml, rapl, modelled"));
}

}  // namespace

StatusOr<std::unique_ptr<EnergyMeter>> CreateEnergyMeter(const EnergyMeterOptions& options,
                                                         const std::string& gpu_pci_bus_id,
                                                         const Clock& clock) {
  for (const auto& [name, watts] : {std::pair{"watts per core", options.watts_per_core},
                                    std::pair{"idle watts", options.idle_watts}}) {
    if (!std::isfinite(watts) || watts < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("energy model: ", name, " is ", watts, "; it must be a number >= 0"));
    }
  }
  std::string missing;
  STERNA_ASSIGN_OR_RETURN(std::unique_ptr<EnergyMeter> meter,
                          CreateFor(options, gpu_pci_bus_id, clock, missing));
  if (!gpu_pci_bus_id.empty() && meter->method() != "nvml") {
    meter = std::make_unique<CpuOnlyMeter>(std::move(meter));
    STERNA_LOG(kWarning, "energy: ", meter->method(), " (", meter->scope(), ")", missing,
               ". The joules reported are the CPU's alone; the model runs on the GPU");
  } else {
    STERNA_LOG(kInfo, "energy: ", meter->method(), " (", meter->scope(), ")", missing);
  }
  return meter;
}

}  // namespace sterna
