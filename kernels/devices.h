// The devices this build knows, chosen once at start: the only way from engine/ to an
// implementation of Ops.
#ifndef STERNA_KERNELS_DEVICES_H_
#define STERNA_KERNELS_DEVICES_H_

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "kernels/ops.h"

namespace sterna {

struct CpuOptions {
  int num_threads = 0;       // 0: one per physical core this process may use
  std::string isa = "auto";  // "auto": the best this machine has; or one of CpuIsaLevels()
};

// Levels this machine can run, worst first: "scalar", then "avx2", "avx_vnni", "avx512_vnni"
// and "amx" where present.
std::vector<std::string> CpuIsaLevels();

// InvalidArgument, naming the choices, for a level that is unknown or that this machine lacks.
StatusOr<std::unique_ptr<Ops<float>>> CreateCpuOps(const CpuOptions& options);

struct CudaOptions {
  int device = 0;  // its number, as the driver counts from 0
  // For measurements: what no result depends on, and is chosen for each product where it is not
  // given. Ternary products by warpgroups, where the device has those, or never; others with this
  // many row blocks (1 or 2) to a warp, and their columns shared by this many blocks of threads,
  // where they can be.
  std::optional<bool> ternary_wgmma;
  int ternary_row_blocks = 0;
  int ternary_split = 0;
};

// One NVIDIA GPU. FailedPrecondition where this build has no CUDA, there is no driver or GPU, or
// none that is new enough; NotFound where there is no such device.
StatusOr<std::unique_ptr<Ops<float>>> CreateCudaOps(const CudaOptions& options);

enum class DeviceKind { kCpu, kCuda };

struct DeviceOptions {
  DeviceKind kind = DeviceKind::kCpu;
  CpuOptions cpu;    // read where it is kCpu
  CudaOptions cuda;  // where it is kCuda
};

// The device of that kind; there is no fallback to another.
StatusOr<std::unique_ptr<Ops<float>>> CreateOps(const DeviceOptions& options);

// The readable scalar implementation, F = float or double. One thread.
template <typename F>
std::unique_ptr<Ops<F>> CreateReferenceOps();

}  // namespace sterna

#endif  // STERNA_KERNELS_DEVICES_H_
