// The op set: everything a device does for a model, about a dozen coarse operations.
//
// `F` is the float type of activations between ops: float on every device that serves, double in
// the reference (kernels/reference), which is the oracle for the others. Weights are the same in
// both: packed ternary, and dense bf16, f32 or int8.
//
// Shapes: T tokens in the step, D model width, N outputs, H query and Hkv key/value heads, hd head
// size, R rows to sample. Buffers are row-major and contiguous; outputs never overlap inputs unless
// an op says "in place".
//
// Memory: what the parameters of an op point to lies in the device's memory (Allocate, Place), but
// for what says "host", which is read before the op returns. A TernaryMatrix itself is the host's,
// its codes and scales are the device's.
//
// Padding: where a device records steps (Record), tokens with id, position and slot -1 make up a
// round number. What is computed for them is of no use, and they are written to no cache.
//
// Determinism: a row of any output depends on that row's inputs alone, never on T, on the other
// rows or on the number of threads, and is the same bits every time on one device and build.
//
// Errors: shapes are the caller's duty (STERNA_CHECK). Ops may run asynchronously; a device's
// failure is reported by Finish. Thread contract: one caller at a time.
#ifndef STERNA_KERNELS_OPS_H_
#define STERNA_KERNELS_OPS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/status.h"
#include "kernels/dense_format.h"
#include "kernels/dense_shortlist.h"
#include "kernels/device_memory.h"
#include "kernels/sampling.h"
#include "kernels/tensor.h"
#include "kernels/ternary_format.h"

