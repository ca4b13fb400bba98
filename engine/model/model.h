// One forward pass of a decoder-only ternary transformer over a StepBatch, through Ops.
//
// The same code runs on every device and, with F = double and the reference ops, is the oracle that
// is compared with Transformers. It knows tokens, positions and cache slots; not requests.
// Sources: Llama (Touvron et al. 2023, arXiv:2302.13971) with BitLinear (Ma et al. 2024,
// arXiv:2402.17764); BitNet b1.58 2B4T (arXiv:2504.12285) for sub-norms and squared ReLU.
// Lifetime: config, weights and ops must outlive the model. Move-only. Thread contract: the engine
// thread alone.
#ifndef STERNA_ENGINE_MODEL_MODEL_H_
#define STERNA_ENGINE_MODEL_MODEL_H_

#include <array>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/cache/kv_cache.h"
#include "engine/energy/energy_ledger.h"
#include "engine/model/config.h"
#include "engine/model/step_arrays.h"
#include "engine/model/weights.h"
#include "engine/schedule/step_batch.h"
#include "kernels/ops.h"

namespace sterna {

template <typename F>
class Model {
 public:
  // Weights are placed for `ops` (PlaceWeights). Work buffers are sized for steps within `limits`;
  // ResourceExhausted where the device has no room for them.
  static StatusOr<Model> Create(const ModelConfig* config, const ModelWeights* weights, Ops<F>* ops,
                                const StepLimits& limits);

  // Appends the batch's K and V to `cache` and computes the logits of its logit_rows; of other
  // tokens the last layer computes nothing but q, K and V. Returns [R, vocab_size], in the device's
  // memory, valid until the next Forward. As with an op, a failure is one of Finish. With `samples`
  // [R], what the logits are sampled by, those that cannot be drawn may be -infinity
  // (ShortlistLinear). A token of the batch may be a DrawnToken, of the Sample before.
  Mat<const F> Forward(const StepBatch& batch, KvCache<F>& cache,
                       std::span<const SampleParams> samples = {});
  // Where the device records steps: records those of every shape that decoding into `cache`, up to
  // `context_tokens` a sequence, may have, so that no request waits for it. A failure is one of
  // Finish.
  void RecordDecodeSteps(KvCache<F>& cache, int64_t context_tokens);
  // Of the buffers a step's activations and logits are in; Ops::Reserve's come to them.
  int64_t work_bytes() const { return work_bytes_; }
  int64_t num_recordings() const { return std::ssize(recordings_); }
  // Draws a token from each row of the logits of the Forward before, as Ops::Sample.
  void Sample(std::span<const SampleParams> params, std::span<SampleResult> results);

  const ModelConfig& config() const { return *config_; }
  Ops<F>& ops() { return *ops_; }
  const StepLimits& limits() const { return limits_; }
  EnergyCostModel energy_costs(KvType kv_type) const;

 private:
  // A matrix whose first rows are used by a step of fewer tokens than it has room for.
  struct Workspace {
    DeviceArray<F> data;
    int64_t cols = 0;
    Status Allocate(Ops<F>& ops, int64_t rows, int64_t num_cols);
    Mat<F> Rows(int64_t rows) { return {data.data(), rows, cols}; }
  };
  // The same for quantised activations.
  struct QuantizedWorkspace {
    DeviceArray<int8_t> q;
    DeviceArray<F> scale;
    DeviceArray<int32_t> sum;
    int64_t group_size = 0;  // as ModelConfig has it
    Status Allocate(Ops<F>& ops, int64_t rows, int64_t cols);
    QuantizedMat<F> Rows(int64_t rows, int64_t cols);
    int64_t size_bytes() const { return q.size_bytes() + scale.size_bytes() + sum.size_bytes(); }
  };

  Model(const ModelConfig* config, const ModelWeights* weights, Ops<F>* ops,
        const StepLimits& limits, StepArrays<F> arrays)
      : config_(config),
        weights_(weights),
        ops_(ops),
        limits_(limits),
        arrays_(std::move(arrays)) {}
  Status AllocateWorkspaces();

  F eps() const { return static_cast<F>(config_->rms_norm_eps); }

