// The CUDA backend of kernels/ops.h: one GPU, everything in order on one stream.
//
// Ops check shapes and ask for kernels; nothing waits but Wait, Finish, CopyToHost and full
// staging buffers. The first failure is kept and told by Finish (device.h). What kernels need
// beside their outputs is allocated by Reserve, or by the first op that needs more; it stays where
// it is, as recordings name it. Lifetime: weights, recordings and memory from it must not outlive
// it. Thread contract: one caller at a time.
#ifndef STERNA_KERNELS_CUDA_CUDA_OPS_H_
#define STERNA_KERNELS_CUDA_CUDA_OPS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/sample.h"
#include "kernels/devices.h"
#include "kernels/ops.h"

namespace sterna::cuda {

class CudaOps final : public Ops<float> {
 public:
  // Errors as of Device::Open.
  static StatusOr<std::unique_ptr<CudaOps>> Create(const CudaOptions& options);

  std::string Name() const override { return "cuda/" + device_->name(); }

  StatusOr<DeviceMemory> Allocate(int64_t bytes) override { return device_->Allocate(bytes); }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override;
  Status CopyToHost(void* host, const void* device, int64_t bytes) override;
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
  // num_logprobs is at most kMostTopLogprobs.
  void Sample(const SampleOpParams<float>& p) override;

  std::vector<ProductPath> ProductPaths(std::span<const TernaryMatrix* const> matrices,
                                        bool gated) const override;
  bool Supports(KvType type) const override { return type != KvType::kFull; }
  std::optional<MemoryBytes> memory() const override { return device_->memory(); }
  std::string pci_bus_id() const override { return device_->pci_bus_id(); }
  Status Reserve(const StepShape& largest) override;
  bool records() const override { return true; }
  std::unique_ptr<Recording> Record(const std::function<void()>& body) override;
  bool runs_ahead() const override { return true; }
  void Mark() override;
  Status Wait() override;
  Status Finish() override;

 private:
  // Device memory that grows on demand. What was there before stays allocated: recordings name it.
  struct Scratch {
    std::vector<DeviceMemory> memories;
    int64_t bytes = 0;
    void* data() { return memories.empty() ? nullptr : memories.back().data(); }
  };
  // A Sample call whose results are on their way.
  struct Sampled {
    std::vector<SampleParams> params;  // their spans are not followed any more
    std::span<SampleResult> to;
    int32_t vocabulary;
    int64_t bytes;
  };
  // What is asked for between two marks, and where the results of its Sample arrive.
  struct Section {
    std::optional<Sampled> sampled;
    PinnedMemory results;
  };

  CudaOps(const CudaOptions& options, std::unique_ptr<Device> device)
      : options_(options), device_(std::move(device)) {}

  Status Grow(Scratch& scratch, int64_t bytes);
  // The same, for an op: what fails is a failure of Finish.
  bool Ensure(Scratch& scratch, int64_t bytes);
  TernaryPlan PlanOf(const TernaryLinearArgs& args) const;
  void Launch(TernaryLinearArgs args);
  // Unless this is the step that was planned last.
  void PlanAttention(const AttentionStep& step);
  // Where what is asked for now belongs.
  size_t open_section() const { return (first_marked_ + num_marked_) % sections_.size(); }
  // Its results have arrived; or they never will.
  void End(Section& section, bool arrived);

  const CudaOptions options_;
  std::unique_ptr<Device> device_;
  Scratch ternary_scratch_;
  Scratch attention_scratch_;
  Scratch dense_scratch_;
  Scratch sample_staging_;
  Scratch sample_scratch_;
  Scratch sample_results_;
  std::vector<uint8_t> host_staging_;
  std::array<Section, kMostMarks> sections_;
  size_t first_marked_ = 0;  // of sections_, of which num_marked_ wait to be waited for
  size_t num_marked_ = 0;
  std::optional<AttentionStep> planned_;  // whose arrays have not been written since
};

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_CUDA_OPS_H_