namespace sterna {

// x[t] = table[token_ids[t]], exactly.
template <typename F>
struct EmbedTokensParams {
  std::span<const int32_t> token_ids;            // [T], each in [0, vocabulary), or a DrawnToken
  std::span<const int32_t> drawn = {};           // [most rows]: what DrawnTokens stand for
  DenseMatrix table = {};                        // [vocabulary, D], looked at where there is no
  const TernaryMatrix* ternary_table = nullptr;  // [vocabulary, D]
  Mat<F> x;                                      // out [T, D]
};

// y = x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467).
template <typename F>
struct RmsNormParams {
  Mat<const F> x;                 // [T, D]
  std::span<const float> weight;  // [D]
  F eps;
  Mat<F> y;  // out [T, D]; may be x itself
};

// RmsNorm, then int8 quantisation; an empty `weight` quantises x as it is.
template <typename F>
struct RmsNormQuantizeParams {
  Mat<const F> x;                 // [T, D]
  std::span<const float> weight;  // [D] or empty
  F eps;
  QuantizedMat<F> out;  // [T, D]
};

// y = q . W^T / s * scale + bias: the products exact in int32, then acc * (scale / s) in this
// order; with several groups acc * (scale * (1 / s)), as a division for each group and output would
// take longer than its products, and the groups' values are added in index order.
template <typename F>
struct TernaryLinearParams {
  QuantizedMat<F> q;            // [T, D]; group_size as the weights' when those are per group
  const TernaryMatrix* w;       // [N, D]
  std::span<const float> bias;  // [N] or empty
  bool accumulate = false;      // y += instead of y =: the residual add
  Mat<F> y;                     // out [T, N]
};

enum class Activation { kSilu, kReluSquared };

// h = activation(gate) * up, both as TernaryLinear computes them (Shazeer 2020, arXiv:2002.05202).
// One op, so that a device need not write them as a whole: twice the bytes of h, which many tokens
// would send to memory and back.
template <typename F>
struct GatedLinearParams {
  struct Product {
    QuantizedMat<F> q;            // [T, D]
    const TernaryMatrix* w;       // [FFN, D]
    std::span<const float> bias;  // [FFN] or empty
  };
  Product gate;
  Product up;
  Activation activation;
  Mat<F> h;  // out [T, FFN]
};

// y = x . W^T, the output head. With int8 and int6 weights a backend may round activations to 16
// bits of their row's largest magnitude, so that the products are integers.
template <typename F>
struct DenseLinearParams {
  Mat<const F> x;  // [T, D]
  DenseMatrix w;   // [N, D]; f32 in kRows, the others in kTiles
  Mat<F> y;        // out [T, N]
};

// DenseLinear for rows that a Sample call with `params` follows: an output is the same bits, or
// -infinity where that changes nothing of what Sample answers. A device without a faster way
// computes all of them. Only a device whose memory is the host's has one: shortlists are not
// placed.
template <typename F>
struct ShortlistLinearParams {
  Mat<const F> x;  // [R, D]
  DenseMatrix w;   // [N, D]; not int8
  DenseShortlist shortlist;
  std::span<const SampleParams> params;  // [R], host
  Mat<F> y;                              // out [R, N]
};

// cos and sin of position * inv_freq, times `factor`, once a step for all layers.
template <typename F>
struct RotaryTableParams {
  std::span<const int32_t> positions;  // [T]
  std::span<const double> inv_freq;    // [hd / 2]
  double factor = 1.0;                 // attention scaling of long-context rotary variants
  Mat<F> cos;                          // out [T, hd / 2]
  Mat<F> sin;                          // out [T, hd / 2]
};

// Optional per-head RMSNorm of q and k (Qwen3), rotation of q and k in pairs (i, i + hd/2)
// (Su et al. 2021, arXiv:2104.09864, in Hugging Face's rotate-half order), then k and v written to
// their slots.
template <typename F>
struct RopeAppendKvParams {
  Mat<F> q;                            // [T, H*hd], in place
  Mat<F> k;                            // [T, Hkv*hd], in place
  Mat<const F> v;                      // [T, Hkv*hd]
  Mat<const F> cos;                    // [T, hd/2]
  Mat<const F> sin;                    // [T, hd/2]
  std::span<const int32_t> slots;      // [T]: where token t's k and v go
  std::span<const float> q_norm = {};  // [hd] or empty
  std::span<const float> k_norm = {};  // [hd] or empty
  F norm_eps;
  KvView<F> kv;  // out
};

// Causal attention of every token over its own sequence's cache, grouped heads: query head h reads
// key/value head h / (H / Hkv). o = softmax(q . K^T * scale) . V over positions
// max(0, p - window + 1) .. p, p the token's own position, whose K/V RopeAppendKv has written.
template <typename F>
struct PagedAttentionParams {
  Mat<const F> q;  // [T, H*hd]
  KvView<F> kv;
  std::span<const int32_t> positions;  // [T]
  std::span<const int32_t> sequence;   // [T]: row of block_tables
  Mat<const int32_t> block_tables;     // [sequences, most blocks]: physical block of each block
  F scale;                             // 1 / sqrt(hd) for all models here
  int32_t window = 0;                  // 0: no sliding window
  Mat<F> o;                            // out [T, H*hd]
};

// y[r] = x[rows[r]].
template <typename F>
struct GatherRowsParams {
  Mat<const F> x;                 // [T, D]
  std::span<const int32_t> rows;  // [R]
  Mat<F> y;                       // out [R, D]
};

// One token per row of logits (kernels/sampling.h has the rules), which a device may adjust where
// they are: what they hold afterwards is of no use. `results` must stay where they are, and are
// there when a Wait for the next Mark, or Finish, returns.
template <typename F>
struct SampleOpParams {
  Mat<const F> logits;                   // [R, vocabulary]
  std::span<const SampleParams> params;  // [R], host, as is what they point to
  std::span<SampleResult> results;       // out [R], host
  // [most rows] or empty: before, what DrawnTokens of the counts stand for; then the tokens [R] of
  // this call, for those of the next step.
  std::span<int32_t> drawn = {};
};

// What a device chose by measurement, for people to read.
struct Tuning {
  std::string name;  // snake_case
  double value;
};

// Which kernel multiplies from so many tokens on, for people to read. The results are the same.
struct ProductPath {
  int64_t from_tokens;
  std::string name;  // snake_case
};

// A dense matrix as a device's ops take it, and the memory it points into: none where that is still
// the host's.
struct PlacedDense {
  DenseMatrix view;
  DeviceMemory memory;
};

// Of a device, all users of it together.
struct MemoryBytes {
  int64_t free;
  int64_t total;
};

// The largest step that a model asks for.
struct StepShape {
  int64_t tokens;
  int64_t logit_rows;
  int64_t max_blocks;  // columns of block tables
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  DenseMatrix head;  // placed; empty where the head is ternary
};

// Ops that were asked for once, to be asked for again as a whole: a device that takes longer to be
// told a small step than to do it gets through it faster.
class Recording {
 public:
  virtual ~Recording() = default;
  // Asks for them with the parameters they had, whatever is in the memory that those name by now.
  virtual void Run() = 0;
};

template <typename F>
class Ops {
 public:
  virtual ~Ops() = default;

  // What runs: "reference/f64", "cpu/avx512_vnni", ... Shown to users.
  virtual std::string Name() const = 0;

  // `bytes` (0 or more) zeroed bytes of this device's memory, aligned for any of its ops.
  // ResourceExhausted, with the bytes asked for and those free, where there are not as many. Where
  // memory is the host's, what is large costs only what is touched of it.
  virtual StatusOr<DeviceMemory> Allocate(int64_t bytes) = 0;
  // Copy in order with the ops, `bytes` of them, from or to memory of this device. `host` may be
  // written again as soon as CopyToDevice returns; its failure is one of Finish.
  virtual void CopyToDevice(void* device, const void* host, int64_t bytes) = 0;
  // Returns when everything asked for before and the copy are done, as Finish does.
  virtual Status CopyToHost(void* host, const void* device, int64_t bytes) = 0;

