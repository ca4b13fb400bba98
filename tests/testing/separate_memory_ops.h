// Ops whose memory is not the host's, to test code that drives a device: the ops of another
// implementation over an arena that is open to them alone.
//
// A pointer in an op's parameters that should be the device's and does not lie in what it has
// allocated fails a check, as does one that should be the host's and is not; host code that follows
// a pointer of the device's faults, as the arena is closed between ops. Memory is never given out
// twice, so a use after release fails as well.
//
// Nothing is done before it is waited for: a caller that changes what a device has yet to read, or
// reads what it has yet to write, gets other bits.
//
// Lifetime: as any Ops', must outlive its memory. Thread contract: one caller at a time.
#ifndef STERNA_TESTS_TESTING_SEPARATE_MEMORY_OPS_H_
#define STERNA_TESTS_TESTING_SEPARATE_MEMORY_OPS_H_

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/ops.h"
#include "tests/testing/drawn_tokens.h"

namespace sterna::testing {

// The memory: one mapping, given out front to back.
class DeviceArena {
 public:
  explicit DeviceArena(int64_t bytes) : bytes_(bytes) {
    void* const mapped = mmap(nullptr, static_cast<size_t>(bytes), PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    STERNA_CHECK(mapped != MAP_FAILED);
    begin_ = static_cast<std::byte*>(mapped);
  }
  ~DeviceArena() {
    STERNA_CHECK(live_.empty());
    munmap(begin_, static_cast<size_t>(bytes_));
  }
  DeviceArena(const DeviceArena&) = delete;
  DeviceArena& operator=(const DeviceArena&) = delete;

  StatusOr<DeviceMemory> Allocate(int64_t bytes) {
    constexpr int64_t kAlignment = 256;
    if (bytes > bytes_ - used_) {
      return absl::ResourceExhaustedError(
          absl::StrCat(bytes, " bytes asked for, ", bytes_ - used_, " free"));
    }
    if (bytes == 0) return DeviceMemory();
    std::byte* const data = begin_ + used_;
    used_ = std::min(bytes_, RoundUp(used_ + bytes, kAlignment));
    live_.emplace(data, bytes);
    const auto release = [](void* arena, void* released) {
      STERNA_CHECK(static_cast<DeviceArena*>(arena)->live_.erase(
                       static_cast<const std::byte*>(released)) == 1);
    };
    return DeviceMemory(data, bytes, release, this);
  }

  // Whether all of it lies in one allocation that still lives.
  bool Holds(const void* data, int64_t bytes) const {
    const auto* const first = static_cast<const std::byte*>(data);
    auto next = live_.upper_bound(first);
    if (next == live_.begin()) return false;
    const auto& [begin, size] = *--next;
    return first + bytes <= begin + size;
  }
  bool Touches(const void* data, int64_t bytes) const {
    const auto* const first = static_cast<const std::byte*>(data);
    return first < begin_ + bytes_ && first + bytes > begin_;
  }

  // Opens the arena while it lives.
  class Access {
   public:
    explicit Access(DeviceArena& arena) : arena_(arena) { arena_.Protect(PROT_READ | PROT_WRITE); }
    ~Access() { arena_.Protect(PROT_NONE); }
    Access(const Access&) = delete;
    Access& operator=(const Access&) = delete;

   private:
    DeviceArena& arena_;
  };

 private:
  void Protect(int access) {
    STERNA_CHECK(mprotect(begin_, static_cast<size_t>(used_), access) == 0);
  }

  int64_t bytes_;
  std::byte* begin_;
  int64_t used_ = 0;
  std::map<const std::byte*, int64_t> live_;  // begin and bytes of what is allocated
};

inline constexpr int64_t kSeparateMemoryBytes = int64_t{256} << 20;

template <typename F>
class SeparateMemoryOps final : public Ops<F> {
 public:
  // `ops` work on host memory and compute.
  explicit SeparateMemoryOps(std::unique_ptr<Ops<F>> ops, int64_t bytes = kSeparateMemoryBytes)
      : ops_(std::move(ops)), arena_(bytes) {}

  std::string Name() const override { return "separate/" + ops_->Name(); }
  int64_t copies_to_device() const { return copies_to_device_; }
  int64_t marks() const { return num_marks_; }
  // Those that were not the only one that nobody had waited for: steps asked for ahead.
  int64_t marks_ahead() const { return marks_ahead_; }
  // From the so-manieth Wait on, every one fails.
  void FailAfterWaits(int64_t waits) { waits_left_ = waits; }

