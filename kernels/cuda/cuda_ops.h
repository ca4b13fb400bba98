// The CUDA backend of kernels/ops.h: one GPU, everything in order on one stream.
//
// Ops check shapes and ask for kernels; nothing waits but Finish, CopyToHost and a full staging
// buffer. The first failure is kept and told by Finish (device.h).
// Lifetime: weights and memory from it must not outlive it. Thread contract: one caller at a time.
#ifndef STERNA_KERNELS_CUDA_CUDA_OPS_H_
#define STERNA_KERNELS_CUDA_CUDA_OPS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/devices.h"
#include "kernels/ops.h"

namespace sterna::cuda {

class CudaOps final : public Ops<float> {
 public:
  // Errors as of Device::Open.
  static StatusOr<std::unique_ptr<CudaOps>> Create(const CudaOptions& options);

  std::string Name() const override { return "cuda/" + device_->name(); }

  StatusOr<DeviceMemory> Allocate(int64_t bytes) override { return device_->Allocate(bytes); }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    device_->CopyToDevice(device, host, bytes);
  }
  Status CopyToHost(void* host, const void* device, int64_t bytes) override {
    return device_->CopyToHost(host, device, bytes);
  }
  StatusOr<TernaryMatrix> Place(TernaryMatrix host) override;
  StatusOr<PlacedDense> Place(const DenseMatrix& host) override;

  void EmbedTokens(const EmbedTokensParams<float>& p) override;
  void RmsNorm(const RmsNormParams<float>& p) override;
  void RmsNormQuantize(const RmsNormQuantizeParams<float>& p) override;
  void TernaryLinear(const TernaryLinearParams<float>& p) override;
  void TernaryLinears(std::span<const TernaryLinearParams<float>> all) override;
  void GatedLinear(const GatedLinearParams<float>& p) override;
  void DenseLinear(const DenseLinearParams<float>& p) override;
  void RotaryTable(const RotaryTableParams<float>& p) override;
  void RopeAppendKv(const RopeAppendKvParams<float>& p) override;
  void PagedAttention(const PagedAttentionParams<float>& p) override;
  void GatherRows(const GatherRowsParams<float>& p) override;
  void Sample(const SampleOpParams<float>& p) override;
  Status Finish() override { return device_->Finish(); }

 private:
  explicit CudaOps(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  void Launch(const TernaryLinearArgs& args);

  std::unique_ptr<Device> device_;
};

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_CUDA_OPS_H_
