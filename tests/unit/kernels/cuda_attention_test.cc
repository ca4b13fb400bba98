// The CUDA backend's attention on emulated threads (tests/testing/cuda_emulation.h), against the
// reference in double, and against itself in other company.
#include "tests/testing/cuda_emulation.h"
// First: it stands for headers that others include.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/attention.h"
#include "kernels/half_float.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace sterna {
namespace {

using ::testing::ContainerEq;
using ::testing::Each;
using testing::Random;
using testing::RandomFloats;

constexpr KvType kTypes[] = {KvType::kF16, KvType::kI8};

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
  // Replaces the key of the first K/V head.
  void PutKey(int32_t sequence, int32_t position, const std::vector<float>& key) {
    const int64_t block =
        tables_[static_cast<size_t>(sequence)][static_cast<size_t>(position / kKvBlockTokens)];
    Store(key, k_.data(), block * kKvBlockTokens + position % kKvBlockTokens, 0);
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
    if (type_ == KvType::kF16) {
      for (size_t i = 0; i < x.size(); ++i) {
        reinterpret_cast<uint16_t*>(to)[i] = FloatToHalf(x[i]);
      }
      return;
    }
    float absmax = 1e-5f;
    for (const float value : x) absmax = std::max(absmax, std::abs(value));
    for (size_t i = 0; i < x.size(); ++i) {
      reinterpret_cast<int8_t*>(to)[i] =
          static_cast<int8_t>(std::nearbyint(x[i] * (127.0f / absmax)));
    }
    *reinterpret_cast<float*>(data + view_.ScaleOffset(slot, head)) = absmax / 127.0f;
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
struct Step {
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
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes) { STERNA_CHECK(cudaMalloc(&data_, bytes) == cudaSuccess); }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

struct Options {
  int32_t window = 0;
  int32_t most_partials = cuda::kAttentionPartials;
  int64_t more_table_columns = 0;
  int32_t most_thread_blocks = 1000;
  float query_deviation = 1.0f;
};

// A token's q is its own, whatever the step: of its sequence and position.
std::vector<float> Queries(const Sequences& sequences, const Step& step, float deviation) {
  std::vector<float> q;
  for (size_t t = 0; t < step.positions.size(); ++t) {
    Random random(static_cast<uint64_t>(step.sequence[t]) << 32 |
                  static_cast<uint32_t>(step.positions[t]));
    const std::vector<float> row = RandomFloats(random, sequences.row_size(), deviation);
    q.insert(q.end(), row.begin(), row.end());
  }
  return q;
}

std::vector<float> Attend(const Sequences& sequences, const Step& step, const Options& options) {
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
  const DeviceMemory workspace(cuda::AttentionWorkspaceBytes(args.step.shape, args.step.tokens));
  args.step.workspace = workspace.data();
  EXPECT_EQ(cuda::LaunchAttentionPlan(args.step, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::LaunchAttention(args, nullptr), cudaSuccess);
  return o;
}

std::vector<double> Reference(const Sequences& sequences, const Step& step,
                              const Options& options) {
  const Heads& heads = sequences.heads();
  const std::vector<double> q =
      testing::ToDouble(Queries(sequences, step, options.query_deviation));
  const std::vector<int32_t> tables = sequences.Tables(sequences.table_width());
  const KvView<float>& view = sequences.view();
  std::vector<double> o(q.size());
  CreateReferenceOps<double>()->PagedAttention(
      {.q = testing::ConstView(q, step.tokens()),
       .kv = {view.type, view.k, view.v, view.num_blocks, view.num_kv_heads, view.head_dim},
       .positions = step.positions,
       .sequence = step.sequence,
       .block_tables = {tables.data(), std::ssize(tables) / sequences.table_width(),
                        sequences.table_width()},
       .scale = 1.0 / std::sqrt(static_cast<double>(heads.head_dim)),
       .window = options.window,
       .o = testing::View(o, step.tokens())});
  return o;
}

// What the arithmetic of attention_tile.cuh may cost. A score is off by 2^-22 for q's parts and by
// eps for each step of its sum, relative to |q| |k|, and its weight by as much times it; a weight
// is rounded to f16, and so is taken wrongly by 2^-11 at most; the sums are of up to `positions`
// terms.
double Bound(const Sequences& sequences, const std::vector<float>& q, int64_t positions) {
  constexpr double kEps = std::numeric_limits<float>::epsilon();
  const int64_t hd = sequences.heads().head_dim;
  double longest_query = 0;
  for (size_t i = 0; i < q.size(); i += static_cast<size_t>(hd)) {
    double length = 0;
    for (int64_t j = 0; j < hd; ++j) length += double{q[i + j]} * q[i + j];
    longest_query = std::max(longest_query, std::sqrt(length));
  }
  const double dims = static_cast<double>(hd);
  const double score = longest_query * sequences.longest_key() / std::sqrt(dims);
  return (0x1p-11 + (0x1p-22 + (dims / 4 + 8) * kEps) * score +
          static_cast<double>(positions + 32) * kEps) *
         sequences.largest_value();
}

void ExpectCloseToReference(const Sequences& sequences, const Step& step, const Options& options,
                            const std::string& what) {
  const std::vector<double> expected = Reference(sequences, step, options);
  const std::vector<float> actual = Attend(sequences, step, options);
  const double bound = Bound(sequences, Queries(sequences, step, options.query_deviation),
                             1 + *std::max_element(step.positions.begin(), step.positions.end()));
  const int64_t row = sequences.row_size();
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], bound)
        << what << " position " << step.positions[i / row] << " of sequence "
        << step.sequence[i / row] << " element " << i % row;
  }
}

