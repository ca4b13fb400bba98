#include "tests/testing/gguf_model.h"

#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/half_float.h"

namespace sterna::testing {
namespace {

// Numbers of tensor types.
constexpr uint32_t kF32 = 0, kF16 = 1;

std::string FloatBytes(std::span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

class Writer {
 public:
  Writer(const Checkpoint& checkpoint, std::string architecture, GgufPacking packing)
      : config_(checkpoint.config),
        weights_(checkpoint.weights),
        architecture_(std::move(architecture)),
        packing_(packing) {}

  GgufContents Write() {
    WriteMetadata();
    Table("token_embd", weights_.embedding, weights_.ternary_embedding);
    if (!config_.tie_embeddings) Table("output", weights_.head, weights_.untied_ternary_head);
    Vector("output_norm.weight", weights_.final_norm.span());
    for (size_t i = 0; i < weights_.layers.size(); ++i) {
      WriteLayer(absl::StrCat("blk.", i, "."), weights_.layers[i]);
    }
    return std::move(contents_);
  }

 private:
  template <typename T>
  void Number(const std::string& key, T value) {
    contents_.metadata.emplace_back(absl::StrCat(architecture_, ".", key), GgufNumber(value));
  }

  void WriteMetadata() {
    contents_.metadata.emplace_back("general.architecture", GgufText(architecture_));
    Number("embedding_length", static_cast<uint32_t>(config_.hidden_size));
    Number("feed_forward_length", static_cast<uint32_t>(config_.ffn_size));
    Number("block_count", static_cast<uint32_t>(config_.num_layers));
    Number("attention.head_count", static_cast<uint32_t>(config_.num_heads));
    Number("attention.head_count_kv", static_cast<uint32_t>(config_.num_kv_heads));
    Number("attention.key_length", static_cast<uint32_t>(config_.head_dim));
    Number("attention.value_length", static_cast<uint32_t>(config_.head_dim));
    Number("context_length", static_cast<uint32_t>(config_.max_positions));
    Number("attention.layer_norm_rms_epsilon", static_cast<float>(config_.rms_norm_eps));
    Number("rope.freq_base", static_cast<float>(config_.rope.theta));
    if (config_.rope.scaling != RopeScaling::kYarn) return;
    contents_.metadata.emplace_back(architecture_ + ".rope.scaling.type", GgufText("yarn"));
    Number("rope.scaling.factor", static_cast<float>(config_.rope.factor));
    Number("rope.scaling.original_context_length",
           static_cast<uint32_t>(config_.rope.original_max_positions));
  }

  void Add(const std::string& name, uint32_t type, std::vector<uint64_t> dims, std::string bytes) {
    contents_.tensors.push_back(
        {.name = name, .type = type, .dims = std::move(dims), .bytes = std::move(bytes)});
  }
  void Vector(const std::string& name, std::span<const float> values) {
    Add(name, kF32, {values.size()}, FloatBytes(values));
  }
  void VectorIf(const std::string& name, const WeightVector& values) {
    if (!values.empty()) Vector(name, values.span());
  }
  void Dense(const std::string& name, const DenseMatrix& matrix) {
    std::vector<float> values(static_cast<size_t>(matrix.rows * matrix.cols));
    for (int64_t row = 0; row < matrix.rows; ++row) {
      matrix.CopyRow(row, values.data() + row * matrix.cols);
    }
    Add(name + ".weight", kF32,
        {static_cast<uint64_t>(matrix.cols), static_cast<uint64_t>(matrix.rows)},
        FloatBytes(values));
  }

  // Which row of ours is row `row` of q and k in the file: in architecture llama, what is rotated
  // together lies together.
  int64_t OurRow(int64_t row, bool rotated) const {
    const int64_t half = config_.head_dim / 2;
    if (!rotated || architecture_ != "llama") return row;
    const int64_t head = row / config_.head_dim;
    const int64_t pair = row % config_.head_dim / 2;
    return head * config_.head_dim + pair + (row % 2 == 0 ? 0 : half);
  }

  void Table(const std::string& name, const DenseMatrix& dense, const TernaryMatrix& ternary) {
    if (ternary.empty()) return Dense(name, dense);
    Ternary(name, ternary, false);
  }

  void Ternary(const std::string& name, const TernaryMatrix& w, bool rotated) {
    std::vector<uint8_t> codes;
    std::vector<float> values;
    const int64_t group = GroupOf(packing_, w.cols());
    std::vector<float> scales;
    for (int64_t row = 0; row < w.rows(); ++row) {
      const int64_t ours = OurRow(row, rotated);
      for (int64_t col = 0; col < w.cols(); ++col) {
        codes.push_back(static_cast<uint8_t>(w.At(ours, col) + 1));
        const float scale = w.granularity() == ScaleGranularity::kTensor
                                ? static_cast<float>(w.tensor_scale())
                                : w.scale(ours, col / w.group_size());
        values.push_back(static_cast<float>(w.At(ours, col)) * scale);
        if (col % group == 0) scales.push_back(scale);
      }
    }
    Add(name + ".weight", TypeOf(packing_),
        {static_cast<uint64_t>(w.cols()), static_cast<uint64_t>(w.rows())},
        Pack(codes, scales, values));
  }

  void Linear(const std::string& name, const TernaryLinearWeights& linear, bool rotated) {
    Ternary(name, linear.w, rotated);
    if (linear.bias.empty()) return;
    std::vector<float> bias;
    for (int64_t row = 0; row < linear.w.rows(); ++row) {
      bias.push_back(linear.bias.span()[OurRow(row, rotated)]);
    }
    Vector(name + ".bias", bias);
  }

  static int64_t GroupOf(GgufPacking packing, int64_t cols) {
    switch (packing) {
      case GgufPacking::kTq1_0:
      case GgufPacking::kTq2_0:
        return 256;
      case GgufPacking::kQ2_0Group64:
        return 64;
      case GgufPacking::kQ2_0Group128:
        return 128;
      default:
        return cols;
    }
  }
  static uint32_t TypeOf(GgufPacking packing) {
    switch (packing) {
      case GgufPacking::kTq1_0:
        return 34;
      case GgufPacking::kTq2_0:
        return 35;
      case GgufPacking::kQ2_0Group64:
      case GgufPacking::kQ2_0Group128:
        return 42;
      case GgufPacking::kI2sX86:
      case GgufPacking::kI2sArm:
        return 36;
      case GgufPacking::kF16:
        return kF16;
    }
    STERNA_CHECK(false);
  }
  std::string Pack(std::span<const uint8_t> codes, std::span<const float> scales,
                   std::span<const float> values) const {
    switch (packing_) {
      case GgufPacking::kTq1_0:
        return PackTq1_0(codes, scales);
      case GgufPacking::kTq2_0:
        return PackTq2_0(codes, scales);
      case GgufPacking::kQ2_0Group64:
        return PackQ2_0(codes, scales, 64);
      case GgufPacking::kQ2_0Group128:
        return PackQ2_0(codes, scales, 128);
      case GgufPacking::kI2sX86:
        return PackI2s(codes, scales[0], 128);
      case GgufPacking::kI2sArm:
        return PackI2s(codes, scales[0], 64);
      case GgufPacking::kF16: {
        std::string bytes(values.size() * 2, '\0');
        for (size_t i = 0; i < values.size(); ++i) {
          const uint16_t half = FloatToHalf(values[i]);
          std::memcpy(bytes.data() + 2 * i, &half, sizeof(half));
        }
        return bytes;
      }
    }
    STERNA_CHECK(false);
  }

  void WriteLayer(const std::string& prefix, const LayerWeights& layer) {
    Vector(prefix + "attn_norm.weight", layer.input_norm.span());
    Linear(prefix + "attn_q", layer.q, true);
    Linear(prefix + "attn_k", layer.k, true);
    Linear(prefix + "attn_v", layer.v, false);
    Linear(prefix + "attn_output", layer.o, false);
    VectorIf(prefix + "attn_q_norm.weight", layer.q_norm);
    VectorIf(prefix + "attn_k_norm.weight", layer.k_norm);
    VectorIf(prefix + "attn_sub_norm.weight", layer.attn_sub_norm);
    Vector(prefix + "ffn_norm.weight", layer.post_attention_norm.span());
    Linear(prefix + "ffn_gate", layer.gate, false);
    Linear(prefix + "ffn_up", layer.up, false);
    Linear(prefix + "ffn_down", layer.down, false);
    VectorIf(prefix + "ffn_sub_norm.weight", layer.ffn_sub_norm);
  }

  const ModelConfig& config_;
  const ModelWeights& weights_;
  const std::string architecture_;
  const GgufPacking packing_;
  GgufContents contents_;
};

}  // namespace

GgufContents GgufModelOf(const Checkpoint& checkpoint, const std::string& architecture,
                         GgufPacking packing) {
  return Writer(checkpoint, architecture, packing).Write();
}

}  // namespace sterna::testing
