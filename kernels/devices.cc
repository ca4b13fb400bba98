#include "kernels/devices.h"

#include "base/check.h"

#if STERNA_CUDA
#include "kernels/cuda/cuda_ops.h"
#endif

namespace sterna {

StatusOr<std::unique_ptr<Ops<float>>> CreateCudaOps(const CudaOptions& options) {
#if STERNA_CUDA
  return cuda::CudaOps::Create(options);
#else
  (void)options;
  return absl::FailedPreconditionError(
      "this build has no CUDA: configure it where nvcc of the CUDA Toolkit 13 is found");
#endif
}

StatusOr<std::unique_ptr<Ops<float>>> CreateOps(const DeviceOptions& options) {
  switch (options.kind) {
    case DeviceKind::kCpu:
      return CreateCpuOps(options.cpu);
    case DeviceKind::kCuda:
      return CreateCudaOps(options.cuda);
  }
  STERNA_CHECK(false);
}

}  // namespace sterna