  // The tokens that go on: all of a step, in the last layer those whose logits are wanted.
  struct ActiveTokens {
    Mat<F> x;  // the residual stream
    Mat<F> q;
    std::span<const int32_t> positions;
    std::span<const int32_t> sequence;  // of StepBatch
  };
  using Step = typename StepArrays<F>::View;

  // A programmer's mistake where the batch names what is not there: ops do not look.
  void CheckBatch(const StepBatch& batch, int64_t num_kv_blocks) const;
  // The pass itself, up to the logits. `all_have_logits`: logit_rows are all tokens in their order.
  void Compute(const Step& step, KvCache<F>& cache, std::span<const SampleParams> samples,
               bool all_have_logits);
  // Decode steps are recorded and run again, padded to one of few shapes.
  bool CanRecord(const StepBatch& batch) const;
  // Tokens of the largest.
  int64_t most_recorded_tokens() const;
  StepBatch Padded(StepBatch batch, int64_t tokens, int64_t blocks) const;
  StepBatch PaddedToRecord(StepBatch batch) const;
  Recording& RecordingOf(const Step& step, KvCache<F>& cache);
  // q_ and the cache's new K and V, of norm(x_)
  void ProjectQkv(const LayerWeights& layer, const Step& step, const KvView<F>& kv);
  // Those of logit_rows, copied together.
  ActiveTokens LogitTokens(const Step& step);
  // x += o_proj(attention(q, cache))
  void Attention(const LayerWeights& layer, const ActiveTokens& tokens,
                 Mat<const int32_t> block_tables, const KvView<F>& kv);
  // x += down(activation(gate) * up of norm(x))
  void FeedForward(const LayerWeights& layer, Mat<F> x);
  // logits_ of the rows of the residual stream `last`
  void ComputeLogits(Mat<F> last, std::span<const SampleParams> samples);
  // norm(x) quantised, as the inputs of linears that share it: the same for all, or where each
  // has a norm of its own (`use_rms_norm` checkpoints) one for each.
  template <size_t kLinears>
  std::array<QuantizedMat<F>, kLinears> NormedInputs(
      Mat<const F> x, std::span<const float> norm,
      const std::array<const TernaryLinearWeights*, kLinears>& linears);
  static TernaryLinearParams<F> Product(const TernaryLinearWeights& linear,
                                        const QuantizedMat<F>& q, Mat<F> y,
                                        bool accumulate = false) {
    return {.q = q, .w = &linear.w, .bias = linear.bias, .accumulate = accumulate, .y = y};
  }

  const ModelConfig* config_;
  const ModelWeights* weights_;
  Ops<F>* ops_;
  StepLimits limits_;
  DeviceArray<double> inv_freq_;  // [hd / 2]

  StepArrays<F> arrays_;
  Workspace x_;                                    // [T, D]: the residual stream
  Workspace normed_;                               // [T, D]
  Workspace q_;                                    // [T, H*hd]
  Workspace k_;                                    // [T, Hkv*hd]
  Workspace v_;                                    // [T, Hkv*hd]
  Workspace attention_;                            // [T, H*hd]
  Workspace ffn_;                                  // [T, FFN]
  Workspace cos_;                                  // [T, hd/2]
  Workspace sin_;                                  // [T, hd/2]
  QuantizedWorkspace quantized_;                   // [T, max(D, H*hd, FFN)]
  std::vector<QuantizedWorkspace> linear_inputs_;  // [T, D], of linears with norms of their own
  Workspace last_x_;                               // [R, D]
  Workspace last_q_;                               // [R, H*hd]
  Workspace logits_;                               // [R, vocab]
  DeviceArray<int32_t> drawn_;                     // [R], where the device runs ahead
  int64_t num_drawn_ = 0;                          // in it
  int64_t work_bytes_ = 0;                         // of all of them

  // By tokens, blocks of a table, and the cache's memory and kind.
  using RecordingKey = std::tuple<int64_t, int64_t, const void*, const void*, int64_t, KvType>;
  std::map<RecordingKey, std::unique_ptr<Recording>> recordings_;
};

extern template class Model<float>;
extern template class Model<double>;

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_MODEL_H_