  // A matrix of the model as this device multiplies from it, in its memory and its layout; a device
  // that takes it as it is returns it unchanged. Errors as of Allocate.
  virtual StatusOr<TernaryMatrix> Place(TernaryMatrix host) = 0;
  // The same for what EmbedTokens and DenseLinear take, both where head and embedding are one; the
  // host's memory may be freed on return unless the result still points there. f32 in kRows keeps
  // its layout: vectors of weights are placed as matrices of one row.
  virtual StatusOr<PlacedDense> Place(const DenseMatrix& host) = 0;

  virtual void EmbedTokens(const EmbedTokensParams<F>& p) = 0;
  virtual void RmsNorm(const RmsNormParams<F>& p) = 0;
  virtual void RmsNormQuantize(const RmsNormQuantizeParams<F>& p) = 0;
  virtual void TernaryLinear(const TernaryLinearParams<F>& p) = 0;
  // The same for products that do not read one another's outputs: a device may run them at once.
  virtual void TernaryLinears(std::span<const TernaryLinearParams<F>> all) {
    for (const TernaryLinearParams<F>& p : all) TernaryLinear(p);
  }
  virtual void GatedLinear(const GatedLinearParams<F>& p) = 0;
  virtual void DenseLinear(const DenseLinearParams<F>& p) = 0;
  virtual void ShortlistLinear(const ShortlistLinearParams<F>& p) {
    DenseLinear({.x = p.x, .w = p.w, .y = p.y});
  }
  // Rows of x up to which ShortlistLinear is the faster way; 0: a shortlist is of no use.
  virtual int64_t max_shortlist_rows() const { return 0; }
  virtual void RotaryTable(const RotaryTableParams<F>& p) = 0;
  virtual void RopeAppendKv(const RopeAppendKvParams<F>& p) = 0;
  virtual void PagedAttention(const PagedAttentionParams<F>& p) = 0;
  virtual void GatherRows(const GatherRowsParams<F>& p) = 0;
  virtual void Sample(const SampleOpParams<F>& p) = 0;

  // Whether the cache's ops take keys and values that are stored so.
  virtual bool Supports(KvType /*type*/) const { return true; }
  // Of the device; nothing where it is the host's.
  virtual std::optional<MemoryBytes> memory() const { return std::nullopt; }
  // Its address on the PCI bus, e.g. "0000:1b:00.0"; empty where it is the host's processor.
  virtual std::string pci_bus_id() const { return ""; }

  // Makes room for what the ops of such a step need beside their outputs; nothing is allocated
  // during a step of at most that size. Errors as of Allocate.
  virtual Status Reserve(const StepShape& /*largest*/) { return absl::OkStatus(); }

  // Whether recordings are of use.
  virtual bool records() const { return false; }
  // What `body` asks for: ops alone that come to the same when done again, as they may be at once.
  // Must not outlive the ops nor the memory they name. Never null; failures are those of Finish.
  virtual std::unique_ptr<Recording> Record(const std::function<void()>& /*body*/) {
    STERNA_CHECK(records());
    return nullptr;
  }

  // Chooses between ways to compute the same bits by how fast they are here and now, on `samples`,
  // placed matrices of the model to be served: some tens of milliseconds. Returns what was chosen.
  virtual std::vector<Tuning> Tune(std::span<const TernaryMatrix* const> /*samples*/) { return {}; }

  // How placed matrices of one launch (of TernaryLinears, or gate and up of GatedLinear) are
  // multiplied: from 1 token on, in ascending order.
  virtual std::vector<ProductPath> ProductPaths(std::span<const TernaryMatrix* const> /*matrices*/,
                                                bool /*gated*/) const {
    return {{.from_tokens = 1, .name = "scalar"}};
  }

  // Whether ops return long before they are done, so that it pays to ask for a step while the one
  // before it is being done. Only such a device knows DrawnTokens.
  virtual bool runs_ahead() const { return false; }
  // Marks a place in what is asked for. Up to kMostMarks need not have been waited for yet; of
  // Sample calls, one lies between two marks, and none is made while there are so many.
  static constexpr size_t kMostMarks = 2;
  virtual void Mark() {}
  // Waits until what was asked for before the earliest mark that nobody has waited for is done; its
  // failure, as that of Finish.
  virtual Status Wait() { return Finish(); }
  // Waits until everything asked for is done, all marks included; the first failure since the last
  // Finish, if any.
  virtual Status Finish() = 0;
};

// `size` zeroed elements of the device's memory; errors as of Ops::Allocate.
template <typename T, typename F>
StatusOr<DeviceArray<T>> AllocateArray(Ops<F>& ops, int64_t size) {
  STERNA_ASSIGN_OR_RETURN(DeviceMemory memory,
                          ops.Allocate(size * static_cast<int64_t>(sizeof(T))));
  return DeviceArray<T>(std::move(memory));
}

}  // namespace sterna

#endif  // STERNA_KERNELS_OPS_H_