// The rows of `part` in `all`, which holds o of `step`.
std::vector<float> RowsOf(const std::vector<float>& all, const Step& step, const Step& part,
                          int64_t row_size) {
  std::vector<float> rows;
  for (size_t t = 0; t < part.positions.size(); ++t) {
    for (size_t u = 0; u < step.positions.size(); ++u) {
      if (step.positions[u] != part.positions[t] || step.sequence[u] != part.sequence[t]) continue;
      const auto* row = all.data() + static_cast<int64_t>(u) * row_size;
      rows.insert(rows.end(), row, row + row_size);
    }
  }
  return rows;
}

std::string Name(const Heads& heads, KvType type, const Options& options) {
  return "kv_heads " + std::to_string(heads.kv_heads) + " group " + std::to_string(heads.group) +
         " head_dim " + std::to_string(heads.head_dim) + (type == KvType::kF16 ? " f16" : " int8") +
         " window " + std::to_string(options.window) + " partials " +
         std::to_string(options.most_partials);
}

// Lone tokens and chunks of prompts of all lengths, side by side; windows that begin within tiles
// and splits; few and many rows, each in splits of their own blocks and walked through.
TEST(CudaAttention, IsCloseToTheDoubleReference) {
  Random random(1);
  uint64_t order = 1;
  for (const Heads& heads : {Heads{1, 1, 8},
                             {2, 3, 24},
                             {1, 4, 64},
                             {1, 16, 80},
                             {1, 17, 128},
                             {1, 2, 96},
                             {1, 5, 200}}) {
    for (const KvType type : kTypes) {
      const Sequences sequences(random, type, heads, {1, 70, 290});
      Step step;
      step.Add(0, 0, 1);
      step.Add(2, 280, 290);  // a chunk,
      step.Add(1, 69, 70);    // a lone token,
      step.Add(1, 3, 5);      // and another part of the same sequence
      for (const Options& options : {Options{.window = 0}, {.window = 40, .most_partials = 0}}) {
        testing::SetCudaThreadOrder(order++);
        ExpectCloseToReference(sequences, step, options, Name(heads, type, options));
      }
    }
  }
}

