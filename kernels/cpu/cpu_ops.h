// Ops<float> on the processor's cores: checks shapes, shares rows out over a thread pool and calls
// the kernels of one instruction set.
//
// Use: kernels/devices.h, CreateCpuOps. All work is done when an op returns; Finish never fails.
// Thread contract: one caller at a time.
#ifndef STERNA_KERNELS_CPU_CPU_OPS_H_
#define STERNA_KERNELS_CPU_CPU_OPS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/host_memory_ops.h"
#include "kernels/ops.h"

namespace sterna::cpu {

// Work below this is not worth another thread's wake-up.
inline constexpr int64_t kRunNanoseconds = 4000;
// About what one thread does in a nanosecond; only for cutting work into runs.
inline constexpr int64_t kFloatsPerNanosecond = 4;

// That m is [rows, cols] and laid out as the kernels take it.
void CheckQuantized(const QuantizedMat<float>& m, int64_t rows, int64_t cols);

class CpuOps final : public HostMemoryOps<float> {
 public:
  // `kernels` must be one this machine can run (isa.h).
  CpuOps(const CpuKernels& kernels, int num_threads)
      : kernels_(kernels), pool_(num_threads, "sterna-compute") {}

  std::string Name() const override { return std::string("cpu/") + kernels_.name; }

  void EmbedTokens(const EmbedTokensParams<float>& p) override;
  void RmsNorm(const RmsNormParams<float>& p) override;
  void RmsNormQuantize(const RmsNormQuantizeParams<float>& p) override;
  void TernaryLinear(const TernaryLinearParams<float>& p) override { TernaryLinears({&p, 1}); }
  void TernaryLinears(std::span<const TernaryLinearParams<float>> all) override;
  void GatedLinear(const GatedLinearParams<float>& p) override;
  void DenseLinear(const DenseLinearParams<float>& p) override;
  void ShortlistLinear(const ShortlistLinearParams<float>& p) override;
  int64_t max_shortlist_rows() const override { return kernels_.most_shortlist_tokens; }
  void RotaryTable(const RotaryTableParams<float>& p) override;
  void RopeAppendKv(const RopeAppendKvParams<float>& p) override;
  void PagedAttention(const PagedAttentionParams<float>& p) override;
  void GatherRows(const GatherRowsParams<float>& p) override;
  void Sample(const SampleOpParams<float>& p) override;
  std::vector<Tuning> Tune(std::span<const TernaryMatrix* const> samples) override;
  std::vector<ProductPath> ProductPaths(std::span<const TernaryMatrix* const> matrices,
                                        bool gated) const override;
  // Not what a GPU has instructions for: f16 takes the bytes of bf16 and int8 those of fp8, both
  // round less and are widened as fast.
  bool Supports(KvType type) const override {
    return type == KvType::kFull || type == KvType::kF16 || type == KvType::kI8;
  }
  Status Finish() override { return absl::OkStatus(); }

 private:
  // Calls body(first, count) over all of [0, items), in runs long enough to be worth handing to
  // another thread; `item_cost` is about the nanoseconds one item takes.
  template <typename Body>
  void ForRuns(int64_t items, int64_t item_cost, const Body& body) {
    const int64_t run = CeilDiv(kRunNanoseconds, std::max<int64_t>(item_cost, 1));
    pool_.ParallelFor(CeilDiv(items, run), [&](int64_t i) {
      const int64_t first = i * run;
      body(first, std::min(run, items - first));
    });
  }

  // The same for panels of weights, neighbours in memory: begins with long runs, so that what a
  // thread reads ahead of one panel is its next one, and ends with short ones, so that threads end
  // together (guided self-scheduling, Polychronopoulos and Kuck 1987).
  template <typename Body>
  void ForPanels(int64_t panels, int64_t panel_cost, const Body& body) {
    const int64_t least = CeilDiv(kRunNanoseconds, std::max<int64_t>(panel_cost, 1));
    runs_.assign(1, 0);
    while (runs_.back() < panels) {
      const int64_t left = panels - runs_.back();
      const int64_t run = std::max(least, left / (2 * pool_.num_threads()));
      runs_.push_back(runs_.back() + std::min(run, left));
    }
    pool_.ParallelFor(std::ssize(runs_) - 1, [&](int64_t i) {
      const int64_t first = runs_[static_cast<size_t>(i)];
      body(first, runs_[static_cast<size_t>(i + 1)] - first);
    });
  }

  // Fills the buffers below with what the kernels want of task.x, and points the task to them.
  void PackActivations(DenseTask& task);
  // A task whose activations are packed; it holds until the next.
  DenseTask MakeDenseTask(const DenseLinearParams<float>& p);

  // All outputs of a task.
  void ComputeAll(const DenseTask& task);

  // By which product the outputs of a row block are known in ShortlistLinear; kInt8By8: int8 with
  // the high part of activations alone; kWanted: by one that does not tell enough.
  enum class RowBlock : uint8_t { kInt6, kInt8By8, kInt8, kExact, kWanted };
  // Wants the row blocks known by `known` in which any of `logits` [rows] is `least` or more.
  void WantBlocks(RowBlock known, std::span<const float> logits, float least);
  // Computes the row blocks wanted, which `becomes` then says of them.
  void ComputeWanted(const DenseLinearParams<float>& p, RowBlock becomes);
  // Whether outputs of the tokens whose norms_ these are change little without the low parts.
  bool LowPartsAreSmall(int64_t cols) const;
  // Computes exactly what sampling could draw from, and says in blocks_ what that is. False where
  // bounds do not hold or all of the matrix takes less time.
  bool ComputeDrawable(const ShortlistLinearParams<float>& p);

  // One ternary product and what its task points to.
  struct PreparedProduct {
    TernaryTask task;
    float tensor_scale = 0.0f;
    std::vector<float> inverse_s;
    AlignedBuffer<int8_t> q_tiles;
    int64_t first_panel = 0;  // in TernaryLinears, of the panels of all products
  };
  // Sets the member of that name to what takes the least time with `samples`.
  void ChooseWeightStreams(std::span<const TernaryMatrix* const> samples);
  void ChooseAmxFromTokens(std::span<const TernaryMatrix* const> samples);
  // Makes products_[i] the task of all[i], its activations in tiles where AMX takes them.
  void PrepareProducts(std::span<const TernaryLinearParams<float>> all);

  const CpuKernels& kernels_;
  ThreadPool pool_;
  int64_t amx_from_tokens_ = kAmxFromTokens;
  int64_t weight_streams_ = kMostWeightStreams;
  std::vector<int64_t> runs_;  // ForPanels': where each begins, and the number of panels
  std::vector<PreparedProduct> products_;  // at most as many as were ever asked for at once
  std::vector<int64_t> attention_runs_;    // where each begins, and the number of tokens
  // DenseLinear's; they grow to what was needed most.
  AlignedBuffer<std::byte> packed_x_;
  std::vector<float> x_scale_;
  std::vector<int32_t> x_sum_;
  std::vector<float> x_low_norm_;  // of the tokens that were packed for int8 last
  // ShortlistLinear's.
  std::vector<float> norms_;      // of x
  std::vector<float> least_;      // no token with a smaller adjusted logit can be drawn
  std::vector<float> adjusted_;   // [threads, rows of the matrix]: bounds of logits
  std::vector<RowBlock> blocks_;  // of the matrix
  std::vector<int64_t> wanted_;   // the first rows of those that were wanted last
};

}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_CPU_OPS_H_
