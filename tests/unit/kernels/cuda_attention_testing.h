// What the tests of CUDA attention share: sequences in a cache of any type, steps over them, and
// their attention by the backend and by the reference.
#ifndef STERNA_TESTS_UNIT_KERNELS_CUDA_ATTENTION_TESTING_H_
#define STERNA_TESTS_UNIT_KERNELS_CUDA_ATTENTION_TESTING_H_

#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/bfloat16.h"
#include "kernels/cuda/attention.h"
#include "kernels/float8.h"
#include "kernels/half_float.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna::testing {

// What the backend takes.
inline constexpr KvType kCudaKvTypes[] = {KvType::kF16, KvType::kBf16, KvType::kI8, KvType::kF8};

struct Heads {
  int32_t kv_heads, group, head_dim;
};

// Sequences whose K and V are in a cache of scattered blocks; all places without a token are NaN.
class Sequences {
 public:
  Sequences(Random& random, KvType type, const Heads& heads, std::vector<int32_t> lengths,
            float deviation = 1.0f)
      : type_(type), heads_(heads), lengths_(std::move(lengths)) {
    int64_t blocks = 3;  // of nobody
    for (const int32_t length : lengths_) {
      table_width_ = std::max<int64_t>(table_width_, CeilDiv(length, kKvBlockTokens));
      blocks += CeilDiv(length, kKvBlockTokens);
    }
    const int64_t head_bytes = KvView<float>::HeadBlockBytes(type, heads.head_dim);
    k_ = AlignedBuffer<std::byte>(static_cast<size_t>(blocks * heads.kv_heads * head_bytes));
    v_ = AlignedBuffer<std::byte>(k_.size());
    std::fill_n(k_.data(), k_.size(), std::byte{0xff});
    std::fill_n(v_.data(), v_.size(), std::byte{0xff});
    view_ = {type, k_.data(), v_.data(), blocks, heads.kv_heads, heads.head_dim};
    std::vector<int32_t> free(static_cast<size_t>(blocks));
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random);
    for (const int32_t length : lengths_) {
      std::vector<int32_t> table;
      for (int32_t position = 0; position < length; ++position) {
        if (position % kKvBlockTokens == 0) {
          table.push_back(free.back());
          free.pop_back();
        }
        Append(random, table.back() * kKvBlockTokens + position % kKvBlockTokens, deviation);
      }
      tables_.push_back(table);
    }
  }

  const Heads& heads() const { return heads_; }
  KvType type() const { return type_; }
  const KvView<float>& view() const { return view_; }
  int64_t table_width() const { return table_width_; }
  int64_t row_size() const { return int64_t{heads_.kv_heads} * heads_.group * heads_.head_dim; }
  int32_t length(int32_t sequence) const { return lengths_[static_cast<size_t>(sequence)]; }
  float largest_value() const { return largest_value_; }
  double longest_key() const { return longest_key_; }
  // Replace the key, or the value, of the first K/V head.
  void PutKey(int32_t sequence, int32_t position, const std::vector<float>& key) {
    Store(key, k_.data(), Slot(sequence, position), 0);
  }
  void PutValue(int32_t sequence, int32_t position, const std::vector<float>& value) {
    Store(value, v_.data(), Slot(sequence, position), 0);
  }
  // What is past a sequence's end in its row must not be read.
  std::vector<int32_t> Tables(int64_t width) const {
    std::vector<int32_t> all;
    for (const auto& table : tables_) {
      all.insert(all.end(), table.begin(), table.end());
      all.insert(all.end(), static_cast<size_t>(width) - table.size(), 1 << 28);
    }
    return all;
  }

 private:
  int64_t Slot(int32_t sequence, int32_t position) const {
    const int64_t block =
        tables_[static_cast<size_t>(sequence)][static_cast<size_t>(position / kKvBlockTokens)];
    return block * kKvBlockTokens + position % kKvBlockTokens;
  }
  void Append(Random& random, int64_t slot, float deviation) {
    for (int64_t head = 0; head < heads_.kv_heads; ++head) {
      const std::vector<float> k = RandomFloats(random, heads_.head_dim, deviation);
      const std::vector<float> v = RandomFloats(random, heads_.head_dim);
      Store(k, k_.data(), slot, head);
      Store(v, v_.data(), slot, head);
      double length = 0;
      for (const float x : k) length += double{x} * x;
      longest_key_ = std::max(longest_key_, std::sqrt(length));
      for (const float x : v) largest_value_ = std::max(largest_value_, std::abs(x));
    }
  }
  void Store(const std::vector<float>& x, std::byte* data, int64_t slot, int64_t head) const {
    std::byte* const to = data + view_.Offset(slot, head);
    if (!KvView<float>::HasScales(type_)) {
      for (size_t i = 0; i < x.size(); ++i) {
        reinterpret_cast<uint16_t*>(to)[i] =
            type_ == KvType::kF16 ? FloatToHalf(x[i]) : FloatToBf16(x[i]);
      }
      return;
    }
    const float largest_code = type_ == KvType::kI8 ? 127.0f : kLargestE4m3;
    float absmax = 1e-5f;
    for (const float value : x) absmax = std::max(absmax, std::abs(value));
    for (size_t i = 0; i < x.size(); ++i) {
      const float scaled = x[i] * (largest_code / absmax);
      to[i] = type_ == KvType::kI8
                  ? static_cast<std::byte>(static_cast<int8_t>(std::nearbyint(scaled)))
                  : static_cast<std::byte>(FloatToE4m3(scaled));
    }
    *reinterpret_cast<float*>(data + view_.ScaleOffset(slot, head)) = absmax / largest_code;
  }

  KvType type_;
  Heads heads_;
  std::vector<int32_t> lengths_;
  AlignedBuffer<std::byte> k_, v_;
  KvView<float> view_;
  std::vector<std::vector<int32_t>> tables_;
  int64_t table_width_ = 1;
  float largest_value_ = 0;
  double longest_key_ = 0;
};

