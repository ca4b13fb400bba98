// MakeRandomWeights: models of any shape in a second or two, for benchmarks and tests.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/thread_pool.h"
#include "engine/model/load_threads.h"
#include "engine/model/weights.h"

namespace sterna {
namespace {

// SplitMix64 (Steele, Lea, Flood 2014): a counter through a mixing function, so streams of
// different tensors need no common state.
class SplitMix64 {
 public:
  explicit SplitMix64(uint64_t seed) : state_(seed) {}
  // Goes on as after `numbers` calls of Next.
  void Skip(uint64_t numbers) { state_ += numbers * kStep; }
  uint64_t Next() {
    uint64_t z = state_ += kStep;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

 private:
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15;
  uint64_t state_;
};

// The generator of tensor `index` of layer `layer`; -1 is the part outside the layers.
SplitMix64 TensorStream(uint64_t seed, int64_t layer, int index) {
  SplitMix64 mix(seed);
  return SplitMix64(mix.Next() ^ SplitMix64(static_cast<uint64_t>(layer * 64 + index)).Next());
}

// All bytes of four valid codes, by their number in base three.
constexpr int kFourCodes = 81;
constexpr std::array<uint8_t, kFourCodes> MakeCodeBytes() {
  std::array<uint8_t, kFourCodes> bytes{};
  for (int n = 0; n < kFourCodes; ++n) {
    bytes[n] = static_cast<uint8_t>(n % 3 | n / 3 % 3 << 2 | n / 9 % 3 << 4 | n / 27 << 6);
  }
  return bytes;
}
constexpr std::array<uint8_t, kFourCodes> kCodeBytes = MakeCodeBytes();

// `group_size` as ModelConfig has it.
TernaryMatrix RandomTernary(int64_t rows, int64_t cols, int64_t group_size, SplitMix64 random) {
  TernaryMatrix w(rows, cols);
  std::vector<uint8_t> bytes(static_cast<size_t>(cols));
  uint64_t bits = 0;
  for (int64_t row = 0; row < rows; row += 4) {  // a byte has the codes of four rows
    for (size_t c = 0; c < bytes.size(); ++c) {
      bits = c % 4 == 0 ? random.Next() : bits >> 16;
      bytes[c] = kCodeBytes[(bits & 0xffff) * kFourCodes >> 16];
    }
    for (int i = 0; i < 4 && row + i < rows; ++i) w.SetRowCodes(row + i, bytes, 2 * i);
  }
  // Two thirds of the weights are one in magnitude: this keeps the variance of what goes through.
  const double scale = 1.0 / std::sqrt(2.0 / 3.0 * static_cast<double>(cols));
  if (group_size == 0) {
    w.SetTensorScale(scale);
    return w;
  }
  std::vector<float> scales(static_cast<size_t>(rows * CeilDiv(cols, group_size)));
  for (float& s : scales) {
    // From half as much to one and a half times.
    const double unit = std::ldexp(static_cast<double>(random.Next() >> 11), -53);
    s = static_cast<float>(scale * (0.5 + unit));
  }
  w.SetGroupScales(scales, group_size);
  return w;
}

// BF16 values of either sign with magnitudes in [1/128, 1/64), in kTiles.
DenseMatrix RandomBf16(int64_t rows, int64_t cols, SplitMix64 random, ThreadPool& pool,
                       std::vector<AlignedBuffer<uint8_t>>& buffers) {
  constexpr uint64_t kSignsAndMantissas = 0x807f'807f'807f'807f;
  constexpr uint64_t kExponents = 0x3c00'3c00'3c00'3c00;  // 2^-7 in four bf16
  const auto make_row = [&](int64_t row, std::span<uint16_t> values) {
    SplitMix64 row_random = random;
    row_random.Skip(static_cast<uint64_t>(row) * ((values.size() + 3) / 4));
    for (size_t i = 0; i < values.size(); i += 4) {
      const uint64_t four = (row_random.Next() & kSignsAndMantissas) | kExponents;
      std::memcpy(&values[i], &four,
                  std::min(sizeof(four), (values.size() - i) * sizeof(uint16_t)));
    }
  };
  return MakeDenseTiles(rows, cols, pool, make_row, buffers);
}

std::vector<float> Ones(int64_t size) {
  return std::vector<float>(static_cast<size_t>(size), 1.0f);
}

TernaryLinearWeights RandomLinear(const ModelConfig& config, int64_t rows, int64_t cols, bool bias,
                                  SplitMix64 random) {
  TernaryLinearWeights linear;
  linear.w = RandomTernary(rows, cols, config.scale_group_size, SplitMix64(random.Next()));
  if (bias) {
    std::vector<float> values;
    for (int64_t i = 0; i < rows; ++i) {
      // Uniform in [-1/16, 1/16).
      const double unit = std::ldexp(static_cast<double>(random.Next() >> 11), -53);
      values.push_back(static_cast<float>((unit - 0.5) / 8));
    }
    linear.bias = std::move(values);
  }
  if (config.linear_rms_norm) linear.in_norm = Ones(cols);
  return linear;
}

LayerWeights RandomLayer(const ModelConfig& config, uint64_t seed, int64_t number, bool sub_norms) {
  const int64_t hidden = config.hidden_size;
  const int64_t ffn = config.ffn_size;
  const int64_t heads = config.num_heads * config.head_dim;
  const int64_t kv_heads = config.num_kv_heads * config.head_dim;
  const auto linear = [&](int index, int64_t rows, int64_t cols, bool bias) {
    return RandomLinear(config, rows, cols, bias, TensorStream(seed, number, index));
  };
  LayerWeights layer;
  layer.input_norm = Ones(hidden);
  layer.q = linear(0, heads, hidden, config.attention_bias);
  layer.k = linear(1, kv_heads, hidden, config.attention_bias);
  layer.v = linear(2, kv_heads, hidden, config.attention_bias);
  layer.o = linear(3, hidden, heads, config.attention_bias);
  if (config.qk_norm) {
    layer.q_norm = Ones(config.head_dim);
    layer.k_norm = Ones(config.head_dim);
  }
  layer.post_attention_norm = Ones(hidden);
  layer.gate = linear(4, ffn, hidden, config.mlp_bias);
  layer.up = linear(5, ffn, hidden, config.mlp_bias);
  layer.down = linear(6, hidden, ffn, config.mlp_bias);
  if (sub_norms) {
    layer.attn_sub_norm = Ones(heads);
    layer.ffn_sub_norm = Ones(ffn);
  }
  return layer;
}

void MakeTernaryEmbeddingAndHead(const ModelConfig& config, uint64_t seed, ModelWeights& weights) {
  const auto make = [&](int index) {
    return RandomTernary(config.vocab_size, config.hidden_size, config.scale_group_size,
                         TensorStream(seed, -1, index));
  };
  weights.ternary_embedding = make(0);
  if (!config.tie_embeddings) weights.untied_ternary_head = make(1);
}

void MakeDenseEmbeddingAndHead(const ModelConfig& config, uint64_t seed, const HeadOptions& head,
                               ThreadPool& pool, ModelWeights& weights) {
  weights.embedding = RandomBf16(config.vocab_size, config.hidden_size, TensorStream(seed, -1, 0),
                                 pool, weights.buffers);
  weights.head = weights.embedding;
  std::vector<AlignedBuffer<uint8_t>> passing;
  if (!config.tie_embeddings) {
    weights.head = RandomBf16(config.vocab_size, config.hidden_size, TensorStream(seed, -1, 1),
                              pool, head.type == HeadType::kInt8 ? passing : weights.buffers);
  }
  if (head.type == HeadType::kInt8) {
    const auto read_row = [bf16 = weights.head](int64_t row, std::span<float> values) {
      bf16.CopyRow(row, values.data());
    };
    StatusOr<DenseMatrix> int8 =
        MakeInt8Tiles(config.vocab_size, config.hidden_size, pool, read_row, weights.buffers);
    STERNA_CHECK(int8.ok());  // the values are finite and no config has as many columns
    weights.head = *int8;
  }
  STERNA_CHECK(AddShortlist(head, pool, weights).ok());
}

}  // namespace

ModelWeights MakeRandomWeights(const ModelConfig& config, uint64_t seed, bool sub_norms,
                               const HeadOptions& head) {
  ModelWeights weights;
  ThreadPool pool(NumLoadThreads());
  weights.tied = config.tie_embeddings;
  if (config.family == CheckpointFamily::kGrouped) {
    STERNA_CHECK(CheckTernaryHead(head).ok());
    MakeTernaryEmbeddingAndHead(config, seed, weights);
  } else {
    MakeDenseEmbeddingAndHead(config, seed, head, pool, weights);
  }
  weights.final_norm = Ones(config.hidden_size);
  weights.layers.resize(static_cast<size_t>(config.num_layers));
  pool.ParallelFor(config.num_layers, [&](int64_t i) {
    weights.layers[static_cast<size_t>(i)] = RandomLayer(config, seed, i, sub_norms);
  });
  return weights;
}

}  // namespace sterna
