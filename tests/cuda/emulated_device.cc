#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <random>

#include "kernels/cuda/cuda_ops.h"
#include "tests/cuda/device_under_test.h"

namespace sterna::testing {

// Each time with threads in another order.
StatusOr<std::unique_ptr<Ops<float>>> OpenDeviceUnderTest() {
  static std::mt19937_64 seeds(1);
  SetCudaThreadOrder(seeds());
  return cuda::CudaOps::Create({});
}

bool DeviceUnderTestIsSlow() { return true; }

}  // namespace sterna::testing
