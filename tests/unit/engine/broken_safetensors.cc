// Faults of Hugging Face directories.
#include <filesystem>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mapped_file.h"
#include "engine/model/safetensors.h"
#include "tests/testing/paths.h"
#include "tests/unit/engine/broken_checkpoints.h"

namespace sterna::testing {
namespace {

using Json = nlohmann::json;
using enum CheckpointFamily;
using enum LintFinding::Severity;

constexpr int64_t kTokenizerVocab = 426;  // of the tokenizer below
constexpr int64_t kVocab = 432;
constexpr int32_t kEnd = 421;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr char kUp[] = "model.layers.1.mlp.up_proj.weight";
constexpr char kUpScale[] = "model.layers.1.mlp.up_proj.weight_scale";
constexpr char kEmbedding[] = "model.embed_tokens.weight";
constexpr char kHead[] = "lm_head.weight";
constexpr char kNorm[] = "model.layers.1.input_layernorm.weight";
constexpr char kFile[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

std::string ReadGolden(const std::string& name) {
  const auto text = ReadTextFile(SourcePath("tests/golden/data/tokenizers/llama3_like/" + name));
  STERNA_CHECK(text.ok());
  return *text;
}

// A checkpoint with its tokenizer, before and after it is written.
struct Directory {
  TestCheckpoint checkpoint;
  Json tokenizer_config;
  std::string tokenizer = ReadGolden("tokenizer.json");
  // What is done to the files.
  std::function<void(const TempDir& dir)> damage = [](const TempDir&) {};

  Json& config() { return checkpoint.config; }
  TensorData& tensor(const std::string& name) {
    STERNA_CHECK(checkpoint.tensors.contains(name));
    return checkpoint.tensors[name];
  }
  void SetFloats(const std::string& name, const std::vector<float>& values) {
    tensor(name) = FloatTensor("F32", tensor(name).shape, values);
  }
  // All values of a vector or a matrix.
  void Fill(const std::string& name, float value) {
    int64_t size = 1;
    for (const int64_t n : tensor(name).shape) size *= n;
    SetFloats(name, std::vector<float>(static_cast<size_t>(size), value));
  }
  // One value; the tensor is F32.
  void Poke(const std::string& name, size_t index, float value) {
    STERNA_CHECK(tensor(name).dtype == "F32");
    tensor(name).bytes.replace(index * sizeof(value), sizeof(value),
                               reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void ResizeVocabulary(int64_t size) {
    config()["vocab_size"] = size;
    for (const char* name : {kEmbedding, kHead}) {
      if (!checkpoint.tensors.contains(name)) continue;
      tensor(name) = FloatTensor("F32", {size, kLargerHidden},
                                 Values(size * kLargerHidden, name == kHead ? -0.5f : 0.5f));
    }
  }
};

Directory Good(CheckpointFamily family) {
  Directory good{.checkpoint = family == kGrouped ? GroupedTest(64) : LargerTest(family),
                 .tokenizer_config = Json::parse(ReadGolden("tokenizer_config.json"))};
  good.config()["eos_token_id"] = kEnd;
  good.ResizeVocabulary(kVocab);
  good.tokenizer_config["chat_template"] =
      "{{ bos_token }}{% for m in messages %}{{ m['content'] }}<|end|>{% endfor %}";
  return good;
}

std::string Write(const Directory& directory, const TempDir& dir) {
  dir.Write("config.json", directory.checkpoint.config.dump());
  dir.Write("tokenizer.json", directory.tokenizer);
  dir.Write("tokenizer_config.json", directory.tokenizer_config.dump());
  dir.Write(kFile, SafetensorsFileBytes(directory.checkpoint.tensors));
  directory.damage(dir);
  return dir.path();
}

Fault MakeFault(const std::string& name, CheckpointFamily family, LintFinding::Severity severity,
                std::vector<std::string> messages, std::function<void(Directory&)> apply) {
  return {.name = absl::StrCat(std::string(FamilyName(family)), ": ", name),
          .severity = severity,
          .messages = std::move(messages),
          .make = [family, apply = std::move(apply)](const TempDir& dir) {
            Directory directory = Good(family);
            apply(directory);
            return Write(directory, dir);
          }};
}

std::string ReadBytes(const TempDir& dir, const std::string& name) {
  const auto file = MappedFile::Open(dir.path() + "/" + name);
  STERNA_CHECK(file.ok());
  return {file->bytes().begin(), file->bytes().end()};
}

// Has the header of the file changed, its data not.
std::function<void(Directory&)> EditHeader(std::function<void(Json&)> edit) {
  return [edit = std::move(edit)](Directory& directory) {
    directory.damage = [edit](const TempDir& dir) {
      const std::string bytes = ReadBytes(dir, kFile);
      uint64_t size = 0;
      bytes.copy(reinterpret_cast<char*>(&size), sizeof(size));
      Json header = Json::parse(bytes.substr(sizeof(size), size));
      edit(header);
      dir.Write(kFile, SafetensorsBytes(header.dump(), bytes.substr(sizeof(size) + size)));
    };
  };
}

// Replaces the bytes of the file.
std::function<void(Directory&)> EditBytes(std::function<std::string(std::string)> edit) {
  return [edit = std::move(edit)](Directory& directory) {
    directory.damage = [edit](const TempDir& dir) {
      dir.Write(kFile, edit(ReadBytes(dir, kFile)));
    };
  };
}

// Has the weights in shards, as `index` says; the only shard there is has all tensors.
std::function<void(Directory&)> Sharded(std::function<void(Json& weight_map)> edit) {
  return [edit = std::move(edit)](Directory& directory) {
    directory.damage = [edit](const TempDir& dir) {
      dir.Write("all.safetensors", ReadBytes(dir, kFile));
      std::filesystem::remove(dir.path() + "/" + kFile);
      const auto file = SafetensorsFile::Open(dir.path() + "/all.safetensors");
      STERNA_CHECK(file.ok());
      Json map = Json::object();
      for (const auto& [name, view] : file->tensors()) map[name] = "all.safetensors";
      edit(map);
      dir.Write(kIndex, Json{{"weight_map", map}}.dump());
    };
  };
}

void AddFaultsOfFiles(std::vector<Fault>& faults) {
  const auto add = [&](const std::string& name, std::vector<std::string> messages,
                       std::function<void(Directory&)> apply) {
    faults.push_back(MakeFault(name, kBitNetPacked, kError, std::move(messages), std::move(apply)));
  };
  add("truncated file", {kFile, "truncated"},
      EditBytes([](std::string bytes) { return bytes.substr(0, bytes.size() * 6 / 10); }));
  add("empty file", {kFile}, EditBytes([](const std::string&) { return std::string(); }));
  add("header length of 2^60", {kFile, "1152921504606846976"}, EditBytes([](std::string bytes) {
        const uint64_t size = uint64_t{1} << 60;
        return bytes.replace(0, 8, reinterpret_cast<const char*>(&size), 8);
      }));
  add("header is no JSON", {kFile},
      EditBytes([](std::string bytes) { return bytes.replace(8, 1, "["); }));
  add("name twice in the header", {kFile, kNorm}, EditBytes([](const std::string& bytes) {
        uint64_t size = 0;
        bytes.copy(reinterpret_cast<char*>(&size), sizeof(size));
        const Json header = Json::parse(bytes.substr(8, size));
        const std::string twice =
            absl::StrCat("{\"", kNorm, "\":", header[kNorm].dump(), ",", header.dump().substr(1));
        return SafetensorsBytes(twice, bytes.substr(8 + size));
      }));
  add("offsets overlap", {kFile, "model.layers."}, EditHeader([](Json& header) {
        header[kNorm]["data_offsets"] =
            header["model.layers.0.input_layernorm.weight"]["data_offsets"];
      }));
  add("offsets past the end", {kFile, kNorm}, EditHeader([](Json& header) {
        header[kNorm]["data_offsets"] = {int64_t{1} << 40, (int64_t{1} << 40) + 1024};
      }));
  add("type of another size", {kFile, kNorm},
      EditHeader([](Json& header) { header[kNorm]["dtype"] = "BF16"; }));
  add("type of the same size", {kFile, kNorm, "I32"},
      EditHeader([](Json& header) { header[kNorm]["dtype"] = "I32"; }));
  add("type of a later version", {kFile, kNorm, "F8_E8M0"},
      EditHeader([](Json& header) { header[kNorm]["dtype"] = "F8_E8M0"; }));
  add("more tensors than any model has", {kFile, "more than 65536 tensors"},
      EditBytes([](const std::string& bytes) {
        uint64_t size = 0;
        bytes.copy(reinterpret_cast<char*>(&size), sizeof(size));
        std::string header = "{";
        for (int i = 0; i < 200'000; ++i) {
          absl::StrAppend(&header, "\"x", i,
                          R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)");
        }
        return SafetensorsBytes(header + bytes.substr(9, size - 1), bytes.substr(8 + size));
      }));
  add("shape of 2^62 elements", {kFile, kNorm}, EditHeader([](Json& header) {
        header[kNorm]["shape"] = {1 << 30, 1 << 30, 4};
      }));
  add("shape transposed", {kUp, "[256, 128]", "[128, 256]"}, EditHeader([](Json& header) {
        header[kUp]["shape"] = {256, 128};
      }));
  add("no weights at all", {kFile}, [](Directory& d) {
    d.damage = [](const TempDir& dir) { std::filesystem::remove(dir.path() + "/" + kFile); };
  });
  add("index names a shard that is not there", {"other.safetensors"},
      Sharded([](Json& map) { map[kNorm] = "other.safetensors"; }));
  add("index names a path", {kIndex, "../all.safetensors"},
      Sharded([](Json& map) { map[kNorm] = "../all.safetensors"; }));
  add("shard lacks a tensor of the index", {"all.safetensors", "model.extra"},
      Sharded([](Json& map) { map["model.extra"] = "all.safetensors"; }));
}

void AddFaultsOfPackedWeights(std::vector<Fault>& faults) {
  const auto add = [&](const std::string& name, LintFinding::Severity severity,
                       std::vector<std::string> messages, std::function<void(Directory&)> apply) {
    faults.push_back(
        MakeFault(name, kBitNetPacked, severity, std::move(messages), std::move(apply)));
  };
  const auto fill = [](char byte) {
    return [byte](Directory& d) { d.tensor(kUp).bytes.assign(d.tensor(kUp).bytes.size(), byte); };
  };
  add("code 3", kError, {kUp, "code 3"}, [](Directory& d) { d.tensor(kUp).bytes[1000] = 0x31; });
  add("weights all zero", kError, {kUp, "all its weights are zero"}, fill(0x55));
  add("weights all +1", kError, {kUp, "all its weights are +1"}, fill('\xaa'));
  add("weights all -1", kError, {kUp, "all its weights are -1"}, fill(0));
  add("weights of one sign", kError, {kUp, "no weight +1"}, [](Directory& d) {
    for (char& byte : d.tensor(kUp).bytes) byte = static_cast<char>(byte & 0x55);
  });
  add("half the bytes zeroed", kWarning, {kUp, "weights -1"}, [](Directory& d) {
    std::string& bytes = d.tensor(kUp).bytes;
    bytes.replace(0, bytes.size() / 2, bytes.size() / 2, '\0');
  });
  add("nearly all weights zero", kWarning, {kUp, "weights are zero"}, [](Directory& d) {
    std::string& bytes = d.tensor(kUp).bytes;
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i % 16 == 0 ? bytes[i] : '\x55';
  });
  add("rows zeroed", kWarning, {kUp, "rows are all zero"}, [](Directory& d) {
    std::string& bytes = d.tensor(kUp).bytes;
    bytes.replace(0, bytes.size() / 2, bytes.size() / 2, '\x55');
  });
  add("columns zeroed", kWarning, {kUp, "columns are all zero"}, [](Directory& d) {
    std::string& bytes = d.tensor(kUp).bytes;
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = i % 256 < 100 ? '\x55' : bytes[i];
  });
  add("a matrix copied over another", kWarning,
      {kUp, "the very weights of 'model.layers.0.mlp.up_proj.weight'"},
      [](Directory& d) { d.tensor(kUp) = d.tensor("model.layers.0.mlp.up_proj.weight"); });
  for (const float scale : {kNan, kInf, 0.0f, -0.375f}) {
    add(absl::StrCat("scale ", scale), kError, {kUpScale},
        [scale](Directory& d) { d.tensor(kUpScale) = OneFloat(scale); });
  }
  add("no scale", kError, {kUpScale}, [](Directory& d) { d.checkpoint.tensors.erase(kUpScale); });
  add("scale inverted", kWarning, {kUpScale, "the inverse, 0.01,", "convention"},
      [](Directory& d) { d.tensor(kUpScale) = OneFloat(100); });
  add("scale absurd", kWarning, {kUpScale, "1e+20", "have about 0.0625"},
      [](Directory& d) { d.tensor(kUpScale) = OneFloat(1e20f); });
  faults.push_back(MakeFault("linear_class of another convention", kBitLinear, kWarning,
                             {"weight_scale", "convention"}, [](Directory& d) {
                               for (auto& [name, tensor] : d.checkpoint.tensors) {
                                 if (name.ends_with("weight_scale")) tensor = OneFloat(100);
                               }
                               Json& quantisation = d.config()["quantization_config"];
                               quantisation["linear_class"] = "autobitlinear";
                               quantisation["quantization_mode"] = "offline";
                             }));
}

void AddFaultsOfOtherTensors(std::vector<Fault>& faults) {
  const auto add = [&](const std::string& name, CheckpointFamily family,
                       LintFinding::Severity severity, std::vector<std::string> messages,
                       std::function<void(Directory&)> apply) {
    faults.push_back(MakeFault(name, family, severity, std::move(messages), std::move(apply)));
  };
  const std::string sub_norm = "model.layers.1.self_attn.attn_sub_norm.weight";
  const std::string inner_norm = "model.layers.1.self_attn.inner_attn_ln.weight";
  add("no sub-norm", kBitNetPacked, kError, {sub_norm},
      [=](Directory& d) { d.checkpoint.tensors.erase(sub_norm); });
  add("sub-norm of another family", kInnerNorms, kError, {inner_norm}, [=](Directory& d) {
    d.checkpoint.tensors[sub_norm] = d.tensor(inner_norm);
    d.checkpoint.tensors.erase(inner_norm);
  });
  add("sub-norms where there are none", kBitLinear, kError, {sub_norm},
      [=](Directory& d) { d.checkpoint.tensors[sub_norm] = d.tensor(kNorm); });
  add("norm not finite", kBitNetPacked, kError, {kNorm, "nan"},
      [](Directory& d) { d.Poke(kNorm, 7, kNan); });
  add("norm all zero", kBitNetPacked, kError, {kNorm, "all its values are zero"},
      [](Directory& d) { d.Fill(kNorm, 0); });
  add("norm mostly zero", kBitNetPacked, kWarning, {kNorm, "200 of its 256 values are zero"},
      [](Directory& d) {
        for (size_t i = 0; i < 200; ++i) d.Poke(kNorm, i, 0);
      });
  add("norm absurd", kBitNetPacked, kWarning, {kNorm, "1e+06"},
      [](Directory& d) { d.Poke(kNorm, 7, 1e6f); });
  add("a layer too many", kBitNetPacked, kError, {"model.layers.2."}, [](Directory& d) {
    d.checkpoint.tensors["model.layers.2.input_layernorm.weight"] = d.tensor(kNorm);
  });
  add("a layer too few", kBitNetPacked, kError, {"model.layers.2."},
      [](Directory& d) { d.config()["num_hidden_layers"] = 3; });
  add("tied, and another head", kBitNetPacked, kError, {"tie_word_embeddings", kHead},
      [](Directory& d) {
        d.checkpoint.tensors[kHead] = d.tensor(kEmbedding);
        d.Poke(kHead, 3, 9);
      });
  add("untied without a head", kBitLinear, kError, {"tie_word_embeddings", kHead},
      [](Directory& d) { d.checkpoint.tensors.erase(kHead); });
  add("embedding not finite", kBitLinear, kError, {kEmbedding, "row 100"},
      [](Directory& d) { d.Poke(kEmbedding, 100 * kLargerHidden + 5, kNan); });
  add("head not finite", kBitLinear, kError, {kHead, "row 431"},
      [](Directory& d) { d.Poke(kHead, 432 * kLargerHidden - 1, kInf); });
  add("tied embedding not finite", kBitNetPacked, kError, {kEmbedding, "row 0"},
      [](Directory& d) { d.Poke(kEmbedding, 0, -kInf); });
  add("embedding all zero", kBitNetPacked, kError, {kEmbedding, "no token differs"},
      [](Directory& d) { d.Fill(kEmbedding, 0); });
  add("head constant", kBitLinear, kError, {kHead, "no token differs"},
      [](Directory& d) { d.Fill(kHead, 0.5f); });
  add("embedding mostly zero", kBitLinear, kWarning, {kEmbedding, "300 of its 432 rows"},
      [](Directory& d) {
        for (size_t i = 0; i < 300 * kLargerHidden; ++i) d.Poke(kEmbedding, i, 0);
      });
  add("embedding absurd", kBitLinear, kWarning, {kEmbedding, "1e+30"},
      [](Directory& d) { d.Poke(kEmbedding, 9, 1e30f); });
  add("latent weights not finite", kInnerNorms, kError, {kUp, "not finite"},
      [](Directory& d) { d.tensor(kUp).bytes.replace(100, 2, "\x00\x7c", 2); });
  add("latent weights all zero", kBitNetLatent, kError, {kUp, "all its weights are zero"},
      [](Directory& d) { d.tensor(kUp).bytes.assign(d.tensor(kUp).bytes.size(), '\0'); });
  add("scale beside latent weights", kInnerNorms, kError, {kUpScale},
      [](Directory& d) { d.checkpoint.tensors[kUpScale] = OneFloat(1); });
  add("unpacked weights in full precision", kUnpacked, kError, {kUp, "row 0"},
      [](Directory& d) { d.tensor(kUp).bytes.replace(20, 2, "\x11\x31", 2); });
  add("unpacked weights with a scale a few weights", kUnpacked, kError, {kUp, "row 2"},
      [](Directory& d) {
        std::string& bytes = d.tensor(kUp).bytes;
        for (size_t i = 0; i < 256; ++i)
          bytes.replace(2 * 512 + 2 * i, 2, i < 100 ? "\1\x30" : "\1\x31");
      });
}

void AddFaultsOfConfig(std::vector<Fault>& faults) {
  const auto add = [&](const std::string& name, std::vector<std::string> messages,
                       std::function<void(Json&)> apply, CheckpointFamily family = kBitNetPacked) {
    messages.emplace_back("config.json");
    faults.push_back(MakeFault(name, family, kError, std::move(messages),
                               [apply = std::move(apply)](Directory& d) { apply(d.config()); }));
  };
  add("field of the wrong type", {"hidden_size"}, [](Json& c) { c["hidden_size"] = "256"; });
  add("field out of range", {"num_hidden_layers"}, [](Json& c) { c["num_hidden_layers"] = -2; });
  add("field absurd", {"vocab_size"}, [](Json& c) { c["vocab_size"] = int64_t{1} << 50; });
  add("field missing", {"intermediate_size"}, [](Json& c) { c.erase("intermediate_size"); });
  add("rotary embedding unknown", {"rope_scaling", "longrope"}, [](Json& c) {
    c["rope_scaling"] = {{"rope_type", "longrope"}, {"factor", 2.0}};
  });
  add("heads do not divide", {"num_key_value_heads"},
      [](Json& c) { c["num_key_value_heads"] = 3; });
  add("head size odd", {"head_dim"}, [](Json& c) { c["head_dim"] = 63; });
  add("activation unknown", {"hidden_act"}, [](Json& c) { c["hidden_act"] = "gelu"; });
  add("quantisation unknown", {"quant_method", "gptq"},
      [](Json& c) { c["quantization_config"]["quant_method"] = "gptq"; });
  add("architecture unknown", {"model_type", "mamba"}, [](Json& c) { c["model_type"] = "mamba"; });
  add("no quantisation", {"quantization_config"}, [](Json& c) { c.erase("quantization_config"); });
  add(
      "two bits", {"weight_bits"}, [](Json& c) { c["weight_bits"] = 2; }, kInnerNorms);
  add("end token outside the vocabulary", {"eos_token_id", "431"},
      [](Json& c) { c["eos_token_id"] = 432; });
}

void AddFaultsOfGroups(std::vector<Fault>& faults) {
  const auto add = [&](const std::string& name, std::vector<std::string> messages,
                       std::function<void(Directory&)> apply) {
    faults.push_back(MakeFault(name, kGrouped, kError, std::move(messages), std::move(apply)));
  };
  const std::string q_norm = "model.layers.1.self_attn.q_norm.weight";
  add("no norm of q", {q_norm}, [=](Directory& d) { d.checkpoint.tensors.erase(q_norm); });
  add("norm of q over all heads", {q_norm, "[256]"}, [=](Directory& d) {
    d.tensor(q_norm) = FloatTensor("F32", {kLargerHidden}, Values(kLargerHidden, 1));
  });
  add("two magnitudes in a group", {kUp, "columns 64 to 127"},
      [](Directory& d) { d.Poke(kUp, 70, 0.123f); });
  add("scale not finite", {kUp, "finite"}, [](Directory& d) { d.Poke(kUp, 70, kInf); });
  add("weights in full precision", {kUp, "full precision"},
      [](Directory& d) { d.SetFloats(kUp, Values(kLargerFfn * kLargerHidden, 0.01f)); });
  add("quantised as other families are", {"quantization_config"}, [](Directory& d) {
    d.config()["quantization_config"] = {{"quant_method", "bitnet"}};
  });
  add("windows of attention", {"use_sliding_window"},
      [](Directory& d) { d.config()["use_sliding_window"] = true; });
}

void AddFaultsOfText(std::vector<Fault>& faults) {
  const auto add = [&](const std::string& name, LintFinding::Severity severity,
                       std::vector<std::string> messages, std::function<void(Directory&)> apply) {
    faults.push_back(
        MakeFault(name, kBitNetPacked, severity, std::move(messages), std::move(apply)));
  };
  add("config.json cut off", kError, {"config.json"}, [](Directory& d) {
    d.damage = [](const TempDir& dir) { dir.Write("config.json", "{\"model_type\": \"bitnet\","); };
  });
  add("no tokenizer", kError, {"tokenizer.json"}, [](Directory& d) {
    d.damage = [](const TempDir& dir) { std::filesystem::remove(dir.path() + "/tokenizer.json"); };
  });
  add("tokenizer cut off", kError, {"tokenizer.json"},
      [](Directory& d) { d.tokenizer.resize(d.tokenizer.size() / 2); });
  add("vocabulary smaller than the tokenizer", kError,
      {absl::StrCat("has ", kTokenizerVocab, " tokens"), "vocab_size is 424"},
      [](Directory& d) { d.ResizeVocabulary(424); });
  add("vocabulary of another model", kWarning, {"'tokenizer'", "426 tokens", "4096"},
      [](Directory& d) { d.ResizeVocabulary(4096); });
  add("end token that the tokenizer lacks", kWarning, {"'tokenizer'", "no token 430"},
      [](Directory& d) {
        d.config()["eos_token_id"] = {kEnd, 430};
      });
  add("no end token", kWarning, {"'tokenizer'", "eos_token_id"}, [](Directory& d) {
    d.config().erase("eos_token_id");
    d.tokenizer_config.erase("eos_token");
  });
  add("template of another model", kWarning, {"'chat template'", "'<|im_start|>'"},
      [](Directory& d) {
        d.tokenizer_config["chat_template"] =
            "{% for m in messages %}<|im_start|>{{ m['content'] }}{% endfor %}";
      });
  add("template that does not compile", kError, {"tokenizer_config.json"}, [](Directory& d) {
    d.tokenizer_config["chat_template"] = "{% for m in messages %}{{ m['content'] }}";
  });
}

}  // namespace

std::vector<Fault> SafetensorsFaults() {
  std::vector<Fault> faults;
  AddFaultsOfFiles(faults);
  AddFaultsOfPackedWeights(faults);
  AddFaultsOfOtherTensors(faults);
  AddFaultsOfConfig(faults);
  AddFaultsOfGroups(faults);
  AddFaultsOfText(faults);
  return faults;
}

std::vector<Fault> GoodSafetensors() {
  std::vector<Fault> good;
  for (const CheckpointFamily family :
       {kBitNetPacked, kBitNetLatent, kBitLinear, kInnerNorms, kUnpacked, kGrouped}) {
    good.push_back(MakeFault("good", family, kWarning, {}, [](Directory&) {}));
  }
  good.push_back(MakeFault("good, sharded", kBitNetPacked, kWarning, {}, Sharded([](Json&) {})));
  return good;
}

}  // namespace sterna::testing