  StatusOr<DeviceMemory> Allocate(int64_t bytes) override { return arena_.Allocate(bytes); }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    Device(device, bytes);
    Host(host, bytes);
    ++copies_to_device_;
    const auto* const from = static_cast<const std::byte*>(host);
    Run([device, copy = std::vector<std::byte>(from, from + bytes)] {
      std::ranges::copy(copy, static_cast<std::byte*>(device));
    });
  }
  Status CopyToHost(void* host, const void* device, int64_t bytes) override {
    STERNA_RETURN_IF_ERROR(Finish());
    Device(device, bytes);
    Host(host, bytes);
    const DeviceArena::Access access(arena_);
    std::memcpy(host, device, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }

  StatusOr<TernaryMatrix> Place(TernaryMatrix host) override {
    STERNA_ASSIGN_OR_RETURN(DeviceMemory packed, Copied(host.packed(), host.packed_bytes()));
    const std::span<const float> host_scales = host.scales();
    STERNA_ASSIGN_OR_RETURN(
        DeviceMemory scales,
        Copied(host_scales.data(), static_cast<int64_t>(host_scales.size_bytes())));
    return TernaryMatrix::Placed(host, host.layout(), std::move(packed), std::move(scales));
  }
  StatusOr<PlacedDense> Place(const DenseMatrix& host) override {
    const int64_t data_bytes = host.data_bytes();
    STERNA_ASSIGN_OR_RETURN(DeviceMemory memory, Allocate(host.bytes()));
    CopyToDevice(memory.data(), host.data, data_bytes);
    DenseMatrix view = host;
    view.data = memory.data();
    if (host.scales != nullptr) {
      auto* const scales = static_cast<std::byte*>(memory.data()) + data_bytes;
      CopyToDevice(scales, host.scales, host.bytes() - data_bytes);
      view.scales = reinterpret_cast<const float*>(scales);
    }
    return PlacedDense{.view = view, .memory = std::move(memory)};
  }

  void EmbedTokens(const EmbedTokensParams<F>& p) override {
    AllDevice(p.token_ids, p.drawn, p.table, p.x);
    if (p.ternary_table != nullptr) AllDevice(*p.ternary_table);
    Run([this, p] {
      std::vector<int32_t> ids;
      for (const int32_t id : p.token_ids) ids.push_back(KnownToken(id, p.drawn));
      ops_->EmbedTokens(
          {.token_ids = ids, .table = p.table, .ternary_table = p.ternary_table, .x = p.x});
    });
  }
  void RmsNorm(const RmsNormParams<F>& p) override {
    AllDevice(p.x, p.weight, p.y);
    Run([this, p] { ops_->RmsNorm(p); });
  }
  void RmsNormQuantize(const RmsNormQuantizeParams<F>& p) override {
    AllDevice(p.x, p.weight, p.out);
    Run([this, p] { ops_->RmsNormQuantize(p); });
  }
  void TernaryLinear(const TernaryLinearParams<F>& p) override { TernaryLinears({&p, 1}); }
  void TernaryLinears(std::span<const TernaryLinearParams<F>> all) override {
    for (const TernaryLinearParams<F>& p : all) AllDevice(p.q, *p.w, p.bias, p.y);
    Run([this, copy = std::vector(all.begin(), all.end())] { ops_->TernaryLinears(copy); });
  }
  void GatedLinear(const GatedLinearParams<F>& p) override {
    for (const auto* product : {&p.gate, &p.up}) AllDevice(product->q, *product->w, product->bias);
    Device(p.h);
    Run([this, p] { ops_->GatedLinear(p); });
  }
  void DenseLinear(const DenseLinearParams<F>& p) override {
    AllDevice(p.x, p.w, p.y);
    Run([this, p] { ops_->DenseLinear(p); });
  }
  void RotaryTable(const RotaryTableParams<F>& p) override {
    AllDevice(p.positions, p.inv_freq, p.cos, p.sin);
    Run([this, p] { ops_->RotaryTable(p); });
  }
  void RopeAppendKv(const RopeAppendKvParams<F>& p) override {
    AllDevice(p.q, p.k, p.v, p.cos, p.sin, p.slots, p.q_norm, p.k_norm, p.kv);
    Run([this, p] { ops_->RopeAppendKv(p); });
  }
  void PagedAttention(const PagedAttentionParams<F>& p) override {
    AllDevice(p.q, p.kv, p.positions, p.sequence, p.block_tables, p.o);
    Run([this, p] { ops_->PagedAttention(p); });
  }
  void GatherRows(const GatherRowsParams<F>& p) override {
    AllDevice(p.x, p.rows, p.y);
    Run([this, p] { ops_->GatherRows(p); });
  }
  void Sample(const SampleOpParams<F>& p) override {
    Device(p.logits);
    Host(p.params);
    Host(p.results);
    for (const SampleParams& params : p.params) {
      Host(params.logit_bias);
      Host(params.token_counts);
    }
    Device(p.drawn);
    Run([this, held = Hold(p.params), logits = p.logits, drawn = p.drawn, to = p.results] {
      for (size_t r = 0; r < to.size(); ++r) {
        held->counts[r] = KnownCounts(held->counts[r], drawn);
        held->rows[r].token_counts = held->counts[r];
      }
      ops_->Sample({.logits = logits, .params = held->rows, .results = to});
      for (size_t r = 0; r < to.size() && !drawn.empty(); ++r) drawn[r] = to[r].token;
    });
  }
  std::vector<Tuning> Tune(std::span<const TernaryMatrix* const> samples) override {
    for (const TernaryMatrix* w : samples) Device(*w);
    const DeviceArena::Access access(arena_);
    return ops_->Tune(samples);
  }
  bool runs_ahead() const override { return true; }
  void Mark() override {
    STERNA_CHECK(marks_.size() < Ops<F>::kMostMarks);
    ++num_marks_;
    marks_ahead_ += marks_.empty() ? 0 : 1;
    marks_.push_back(todo_.size());
  }
  Status Wait() override {
    STERNA_CHECK(!marks_.empty());
    const size_t end = marks_.front();
    marks_.pop_front();
    for (size_t& mark : marks_) mark -= end;
    Do(end);
    if (waits_left_ == 0) return absl::InternalError("the device caught fire");
    --waits_left_;
    return ops_->Finish();
  }
  Status Finish() override {
    marks_.clear();
    Do(todo_.size());
    return ops_->Finish();
  }

 private:
  // What a Sample call was given, with all that it points to.
  struct Params {
    std::vector<SampleParams> rows;
    std::deque<std::vector<std::pair<int32_t, float>>> biases;  // of each row, as the next
    std::deque<std::vector<TokenCount>> counts;
  };
  static std::shared_ptr<Params> Hold(std::span<const SampleParams> rows) {
    auto held = std::make_shared<Params>();
    for (SampleParams row : rows) {
      row.logit_bias = held->biases.emplace_back(row.logit_bias.begin(), row.logit_bias.end());
      row.token_counts =
          held->counts.emplace_back(row.token_counts.begin(), row.token_counts.end());
      held->rows.push_back(row);
    }
    return held;
  }

  // Keeps `op` for when it is waited for.
  void Run(std::function<void()> op) { todo_.push_back(std::move(op)); }
  // The first `count` of what there is to do.
  void Do(size_t count) {
    const DeviceArena::Access access(arena_);
    for (size_t i = 0; i < count; ++i) todo_[i]();
    todo_.erase(todo_.begin(), todo_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  StatusOr<DeviceMemory> Copied(const void* host, int64_t bytes) {
    STERNA_ASSIGN_OR_RETURN(DeviceMemory memory, Allocate(bytes));
    if (bytes > 0) CopyToDevice(memory.data(), host, bytes);
    return memory;
  }

  void Host(const void* data, int64_t bytes) const {
    STERNA_CHECK(bytes == 0 || !arena_.Touches(data, bytes));
  }
  template <typename T>
  void Host(std::span<T> values) const {
    Host(values.data(), static_cast<int64_t>(values.size_bytes()));
  }

  void Device(const void* data, int64_t bytes) const {
    STERNA_CHECK(bytes == 0 || arena_.Holds(data, bytes));
  }
  template <typename T>
  void Device(std::span<T> values) const {
    Device(values.data(), static_cast<int64_t>(values.size_bytes()));
  }
  template <typename T>
  void Device(const Mat<T>& m) const {
    Device(m.data, m.rows * m.cols * static_cast<int64_t>(sizeof(T)));
  }
  void Device(const QuantizedMat<F>& m) const {
    const int64_t groups = m.rows * m.num_groups();
    Device(m.q, m.rows * m.stride);
    Device(m.scale, groups * static_cast<int64_t>(sizeof(F)));
    Device(m.sum, groups * static_cast<int64_t>(sizeof(int32_t)));
  }
  void Device(const DenseMatrix& m) const {
    Device(m.data, m.data_bytes());
    Device(m.scales, m.bytes() - m.data_bytes());
  }
  void Device(const TernaryMatrix& w) const {
    Device(w.packed(), w.packed_bytes());
    Device(w.scales());
  }
  void Device(const KvView<F>& kv) const {
    Device(kv.k, kv.BlockOffset(kv.num_blocks, 0));
    Device(kv.v, kv.BlockOffset(kv.num_blocks, 0));
  }
  template <typename... Params>
  void AllDevice(const Params&... params) const {
    (Device(params), ...);
  }

  std::unique_ptr<Ops<F>> ops_;
  DeviceArena arena_;
  std::deque<std::function<void()>> todo_;
  std::deque<size_t> marks_;  // how much of todo_ was asked for before each
  int64_t copies_to_device_ = 0;
  int64_t num_marks_ = 0;
  int64_t marks_ahead_ = 0;
  int64_t waits_left_ = -1;
};

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_SEPARATE_MEMORY_OPS_H_
