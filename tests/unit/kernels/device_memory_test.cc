#include "kernels/device_memory.h"

#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

// Counts what is given back to it.
struct Counter {
  int released = 0;
  void* last = nullptr;

  DeviceMemory Make(void* data, int64_t bytes) {
    const auto release = [](void* context, void* released) {
      ++static_cast<Counter*>(context)->released;
      static_cast<Counter*>(context)->last = released;
    };
    return DeviceMemory(data, bytes, release, this);
  }
};

TEST(DeviceMemoryTest, ReleasesOnceAndWhatItHad) {
  Counter counter;
  char data[8];
  {
    const DeviceMemory none;
    EXPECT_TRUE(none.empty());
    EXPECT_EQ(none.data(), nullptr);
    const DeviceMemory memory = counter.Make(data, 8);
    EXPECT_EQ(memory.size_bytes(), 8);
    EXPECT_EQ(memory.data(), data);
    EXPECT_EQ(counter.released, 0);
  }
  EXPECT_EQ(counter.released, 1);
  EXPECT_EQ(counter.last, data);
}

TEST(DeviceMemoryTest, MovesLeaveNothingBehind) {
  Counter counter;
  char first[4], second[8];
  DeviceMemory a = counter.Make(first, 4);
  DeviceMemory b = std::move(a);
  EXPECT_TRUE(a.empty());  // NOLINT: what is tested
  EXPECT_EQ(a.data(), nullptr);
  EXPECT_EQ(b.data(), first);
  EXPECT_EQ(counter.released, 0);
  b = counter.Make(second, 8);
  EXPECT_EQ(counter.released, 1) << "what was there before";
  EXPECT_EQ(counter.last, first);
  EXPECT_EQ(b.size_bytes(), 8);
  DeviceMemory& itself = b;
  b = std::move(itself);
  EXPECT_EQ(b.data(), second);
  EXPECT_EQ(b.size_bytes(), 8);
  b = DeviceMemory();
  EXPECT_EQ(counter.released, 2);
  EXPECT_TRUE(b.empty());
}

TEST(DeviceMemoryTest, AnArrayHasWholeElements) {
  Counter counter;
  alignas(4) char data[12];
  DeviceArray<int32_t> array(counter.Make(data, 12));
  EXPECT_EQ(array.size(), 3);
  EXPECT_EQ(array.span().size(), 3u);
  EXPECT_EQ(static_cast<void*>(array.data()), data);
  const DeviceArray<int32_t> moved = std::move(array);
  EXPECT_TRUE(array.empty());  // NOLINT: what is tested
  EXPECT_EQ(moved.size(), 3);
  EXPECT_DEATH(DeviceArray<int32_t>(counter.Make(data, 11)), "check failed");
}

TEST(HostMemoryTest, IsZeroAlignedAndAsLargeAsAsked) {
  EXPECT_TRUE(AllocateHostMemory(0).empty());
  for (const int64_t bytes : {1, 1000, 3 << 20}) {
    DeviceMemory memory = AllocateHostMemory(bytes);
    ASSERT_EQ(memory.size_bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.data()) % kCacheLineBytes, 0u);
    auto* const begin = static_cast<uint8_t*>(memory.data());
    EXPECT_EQ(std::vector<uint8_t>(begin, begin + bytes), std::vector<uint8_t>(bytes, 0));
    std::memset(begin, 1, static_cast<size_t>(bytes));
  }
}

// Both kinds of ops whose memory is the host's.
std::vector<std::unique_ptr<Ops<float>>> HostOps() {
  std::vector<std::unique_ptr<Ops<float>>> all;
  all.push_back(CreateReferenceOps<float>());
  all.push_back(testing::CpuOps("scalar"));
  return all;
}

