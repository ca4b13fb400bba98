#include <cstdlib>

#include "kernels/devices.h"
#include "tests/cuda/device_under_test.h"

namespace sterna::testing {

StatusOr<std::unique_ptr<Ops<float>>> OpenDeviceUnderTest() { return CreateCudaOps({}); }

// Under a sanitizer it is.
bool DeviceUnderTestIsSlow() { return std::getenv("STERNA_SMALL_TESTS") != nullptr; }

}  // namespace sterna::testing
