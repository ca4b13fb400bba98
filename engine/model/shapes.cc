#include "engine/model/shapes.h"

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

struct Preset {
  std::string_view name;
  CheckpointFamily family;
  std::string_view model_type;
  int64_t hidden, ffn, layers, heads, kv_heads, head_dim, vocab, positions;
  double eps, theta;
  Activation activation;
  bool tied;
};

constexpr Preset kPresets[] = {
    {"2b-4t", CheckpointFamily::kBitNetPacked, "bitnet", 2560, 6912, 30, 20, 5, 128, 128256, 4096,
     1e-5, 500000, Activation::kReluSquared, true},
    {"llama3-8b", CheckpointFamily::kBitLinear, "llama", 4096, 14336, 32, 32, 8, 128, 128256, 8192,
     1e-5, 500000, Activation::kSilu, false},
    {"bitnet-large", CheckpointFamily::kInnerNorms, "llama", 1536, 4096, 24, 16, 16, 96, 32002,
     2048, 1e-5, 10000, Activation::kSilu, true},
    {"falcon3-1b", CheckpointFamily::kBitLinear, "llama", 2048, 8192, 18, 8, 4, 256, 131072, 8192,
     1e-6, 1000042, Activation::kSilu, false},
    {"falcon3-3b", CheckpointFamily::kBitLinear, "llama", 3072, 9216, 22, 12, 4, 256, 131072, 32768,
     1e-6, 1000042, Activation::kSilu, false},
    {"falcon3-7b", CheckpointFamily::kBitLinear, "llama", 3072, 23040, 28, 12, 4, 256, 131080,
     32768, 1e-6, 1000042, Activation::kSilu, false},
    {"falcon3-10b", CheckpointFamily::kBitLinear, "llama", 3072, 23040, 40, 12, 4, 256, 131072,
     32768, 1e-6, 1000042, Activation::kSilu, false},
    {"bonsai-1.7b", CheckpointFamily::kGrouped, "qwen3", 2048, 6144, 28, 16, 8, 128, 151936, 32768,
     1e-6, 1000000, Activation::kSilu, true},
    {"bonsai-4b", CheckpointFamily::kGrouped, "qwen3", 2560, 9728, 36, 32, 8, 128, 151936, 32768,
     1e-6, 1000000, Activation::kSilu, true},
    {"bonsai-8b", CheckpointFamily::kGrouped, "qwen3", 4096, 12288, 36, 32, 8, 128, 151936, 65536,
     1e-6, 1000000, Activation::kSilu, false},
};

// Columns that share a scale in family E.
constexpr int64_t kBonsaiGroup = 128;

}  // namespace

std::vector<std::string_view> ShapePresetNames() {
  std::vector<std::string_view> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

StatusOr<ModelConfig> ShapePreset(std::string_view name) {
  for (const Preset& preset : kPresets) {
    if (preset.name != name) continue;
    ModelConfig config;
    config.family = preset.family;
    config.model_type = preset.model_type;
    config.hidden_size = preset.hidden;
    config.ffn_size = preset.ffn;
    config.num_layers = preset.layers;
    config.num_heads = preset.heads;
    config.num_kv_heads = preset.kv_heads;
    config.head_dim = preset.head_dim;
    config.vocab_size = preset.vocab;
    config.max_positions = preset.positions;
    config.rms_norm_eps = preset.eps;
    config.rope.theta = preset.theta;
    config.activation = preset.activation;
    config.tie_embeddings = preset.tied;
    if (preset.family == CheckpointFamily::kGrouped) {
      config.qk_norm = true;
      config.scale_group_size = kBonsaiGroup;
    }
    return config;
  }
  std::string known;
  for (const std::string_view preset : ShapePresetNames()) known.append(" ").append(preset);
  return absl::InvalidArgumentError(
      absl::StrCat("no shape is called '", std::string(name), "'; there are", known));
}

}  // namespace sterna
