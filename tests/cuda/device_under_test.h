// The CUDA backend that these tests run on. They are linked twice: cuda_emulated_test takes threads
// in software (tests/testing/cuda_emulation.h) and runs everywhere, cuda_test takes a GPU.
#ifndef STERNA_TESTS_CUDA_DEVICE_UNDER_TEST_H_
#define STERNA_TESTS_CUDA_DEVICE_UNDER_TEST_H_

#include <memory>

#include "base/status.h"
#include "kernels/ops.h"

namespace sterna::testing {

StatusOr<std::unique_ptr<Ops<float>>> OpenDeviceUnderTest();

// Whether sizes should be small: emulated threads take microseconds for what takes a GPU none.
bool DeviceUnderTestIsSlow();

}  // namespace sterna::testing

#endif  // STERNA_TESTS_CUDA_DEVICE_UNDER_TEST_H_
