#include "engine/energy/nvml_meter.h"

#include <dlfcn.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

template <typename Function>
Status Resolve(void* library, const std::string& path, const char* symbol, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, symbol));
  if (*function != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat(path, " lacks ", symbol, ": not NVML, or a driver that is too old"));
}

}  // namespace

StatusOr<NvmlApi> NvmlApi::Load(const std::string& library_path) {
  // Never closed: the driver's library starts threads that do not survive being unloaded.
  void* library = dlopen(library_path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return absl::NotFoundError(absl::StrCat("cannot open ", library_path, ": ", dlerror()));
  }
  NvmlApi api;
  const auto resolve = [&](const char* symbol, auto* function) {
    return Resolve(library, library_path, symbol, function);
  };
  STERNA_RETURN_IF_ERROR(resolve("nvmlInit_v2", &api.init));
  STERNA_RETURN_IF_ERROR(resolve("nvmlShutdown", &api.shutdown));
  STERNA_RETURN_IF_ERROR(resolve("nvmlDeviceGetHandleByPciBusId_v2", &api.device_by_pci_bus_id));
  STERNA_RETURN_IF_ERROR(resolve("nvmlDeviceGetMigMode", &api.mig_mode));
  STERNA_RETURN_IF_ERROR(resolve("nvmlDeviceGetTotalEnergyConsumption", &api.total_energy));
  STERNA_RETURN_IF_ERROR(resolve("nvmlErrorString", &api.error_string));
  return api;
}

StatusOr<std::unique_ptr<NvmlMeter>> NvmlMeter::Create(const NvmlApi& api,
                                                       const std::string& pci_bus_id) {
  if (const int result = api.init(); result != 0) {
    return absl::UnavailableError(absl::StrCat("NVML does not start: ", api.error_string(result)));
  }
  NvmlApi::Device device = nullptr;
  unsigned long long start_mj = 0;
  Status failure;
  unsigned int mig_now = 0;
  unsigned int mig_pending = 0;
  if (int result = api.device_by_pci_bus_id(pci_bus_id.c_str(), &device); result != 0) {
    failure = absl::NotFoundError(
        absl::StrCat("NVML has no GPU at ", pci_bus_id, ": ", api.error_string(result)));
  } else if (api.mig_mode(device, &mig_now, &mig_pending) == 0 && mig_now != 0) {
    // (An error there means a GPU that does not know MIG.)
    failure = absl::FailedPreconditionError(absl::StrCat(
        "the GPU at ", pci_bus_id, " is split by MIG: its counter covers all slices together"));
  } else if (result = api.total_energy(device, &start_mj); result != 0) {
    failure = absl::UnimplementedError(absl::StrCat(
        "the GPU at ", pci_bus_id, " has no energy counter: ", api.error_string(result)));
  }
  if (!failure.ok()) {
    api.shutdown();
    return failure;
  }
  return std::unique_ptr<NvmlMeter>(new NvmlMeter(api, device, static_cast<int64_t>(start_mj)));
}

NvmlMeter::~NvmlMeter() { api_.shutdown(); }

StatusOr<int64_t> NvmlMeter::ReadNanojoules() {
  unsigned long long now_mj = 0;
  if (const int result = api_.total_energy(device_, &now_mj); result != 0) {
    return absl::UnavailableError(
        absl::StrCat("the GPU's energy counter cannot be read: ", api_.error_string(result)));
  }
  // A driver that was loaded anew counts from zero: what it has counted since is still known.
  const int64_t now = static_cast<int64_t>(now_mj);
  total_mj_ += now >= last_mj_ ? now - last_mj_ : now;
  last_mj_ = now;
  return total_mj_ * 1'000'000;
}

}  // namespace sterna
