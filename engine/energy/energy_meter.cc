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

StatusOr<std::unique_ptr<EnergyMeter>> CreateNvml(int gpu_index) {
  STERNA_ASSIGN_OR_RETURN(const NvmlApi api, NvmlApi::Load(kNvmlLibrary));
  return NvmlMeter::Create(api, gpu_index);
}

std::unique_ptr<EnergyMeter> CreateModelled(const EnergyMeterOptions& options, const Clock& clock) {
  const double cpus = std::max(1u, std::thread::hardware_concurrency());
  return std::make_unique<ModelledMeter>(
      options.watts_per_core > 0 ? options.watts_per_core : kDefaultWattsPerCore,
      options.idle_watts > 0 ? options.idle_watts : kDefaultIdleWattsPerCpu * cpus, clock,
      ProcessCpuNs);
}

StatusOr<std::unique_ptr<EnergyMeter>> CreateBest(const EnergyMeterOptions& options,
                                                  const Clock& clock) {
  std::string missing;
  if (options.gpu_index >= 0) {
    StatusOr<std::unique_ptr<EnergyMeter>> nvml = CreateNvml(options.gpu_index);
    if (nvml.ok()) return nvml;
    absl::StrAppend(&missing, "; no nvml: ", nvml.status().message());
  }
  StatusOr<std::unique_ptr<EnergyMeter>> meter = RaplMeter::Create(kSysfsRoot);
  if (!meter.ok()) {
    absl::StrAppend(&missing, "; no rapl: ", meter.status().message());
    meter = CreateModelled(options, clock);
  }
  STERNA_LOG(kInfo, "energy: ", (*meter)->method(), " (", (*meter)->scope(), ")", missing);
  return meter;
}

}  // namespace

StatusOr<std::unique_ptr<EnergyMeter>> CreateEnergyMeter(const EnergyMeterOptions& options,
                                                         const Clock& clock) {
  for (const auto& [name, watts] : {std::pair{"watts per core", options.watts_per_core},
                                    std::pair{"idle watts", options.idle_watts}}) {
    if (!std::isfinite(watts) || watts < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("energy model: ", name, " is ", watts, "; it must be a number >= 0"));
    }
  }
  if (options.source == "auto") return CreateBest(options, clock);
  if (options.source == "nvml") return CreateNvml(std::max(options.gpu_index, 0));
  if (options.source == "rapl") return RaplMeter::Create(kSysfsRoot);
  if (options.source == "modelled") return CreateModelled(options, clock);
  return absl::InvalidArgumentError(absl::StrCat(
      "energy source '", options.source, "' is unknown; it is one of auto, nvml, rapl, modelled"));
}

}  // namespace sterna