TEST(HostMemoryOpsTest, AllocatesCopiesAndPlacesNothing) {
  for (const std::unique_ptr<Ops<float>>& ops : HostOps()) {
    auto array = AllocateArray<int32_t>(*ops, 3);
    ASSERT_TRUE(array.ok()) << array.status();
    const std::vector<int32_t> values = {7, -1, 5};
    ops->CopyToDevice(array->data(), values.data(), 12);
    std::vector<int32_t> back(3);
    ASSERT_TRUE(ops->CopyToHost(back.data(), array->data(), 12).ok());
    EXPECT_EQ(back, values);
    ops->CopyToDevice(nullptr, nullptr, 0);
    EXPECT_TRUE(ops->CopyToHost(nullptr, nullptr, 0).ok());

    TernaryMatrix w(3, 70);
    const uint8_t* const packed = w.packed();
    const StatusOr<TernaryMatrix> placed = ops->Place(std::move(w));
    ASSERT_TRUE(placed.ok()) << placed.status();
    EXPECT_EQ(placed->packed(), packed);
    const std::vector<float> norm = {1, 2, 3};
    const StatusOr<PlacedDense> dense = ops->Place(testing::DenseRows(norm, 1, 3));
    ASSERT_TRUE(dense.ok()) << dense.status();
    EXPECT_EQ(dense->view.data, norm.data());
    EXPECT_TRUE(dense->memory.empty());
  }
}

// `host` as if a device had placed it in a layout of its own.
TernaryMatrix InFragments(const TernaryMatrix& host, int64_t bytes, int64_t scale_bytes) {
  return TernaryMatrix::Placed(host, TernaryLayout::kFragments16x128, AllocateHostMemory(bytes),
                               AllocateHostMemory(scale_bytes));
}

TEST(PlacedTernaryMatrixTest, IsTheSameMatrixElsewhere) {
  TernaryMatrix host(18, 200);
  EXPECT_EQ(host.layout(), TernaryLayout::kBlocks16x64);
  host.SetTensorScale(0.25);
  const TernaryMatrix one_scale = InFragments(host, 2048, 0);
  EXPECT_EQ(one_scale.layout(), TernaryLayout::kFragments16x128);
  EXPECT_EQ(one_scale.rows(), 18);
  EXPECT_EQ(one_scale.cols(), 200);
  EXPECT_EQ(one_scale.packed_bytes(), 2048);
  EXPECT_EQ(one_scale.granularity(), ScaleGranularity::kTensor);
  EXPECT_EQ(one_scale.tensor_scale(), 0.25);
  EXPECT_TRUE(one_scale.scales().empty());
  host.SetGroupScales(std::vector<float>(18 * 2, 0.5f), 128);
  const TernaryMatrix groups = InFragments(host, 2048, 256);
  EXPECT_EQ(groups.granularity(), ScaleGranularity::kGroup);
  EXPECT_EQ(groups.group_size(), 128);
  EXPECT_EQ(groups.num_groups(), 2);
  EXPECT_EQ(groups.scales().size(), 64u);
}

TEST(PlacedTernaryMatrixDeathTest, NobodyReadsAnotherDevicesLayout) {
  TernaryMatrix placed = InFragments(TernaryMatrix(3, 64), 2048, 0);
  EXPECT_DEATH(placed.At(0, 0), "kBlocks16x64");
  EXPECT_DEATH(placed.Set(0, 0, 1), "kBlocks16x64");
  EXPECT_DEATH(placed.SetRow(0, std::vector<int8_t>(64, 1)), "kBlocks16x64");
  EXPECT_DEATH(placed.SetRowCodes(0, std::vector<uint8_t>(64, 1), 0), "kBlocks16x64");
  EXPECT_DEATH(placed.SetRowScales(std::vector<float>(3)), "kBlocks16x64");
  EXPECT_DEATH(placed.scale(0, 0), "kBlocks16x64");
  for (const std::unique_ptr<Ops<float>>& ops : HostOps()) {
    testing::Quantized<float> q(1, 64);
    std::vector<float> y(3);
    EXPECT_DEATH(ops->TernaryLinear({.q = q.mat, .w = &placed, .y = testing::View(y, 1)}),
                 "kBlocks16x64");
  }
}

}  // namespace
}  // namespace sterna
