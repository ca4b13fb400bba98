#include "kernels/devices.h"

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

}  // namespace sterna