TEST(CudaAttention, LongContextsAreCloseToTheDoubleReference) {
  Random random(2);
  for (const KvType type : kTypes) {
    const Heads heads = {1, 2, 16};
    const Sequences sequences(random, type, heads, {5300, 900});
    Step step;
    step.Add(0, 5299, 5300);
    step.Add(1, 800, 801);
    for (const Options& options : {Options{}, {.most_partials = 0}, {.window = 4500}}) {
      testing::SetCudaThreadOrder(3);
      ExpectCloseToReference(sequences, step, options, Name(heads, type, options));
    }
  }
}

// Scores in the hundreds, and q far beyond what a half can hold, or far below.
TEST(CudaAttention, LargeAndSmallQueriesKeepTheirBits) {
  Random random(3);
  const Heads heads = {1, 4, 64};
  for (const KvType type : kTypes) {
    for (const auto& [q, k] :
         {std::pair(30.0f, 4.0f), std::pair(1e6f, 1e-4f), std::pair(3e-7f, 3e4f)}) {
      // Half precision's own range is the cache's.
      if (type == KvType::kF16 && k < 1) continue;
      const Sequences sequences(random, type, heads, {100}, std::min(k, 1000.0f));
      Step step;
      step.Add(0, 97, 100);
      const Options options = {.query_deviation = q};
      ExpectCloseToReference(sequences, step, options, Name(heads, type, options));
    }
  }
}

// Each position's score is 300, of a channel of its own: q's roundings do not average out, and do
// not cancel as those of a channel that all keys share would.
TEST(CudaAttention, CompetingLargeScoresKeepTheirBits) {
  Random random(8);
  const Heads heads = {1, 1, 64};
  for (const KvType type : kTypes) {
    Sequences sequences(random, type, heads, {40}, 64.0f);
    Step step;
    step.Add(0, 39, 40);
    const std::vector<float> q = Queries(sequences, step, 1.0f);
    for (int32_t position = 0; position < 40; ++position) {
      std::vector<float> key(64, 0.0f);
      const auto i = static_cast<size_t>(position);
      // A channel that hardly matters cannot come to it.
      key[i] = std::clamp(300.0f * 8.0f / q[i], -30000.0f, 30000.0f);
      sequences.PutKey(0, position, key);
    }
    const std::vector<double> expected = Reference(sequences, step, {});
    const std::vector<float> actual = Attend(sequences, step, {});
    for (size_t i = 0; i < expected.size(); ++i) {
      // Scores of 300 to 2^-20, weights to 2^-11.
      ASSERT_NEAR(actual[i], expected[i], 2 * 0x1p-11 * sequences.largest_value()) << i;
    }
  }
}

TEST(CudaAttention, AWindowOfOneReturnsItsValue) {
  Random random(4);
  const Heads heads = {2, 2, 64};
  const Sequences sequences(random, KvType::kF16, heads, {300});
  Step step;
  step.Add(0, 255, 280);
  const std::vector<float> o = Attend(sequences, step, {.window = 1});
  const std::vector<double> expected = Reference(sequences, step, {.window = 1});
  EXPECT_THAT(testing::ToDouble(o), ContainerEq(expected));
}

// The heart of it: bits of a row do not depend on its company.
TEST(CudaAttention, RowsAreTheSameBitsInAnyStep) {
  Random random(5);
  for (const Heads& heads : {Heads{2, 1, 8}, {1, 4, 64}, {1, 17, 24}}) {
    for (const KvType type : kTypes) {
      for (const int32_t window : {0, 100}) {
        if ((window == 0) == (heads.group == 1 || type == KvType::kI8)) continue;
        const Sequences sequences(random, type, heads, {290, 270, 31});
        const std::string name = Name(heads, type, {.window = window});
        Step prompt;
        prompt.Add(0, 240, 290);
        testing::SetCudaThreadOrder(0);
        const std::vector<float> expected = Attend(sequences, prompt, {.window = window});
        testing::SetCudaThreadOrder(7);
        const std::vector<float> walked =
            Attend(sequences, prompt, {.window = window, .most_partials = 0});
        ASSERT_THAT(walked, ContainerEq(expected)) << name;
        for (const auto& [begin, end] :
             {std::pair(240, 241), std::pair(253, 260), std::pair(287, 290)}) {
          Step chunk;
          chunk.Add(0, begin, end);
          const std::vector<float> rows = RowsOf(expected, prompt, chunk, sequences.row_size());
          ASSERT_THAT(Attend(sequences, chunk, {.window = window}), ContainerEq(rows))
              << name << " " << begin;
          ASSERT_THAT(Attend(sequences, chunk,
                             {.window = window,
                              .most_partials = 3,
                              .more_table_columns = 300,
                              .most_thread_blocks = 2}),
                      ContainerEq(rows))
              << name << " " << begin;
          Step mixed;
          mixed.Add(2, 30, 31);
          mixed.Add(1, 200, 202);
          mixed.Add(0, begin, end);
          mixed.Add(1, 269, 270);
          ASSERT_THAT(RowsOf(Attend(sequences, mixed, {.window = window}), mixed, chunk,
                             sequences.row_size()),
                      ContainerEq(rows))
              << name << " " << begin;
        }
      }
    }
  }
}