// Tokens of a step; a position below 0 is padding.
struct StepTokens {
  std::vector<int32_t> positions, sequence;

  void Add(int32_t of, int32_t begin, int32_t end) {
    for (int32_t position = begin; position < end; ++position) {
      positions.push_back(position);
      sequence.push_back(of);
    }
  }
  int64_t tokens() const { return std::ssize(positions); }
};

// Memory of exactly so many bytes that holds noise.
class NoisyMemory {
 public:
  explicit NoisyMemory(size_t bytes) { STERNA_CHECK(cudaMalloc(&data_, bytes) == cudaSuccess); }
  ~NoisyMemory() { cudaFree(data_); }
  NoisyMemory(const NoisyMemory&) = delete;
  NoisyMemory& operator=(const NoisyMemory&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

struct AttentionOptions {
  int32_t window = 0;
  int32_t most_partials = cuda::kAttentionPartials;
  int64_t more_table_columns = 0;
  int32_t most_thread_blocks = 1000;
  float query_deviation = 1.0f;
};

// A token's q is its own, whatever the step: of its sequence and position.
inline std::vector<float> Queries(const Sequences& sequences, const StepTokens& step,
                                  float deviation) {
  std::vector<float> q;
  for (size_t t = 0; t < step.positions.size(); ++t) {
    Random random(static_cast<uint64_t>(step.sequence[t]) << 32 |
                  static_cast<uint32_t>(step.positions[t]));
    const std::vector<float> row = RandomFloats(random, sequences.row_size(), deviation);
    q.insert(q.end(), row.begin(), row.end());
  }
  return q;
}

inline std::vector<float> Attend(const Sequences& sequences, const StepTokens& step,
                                 const AttentionOptions& options) {
  const Heads& heads = sequences.heads();
  const std::vector<float> q = Queries(sequences, step, options.query_deviation);
  const int64_t width = sequences.table_width() + options.more_table_columns;
  const std::vector<int32_t> tables = sequences.Tables(width);
  std::vector<float> o(q.size(), std::numeric_limits<float>::quiet_NaN());
  cuda::AttentionArgs args = {.step = {.shape = {.heads = heads.kv_heads * heads.group,
                                                 .kv_heads = heads.kv_heads,
                                                 .head_dim = heads.head_dim,
                                                 .max_blocks = static_cast<int32_t>(width),
                                                 .window = options.window,
                                                 .most_partials = options.most_partials,
                                                 .most_thread_blocks = options.most_thread_blocks},
                                       .positions = step.positions.data(),
                                       .sequence = step.sequence.data(),
                                       .tokens = static_cast<int32_t>(step.tokens()),
                                       .workspace = nullptr},
                              .q = q.data(),
                              .type = sequences.type(),
                              .k = sequences.view().k,
                              .v = sequences.view().v,
                              .block_tables = tables.data(),
                              .scale = 1.0f / std::sqrt(static_cast<float>(heads.head_dim)),
                              .o = o.data()};
  const NoisyMemory workspace(cuda::AttentionWorkspaceBytes(args.step.shape, args.step.tokens));
  args.step.workspace = workspace.data();
  EXPECT_EQ(cuda::LaunchAttentionPlan(args.step, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::LaunchAttention(args, nullptr), cudaSuccess);
  return o;
}

inline std::vector<double> Reference(const Sequences& sequences, const StepTokens& step,
                                     const AttentionOptions& options) {
  const Heads& heads = sequences.heads();
  const std::vector<double> q = ToDouble(Queries(sequences, step, options.query_deviation));
  const std::vector<int32_t> tables = sequences.Tables(sequences.table_width());
  const KvView<float>& view = sequences.view();
  std::vector<double> o(q.size());
  CreateReferenceOps<double>()->PagedAttention(
      {.q = ConstView(q, step.tokens()),
       .kv = {view.type, view.k, view.v, view.num_blocks, view.num_kv_heads, view.head_dim},
       .positions = step.positions,
       .sequence = step.sequence,
       .block_tables = {tables.data(), std::ssize(tables) / sequences.table_width(),
                        sequences.table_width()},
       .scale = 1.0 / std::sqrt(static_cast<double>(heads.head_dim)),
       .window = options.window,
       .o = View(o, step.tokens())});
  return o;
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_UNIT_KERNELS_CUDA_ATTENTION_TESTING_H_
