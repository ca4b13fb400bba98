// The energy counter of an NVIDIA GPU's board through NVML, which is opened at run time: Sterna
// neither links it nor needs its headers. Counts the whole board, whoever uses it; a MIG slice has
// no counter of its own and is refused. The board is named by its place on the PCI bus: NVML counts
// the boards of the machine in its own order, which CUDA_VISIBLE_DEVICES does not touch.
// Thread contract: as EnergyMeter.
#ifndef STERNA_ENGINE_ENERGY_NVML_METER_H_
#define STERNA_ENGINE_ENERGY_NVML_METER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "engine/energy/energy_meter.h"

namespace sterna {

// The few functions of NVML's C interface that are used; all return 0 on success.
struct NvmlApi {
  using Device = void*;

  // Opens the shared library for the rest of the process's life; NotFound or FailedPrecondition say
  // what is missing.
  static StatusOr<NvmlApi> Load(const std::string& library_path);

  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*device_by_pci_bus_id)(const char* pci_bus_id, Device* device) = nullptr;
  int (*mig_mode)(Device device, unsigned int* current, unsigned int* pending) = nullptr;
  // Millijoules since the driver was loaded. Volta and newer; takes a new value about every 100 ms.
  int (*total_energy)(Device device, unsigned long long* millijoules) = nullptr;
  const char* (*error_string)(int result) = nullptr;
};

class NvmlMeter final : public EnergyMeter {
 public:
  // `pci_bus_id` as Ops has it. NotFound where NVML knows no such GPU; FailedPrecondition,
  // Unimplemented or Unavailable where it has no counter, and why.
  static StatusOr<std::unique_ptr<NvmlMeter>> Create(const NvmlApi& api,
                                                     const std::string& pci_bus_id);
  ~NvmlMeter() override;
  NvmlMeter(const NvmlMeter&) = delete;
  NvmlMeter& operator=(const NvmlMeter&) = delete;

  StatusOr<int64_t> ReadNanojoules() override;
  std::string method() const override { return "nvml"; }
  std::string scope() const override { return "gpu board"; }
  int64_t update_interval_ns() const override { return 100'000'000; }

 private:
  NvmlMeter(const NvmlApi& api, NvmlApi::Device device, int64_t start_mj)
      : api_(api), device_(device), last_mj_(start_mj) {}

  const NvmlApi api_;
  const NvmlApi::Device device_;
  int64_t last_mj_;
  int64_t total_mj_ = 0;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_ENERGY_NVML_METER_H_
