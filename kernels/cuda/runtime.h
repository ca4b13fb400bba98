// The CUDA runtime, as the host's side of this backend sees it. Tests that have no GPU put another
// in its place (tests/testing/cuda_emulation.h).
#ifndef STERNA_KERNELS_CUDA_RUNTIME_H_
#define STERNA_KERNELS_CUDA_RUNTIME_H_

#include <cuda_runtime_api.h>

#endif  // STERNA_KERNELS_CUDA_RUNTIME_H_
