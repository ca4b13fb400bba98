#include "kernels/devices.h"
#include "tests/cuda/device_under_test.h"

namespace sterna::testing {

StatusOr<std::unique_ptr<Ops<float>>> OpenDeviceUnderTest() { return CreateCudaOps({}); }

bool DeviceUnderTestIsSlow() { return false; }

}  // namespace sterna::testing
