// Failures of a CUDA device, as the emulated runtime can bring them about.
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <memory>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cuda_ops.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;

class CudaDevice : public ::testing::Test {
 protected:
  ~CudaDevice() override {
    testing::SetCudaError(cudaSuccess);
    testing::SetCudaMemoryBytes(size_t{1} << 30);
  }
  static std::unique_ptr<cuda::CudaOps> Open() { return *cuda::CudaOps::Create({}); }
};

TEST_F(CudaDevice, AFailureIsKeptAndTold) {
  const std::unique_ptr<cuda::CudaOps> ops = Open();
  DeviceArray<float> x = *AllocateArray<float>(*ops, 64);
  ASSERT_TRUE(ops->Finish().ok());
  testing::SetCudaError(cudaErrorLaunchFailure);
  ops->RmsNorm({.x = {x.data(), 1, 64}, .weight = x.span(), .eps = 1e-5f, .y = {x.data(), 1, 64}});
  const Status first = ops->Finish();
  EXPECT_TRUE(absl::IsInternal(first)) << first;
  EXPECT_THAT(first.message(), HasSubstr("a norm"));
  EXPECT_THAT(first.message(), HasSubstr("cudaErrorLaunchFailure"));
  // What comes after it does nothing, whatever the runtime says by then.
  testing::SetCudaError(cudaSuccess);
  EXPECT_EQ(ops->Finish(), first);
  std::vector<float> host(64);
  EXPECT_EQ(ops->CopyToHost(host.data(), x.data(), 256), first);
  EXPECT_FALSE(ops->Allocate(64).ok());
}

TEST_F(CudaDevice, AFailedRecordingIsAFailureOfFinish) {
  const std::unique_ptr<cuda::CudaOps> ops = Open();
  DeviceArray<float> x = *AllocateArray<float>(*ops, 64);
  testing::SetCudaError(cudaErrorLaunchFailure);
  const std::unique_ptr<Recording> recording = ops->Record([&] {
    ops->RmsNorm(
        {.x = {x.data(), 1, 64}, .weight = x.span(), .eps = 1e-5f, .y = {x.data(), 1, 64}});
  });
  ASSERT_NE(recording, nullptr);
  recording->Run();
  EXPECT_THAT(ops->Finish().message(), HasSubstr("cudaErrorLaunchFailure"));
}

TEST_F(CudaDevice, WantOfMemoryIsNoFailureOfTheDevice) {
  const std::unique_ptr<cuda::CudaOps> ops = Open();
  testing::SetCudaMemoryBytes(size_t{8} << 20);
  ASSERT_TRUE(ops->Allocate(int64_t{6} << 20).ok());  // and freed again
  const StatusOr<DeviceMemory> most = ops->Allocate(int64_t{6} << 20);
  ASSERT_TRUE(most.ok()) << most.status();
  const StatusOr<DeviceMemory> more = ops->Allocate(int64_t{4} << 20);
  ASSERT_TRUE(absl::IsResourceExhausted(more.status())) << more.status();
  EXPECT_THAT(more.status().message(), HasSubstr("no room for 4 MiB more: 2 MiB are free"));
  EXPECT_TRUE(ops->Finish().ok());
  EXPECT_EQ(ops->memory()->total, int64_t{8} << 20);
}

TEST_F(CudaDevice, SaysWhereItIsOnTheBus) { EXPECT_EQ(Open()->pci_bus_id(), "0000:1B:00.0"); }

TEST_F(CudaDevice, MemoryIsZeroedAndGivenBack) {
  const size_t before = testing::CudaBytesAllocated();
  {
    const std::unique_ptr<cuda::CudaOps> ops = Open();
    DeviceArray<int32_t> values = *AllocateArray<int32_t>(*ops, 1000);
    std::vector<int32_t> host(1000, 7);
    ASSERT_TRUE(ops->CopyToHost(host.data(), values.data(), 4000).ok());
    EXPECT_EQ(host, std::vector<int32_t>(1000));
    EXPECT_GT(testing::CudaBytesAllocated(), before);
  }
  EXPECT_EQ(testing::CudaBytesAllocated(), before);
}

TEST_F(CudaDevice, ADeviceThatIsNotThereIsNamedWithThoseThatAre) {
  const auto ops = cuda::CudaOps::Create({.device = 3});
  EXPECT_TRUE(absl::IsNotFound(ops.status())) << ops.status();
  EXPECT_THAT(ops.status().message(), HasSubstr("no CUDA device 3; there are 1"));
}

TEST_F(CudaDevice, NoDriverSaysWhatIsNeeded) {
  testing::SetCudaError(cudaErrorNoDevice);
  const auto ops = cuda::CudaOps::Create({});
  EXPECT_TRUE(absl::IsFailedPrecondition(ops.status())) << ops.status();
  EXPECT_THAT(ops.status().message(), HasSubstr("driver for CUDA 13"));
}

// Larger than what is staged at once.
TEST_F(CudaDevice, LargeCopiesArriveWhole) {
  const std::unique_ptr<cuda::CudaOps> ops = Open();
  std::vector<int32_t> values(3'000'000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int32_t>(i * 2654435761u);
  DeviceArray<int32_t> device = *AllocateArray<int32_t>(*ops, std::ssize(values));
  ops->CopyToDevice(device.data(), values.data(), std::ssize(values) * 4);
  std::vector<int32_t> back(values.size());
  ASSERT_TRUE(ops->CopyToHost(back.data(), device.data(), std::ssize(back) * 4).ok());
  EXPECT_EQ(back, values);
}

}  // namespace
}  // namespace sterna
