// What the tests of ops share: vectors and matrices in the memory of the device under test.
#ifndef STERNA_TESTS_CUDA_ON_DEVICE_H_
#define STERNA_TESTS_CUDA_ON_DEVICE_H_

#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/devices.h"
#include "tests/cuda/device_under_test.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna::testing {

// A vector in the device's memory.
template <typename T>
class OnDevice {
 public:
  OnDevice(Ops<float>& ops, const std::vector<T>& values) : ops_(ops) {
    StatusOr<DeviceArray<T>> array = AllocateArray<T>(ops, std::ssize(values));
    STERNA_CHECK(array.ok());
    array_ = *std::move(array);
    Write(values);
  }
  void Write(const std::vector<T>& values) {
    ops_.CopyToDevice(array_.data(), values.data(), std::ssize(values) * kBytes);
  }
  std::vector<T> Read() {
    std::vector<T> values(static_cast<size_t>(array_.size()));
    const Status status = ops_.CopyToHost(values.data(), array_.data(), array_.size() * kBytes);
    EXPECT_TRUE(status.ok()) << status;
    return values;
  }
  T* data() { return array_.data(); }
  std::span<const T> span() const { return array_.span(); }
  Mat<T> AsRows(int64_t rows) { return {array_.data(), rows, array_.size() / rows}; }

 private:
  static constexpr auto kBytes = static_cast<int64_t>(sizeof(T));
  Ops<float>& ops_;
  DeviceArray<T> array_;
};

// Quantised activations there, as `host` has them.
struct QuantizedOnDevice {
  OnDevice<int8_t> q;
  OnDevice<float> scale;
  OnDevice<int32_t> sum;
  QuantizedMat<float> mat;

  QuantizedOnDevice(Ops<float>& ops, const Quantized<float>& host)
      : q(ops, host.q), scale(ops, host.scale), sum(ops, host.sum), mat(host.mat) {
    mat.q = q.data();
    mat.scale = scale.data();
    mat.sum = sum.data();
  }
};

class CudaOpsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    StatusOr<std::unique_ptr<Ops<float>>> ops = OpenDeviceUnderTest();
    if (absl::IsFailedPrecondition(ops.status())) GTEST_SKIP() << ops.status().message();
    ASSERT_TRUE(ops.ok()) << ops.status();
    ops_ = *std::move(ops);
  }
  void TearDown() override {
    if (ops_ != nullptr) {
      EXPECT_TRUE(ops_->Finish().ok());
    }
  }
  std::vector<float> Noise(int64_t n) { return RandomFloats(random_, n, 1e6f); }
  int64_t Between(int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random_);
  }
  PlacedDense PlaceDense(const DenseMatrix& host) {
    StatusOr<PlacedDense> placed = ops_->Place(host);
    STERNA_CHECK(placed.ok());
    return *std::move(placed);
  }
  TernaryMatrix PlaceTernary(const TernaryMatrix& host);

  static uint64_t Seed() {
    return static_cast<uint64_t>(::testing::UnitTest::GetInstance()->random_seed());
  }
  Random random_{Seed()};
  std::unique_ptr<Ops<float>> ops_;
  std::unique_ptr<Ops<float>> reference_ = CreateReferenceOps<float>();
  std::unique_ptr<Ops<double>> exact_ = CreateReferenceOps<double>();
};

// Place takes the host's away; the test still needs it.
inline TernaryMatrix CudaOpsTest::PlaceTernary(const TernaryMatrix& host) {
  TernaryMatrix copy(host.rows(), host.cols());
  std::vector<int8_t> row(static_cast<size_t>(host.cols()));
  for (int64_t r = 0; r < host.rows(); ++r) {
    for (int64_t c = 0; c < host.cols(); ++c) row[static_cast<size_t>(c)] = host.At(r, c);
    copy.SetRow(r, row);
  }
  std::vector<float> scales;
  for (int64_t r = 0; host.granularity() != ScaleGranularity::kTensor && r < host.rows(); ++r) {
    for (int64_t g = 0; g < host.num_groups(); ++g) scales.push_back(host.scale(r, g));
  }
  switch (host.granularity()) {
    case ScaleGranularity::kTensor:
      copy.SetTensorScale(host.tensor_scale());
      break;
    case ScaleGranularity::kRow:
      copy.SetRowScales(scales);
      break;
    case ScaleGranularity::kGroup:
      copy.SetGroupScales(scales, host.group_size());
      break;
  }
  StatusOr<TernaryMatrix> placed = ops_->Place(std::move(copy));
  STERNA_CHECK(placed.ok());
  return *std::move(placed);
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_CUDA_ON_DEVICE_H_