TEST(CudaAttention, PaddingBecomesZerosAndReadsNothing) {
  Random random(6);
  const Heads heads = {2, 2, 64};
  for (const KvType type : kTypes) {
    const Sequences sequences(random, type, heads, {40});
    Step step;
    step.Add(0, 37, 40);
    const std::vector<float> alone = Attend(sequences, step, {});
    for (int i = 0; i < 21; ++i) {
      step.positions.push_back(-1);
      step.sequence.push_back(1 << 28);
    }
    const std::vector<float> o = Attend(sequences, step, {});
    EXPECT_EQ(std::memcmp(o.data(), alone.data(), alone.size() * sizeof(float)), 0);
    EXPECT_THAT(std::span(o).subspan(alone.size()), Each(0.0f));
  }
}

// A plan serves all layers: launches leave it as it was.
TEST(CudaAttention, APlanServesManyLaunches) {
  Random random(7);
  const Heads heads = {1, 2, 64};
  const Sequences sequences(random, KvType::kF16, heads, {600});
  Step step;
  step.Add(0, 599, 600);
  const std::vector<float> expected = Attend(sequences, step, {});
  const std::vector<float> q = Queries(sequences, step, 1.0f);
  const std::vector<int32_t> tables = sequences.Tables(sequences.table_width());
  std::vector<float> o(q.size());
  cuda::AttentionArgs args = {
      .step = {.shape = {.heads = 2,
                         .kv_heads = 1,
                         .head_dim = 64,
                         .max_blocks = static_cast<int32_t>(sequences.table_width())},
               .positions = step.positions.data(),
               .sequence = step.sequence.data(),
               .tokens = 1,
               .workspace = nullptr},
      .q = q.data(),
      .type = KvType::kF16,
      .k = sequences.view().k,
      .v = sequences.view().v,
      .block_tables = tables.data(),
      .scale = 0.125f,
      .o = o.data()};
  const DeviceMemory workspace(cuda::AttentionWorkspaceBytes(args.step.shape, 1));
  args.step.workspace = workspace.data();
  ASSERT_EQ(cuda::LaunchAttentionPlan(args.step, nullptr), cudaSuccess);
  for (int layer = 0; layer < 3; ++layer) {
    std::fill(o.begin(), o.end(), -7.0f);
    ASSERT_EQ(cuda::LaunchAttention(args, nullptr), cudaSuccess);
    EXPECT_THAT(o, ContainerEq(expected)) << layer;
  }
  args.type = KvType::kFull;
  EXPECT_EQ(cuda::LaunchAttention(args, nullptr), cudaErrorInvalidValue);
  args.type = KvType::kF16;
  args.step.shape.head_dim = 60;
  EXPECT_EQ(cuda::LaunchAttention(args, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::LaunchAttentionPlan(args.step, nullptr), cudaErrorInvalidValue);
  EXPECT_EQ(cuda::AttentionWorkspaceBytes(args.step.shape, 1), 0u);
}

}  // namespace
}  // namespace sterna
