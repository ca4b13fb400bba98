// Faults of GGUF files.
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "tests/unit/engine/broken_checkpoints.h"

namespace sterna::testing {
namespace {

using enum LintFinding::Severity;

constexpr char kUp[] = "blk.1.ffn_up.weight";
constexpr char kNorm[] = "blk.1.attn_norm.weight";
constexpr char kEmbedding[] = "token_embd.weight";
constexpr char kArchitecture[] = "bitnet-b1.58";
constexpr size_t kTq1Bytes = 54;  // of a block of 256 weights, the last two of them the scale
constexpr size_t kTq2Bytes = 66;
constexpr size_t kQ2Bytes = 18;  // of 64 weights, the scale first

GgufTensorBytes& Tensor(GgufContents& contents, const std::string& name) {
  for (GgufTensorBytes& tensor : contents.tensors) {
    if (tensor.name == name) return tensor;
  }
  STERNA_CHECK(false);
}

void Set(GgufContents& contents, const std::string& key, GgufBytes value) {
  std::erase_if(contents.metadata, [&](const auto& pair) { return pair.first == key; });
  contents.metadata.emplace_back(key, std::move(value));
}

// A SentencePiece vocabulary of single letters, and of `more` than the model has.
void SetTokenizer(GgufContents& contents, int64_t more) {
  constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3;
  std::vector<GgufBytes> tokens = {GgufText("<unk>"), GgufText("<s>"), GgufText("</s>")};
  std::vector<GgufBytes> types = {GgufNumber(kUnknown), GgufNumber(kControl), GgufNumber(kControl)};
  while (std::ssize(tokens) < kLargerVocab + more) {
    tokens.push_back(GgufText(std::string(1, static_cast<char>('@' + tokens.size()))));
    types.push_back(GgufNumber(kNormal));
  }
  std::vector<GgufBytes> scores;
  for (size_t i = 0; i < tokens.size(); ++i) {
    scores.push_back(GgufNumber(-static_cast<float>(i)));
  }
  Set(contents, "tokenizer.ggml.model", GgufText("llama"));
  Set(contents, "tokenizer.ggml.tokens", GgufList(tokens));
  Set(contents, "tokenizer.ggml.token_type", GgufList(types));
  Set(contents, "tokenizer.ggml.scores", GgufList(scores));
  Set(contents, "tokenizer.ggml.eos_token_id", GgufNumber(uint32_t{2}));
}

GgufContents Good(GgufPacking packing) {
  const TempDir dir;
  const StatusOr<Checkpoint> checkpoint = LargerTest(CheckpointFamily::kBitNetPacked).Load(dir);
  STERNA_CHECK(checkpoint.ok());
  GgufContents contents = GgufModelOf(*checkpoint, kArchitecture, packing);
  SetTokenizer(contents, 0);
  return contents;
}

// Family E, in the one packing that has room for its scales.
GgufContents GoodGrouped() {
  const TempDir dir;
  const StatusOr<Checkpoint> checkpoint = GroupedTest(64).Load(dir);
  STERNA_CHECK(checkpoint.ok());
  GgufContents contents = GgufModelOf(*checkpoint, "qwen3", GgufPacking::kQ2_0Group64);
  SetTokenizer(contents, 0);
  return contents;
}

std::string OfArchitecture(const std::string& key) { return absl::StrCat(kArchitecture, ".", key); }

void PokeFloat(std::string& bytes, size_t index, float value) {
  bytes.replace(index * sizeof(value), sizeof(value), reinterpret_cast<const char*>(&value),
                sizeof(value));
}

class Faults {
 public:
  // What is done to the contents of a file.
  void Add(const std::string& name, LintFinding::Severity severity,
           std::vector<std::string> messages, std::function<void(GgufContents&)> apply,
           GgufPacking packing = GgufPacking::kTq2_0) {
    AddFile(name, severity, std::move(messages),
            [packing, apply = std::move(apply)](const TempDir& dir) {
              GgufContents contents = Good(packing);
              apply(contents);
              return dir.Write("m.gguf", GgufFileBytes(contents));
            });
  }
  // What is done to its bytes.
  void AddBytes(const std::string& name, std::vector<std::string> messages,
                std::function<std::string(std::string)> apply) {
    messages.emplace_back("m.gguf");
    AddFile(name, kError, std::move(messages), [apply = std::move(apply)](const TempDir& dir) {
      return dir.Write("m.gguf", apply(GgufFileBytes(Good(GgufPacking::kTq2_0))));
    });
  }
  // The same of one of family E.
  void AddGrouped(const std::string& name, std::vector<std::string> messages,
                  std::function<void(GgufContents&)> apply) {
    const LintFinding::Severity severity = messages.empty() ? kWarning : kError;
    AddFile(name + " in groups", severity, std::move(messages),
            [apply = std::move(apply)](const TempDir& dir) {
              GgufContents contents = GoodGrouped();
              apply(contents);
              return dir.Write("m.gguf", GgufFileBytes(contents));
            });
  }
  void AddFile(const std::string& name, LintFinding::Severity severity,
               std::vector<std::string> messages, std::function<std::string(const TempDir&)> make) {
    faults_.push_back({.name = "GGUF: " + name,
                       .severity = severity,
                       .messages = std::move(messages),
                       .make = std::move(make)});
  }
  std::vector<Fault> Take() { return std::move(faults_); }

 private:
  std::vector<Fault> faults_;
};

void AddFaultsOfFiles(Faults& faults) {
  faults.AddBytes("wrong magic", {"GGUX"},
                  [](std::string bytes) { return bytes.replace(3, 1, "X"); });
  faults.AddBytes("version 9", {"version 9"},
                  [](std::string bytes) { return bytes.replace(4, 1, "\x09"); });
  faults.AddFile("more tensors than any model has", kError, {"m.gguf", "65537 tensors"},
                 [](const TempDir& dir) {
                   GgufContents contents = Good(GgufPacking::kTq2_0);
                   for (int i = 0; i < 65'537; ++i) {
                     contents.tensors.push_back({absl::StrCat("x", i), 24, {1}, "x", {}});
                   }
                   contents.num_tensors = 65'537;
                   return dir.Write("m.gguf", GgufFileBytes(contents));
                 });
  faults.AddBytes("truncated", {"blk.1."},
                  [](std::string bytes) { return bytes.substr(0, bytes.size() / 2); });
  faults.AddBytes("truncated in the header", {"truncated"},
                  [](std::string bytes) { return bytes.substr(0, 300); });
  faults.Add("2^60 tensors", kError, {"m.gguf", "1152921504606846976 tensors"},
             [](GgufContents& c) { c.num_tensors = uint64_t{1} << 60; });
  faults.Add("2^60 metadata keys", kError, {"m.gguf", "1152921504606846976 metadata keys"},
             [](GgufContents& c) { c.num_keys = uint64_t{1} << 60; });
  faults.Add("value of type 99", kError, {"m.gguf", "'odd'", "99"},
             [](GgufContents& c) { Set(c, "odd", {.type = 99, .bytes = "xxxx"}); });
  faults.Add("array of 2^60 elements", kError, {"m.gguf", "'odd'", "1152921504606846976"},
             [](GgufContents& c) {
               GgufBytes list = GgufList({GgufNumber(uint32_t{1})});
               const uint64_t count = uint64_t{1} << 60;
               list.bytes.replace(4, 8, reinterpret_cast<const char*>(&count), 8);
               Set(c, "odd", list);
             });
  faults.Add("string of 2^60 bytes", kError, {"m.gguf", "'odd'"}, [](GgufContents& c) {
    GgufBytes text = GgufText("abc");
    const uint64_t count = uint64_t{1} << 60;
    text.bytes.replace(0, 8, reinterpret_cast<const char*>(&count), 8);
    Set(c, "odd", text);
  });
  faults.Add("metadata key twice", kError, {"m.gguf", "'general.architecture'"},
             [](GgufContents& c) { c.metadata.push_back(c.metadata.front()); });
  faults.Add("alignment 0", kError, {"m.gguf", "general.alignment"},
             [](GgufContents& c) { Set(c, "general.alignment", GgufNumber(uint32_t{0})); });
  faults.AddFile("the first of two files, alone", kError, {"m-00002-of-00002.gguf"},
                 [](const TempDir& dir) {
                   GgufContents contents = Good(GgufPacking::kTq2_0);
                   Set(contents, "split.no", GgufNumber(uint16_t{0}));
                   Set(contents, "split.count", GgufNumber(uint16_t{2}));
                   Set(contents, "split.tensors.count", GgufNumber(int32_t{60}));
                   return dir.Write("m-00001-of-00002.gguf", GgufFileBytes(contents));
                 });
  faults.Add("tensor past the end", kError, {"m.gguf", kUp},
             [](GgufContents& c) { Tensor(c, kUp).offset = uint64_t{1} << 40; });
  faults.Add("tensors overlap", kError, {"m.gguf", "overlap"},
             [](GgufContents& c) { Tensor(c, kUp).offset = 0; });
  faults.Add("tensor twice", kError, {"m.gguf", kUp},
             [](GgufContents& c) { Tensor(c, "blk.0.ffn_up.weight").name = kUp; });
  faults.Add("tensor of type 99", kError, {"m.gguf", kUp, "99"},
             [](GgufContents& c) { Tensor(c, kUp).type = 99; });
  faults.Add("rows that are no whole blocks", kError, {"m.gguf", kUp, "256"}, [](GgufContents& c) {
    Tensor(c, kUp).dims = {128, 1024};
  });
}

void AddFaultsOfMetadata(Faults& faults) {
  faults.Add("key missing", kError, {OfArchitecture("embedding_length")}, [](GgufContents& c) {
    std::erase_if(c.metadata, [](const auto& pair) {
      return pair.first == OfArchitecture("embedding_length");
    });
  });
  faults.Add("key of the wrong type", kError, {OfArchitecture("block_count")},
             [](GgufContents& c) { Set(c, OfArchitecture("block_count"), GgufText("two")); });
  faults.Add("architecture unknown", kError, {"general.architecture", "gemma"},
             [](GgufContents& c) { Set(c, "general.architecture", GgufText("gemma")); });
  faults.Add("a layer too few", kError, {"block_count", "blk.1."}, [](GgufContents& c) {
    Set(c, OfArchitecture("block_count"), GgufNumber(uint32_t{1}));
  });
  faults.Add("heads do not divide", kError, {"head_count_kv"}, [](GgufContents& c) {
    Set(c, OfArchitecture("attention.head_count_kv"), GgufNumber(uint32_t{3}));
  });
  faults.Add("vocabulary of another size", kError, {kEmbedding}, [](GgufContents& c) {
    Set(c, OfArchitecture("vocab_size"), GgufNumber(uint32_t{40}));
  });
  faults.Add(
      "end token outside the vocabulary", kError, {"tokenizer.ggml.eos_token_id", "99"},
      [](GgufContents& c) { Set(c, "tokenizer.ggml.eos_token_id", GgufNumber(uint32_t{99})); });
  faults.Add("more tokens than embeddings", kError, {"'tokenizer'", "33 tokens", "is 32"},
             [](GgufContents& c) { SetTokenizer(c, 1); });
  faults.Add("fewer scores than tokens", kError, {"tokenizer.ggml.scores"}, [](GgufContents& c) {
    Set(c, "tokenizer.ggml.scores", GgufList({GgufNumber(0.0f)}));
  });
  faults.Add("a token twice", kError, {"tokenizer.ggml.tokens"}, [](GgufContents& c) {
    Set(c, "tokenizer.ggml.tokens",
        GgufList(std::vector<GgufBytes>(static_cast<size_t>(kLargerVocab), GgufText("a"))));
  });
}

void AddFaultsOfTensors(Faults& faults) {
  const std::string sub_norm = "blk.1.ffn_sub_norm.weight";
  faults.Add("no sub-norm", kError, {sub_norm}, [=](GgufContents& c) {
    std::erase_if(c.tensors, [&](const auto& tensor) { return tensor.name == sub_norm; });
  });
  faults.Add("tensor missing", kError, {kUp}, [](GgufContents& c) {
    std::erase_if(c.tensors, [](const auto& tensor) { return tensor.name == kUp; });
  });
  faults.Add("shape transposed", kError, {kUp, "[256, 512]"},
             [](GgufContents& c) { std::swap(Tensor(c, kUp).dims[0], Tensor(c, kUp).dims[1]); });
  faults.Add("code 3", kError, {kUp, "code 3"},
             [](GgufContents& c) { Tensor(c, kUp).bytes[kTq2Bytes * 5] = '\xff'; });
  faults.Add(
      "TQ1_0 byte that stands for nothing", kError, {kUp},
      [](GgufContents& c) { Tensor(c, kUp).bytes[kTq1Bytes * 5] = '\x01'; }, GgufPacking::kTq1_0);
  const auto fill = [](char byte) {
    return [byte](GgufContents& c) {
      std::string& bytes = Tensor(c, kUp).bytes;
      for (size_t i = 0; i < bytes.size(); ++i) {
        if (i % kTq2Bytes < kTq2Bytes - 2) bytes[i] = byte;
      }
    };
  };
  faults.Add("weights all zero", kError, {kUp, "all its weights are zero"}, fill(0x55));
  faults.Add("weights all +1", kError, {kUp, "all its weights are +1"}, fill('\xaa'));
  faults.Add("tensor all zero bytes", kError, {kUp, "zero"}, [](GgufContents& c) {
    Tensor(c, kUp).bytes.assign(Tensor(c, kUp).bytes.size(), '\0');
  });
  faults.Add("scale not finite", kError, {kUp}, [](GgufContents& c) {
    Tensor(c, kUp).bytes.replace(kTq2Bytes - 2, 2, "\x00\x7e", 2);
  });
  faults.Add("scale negative", kError, {kUp},
             [](GgufContents& c) { Tensor(c, kUp).bytes[kTq2Bytes - 1] |= '\x80'; });
  faults.Add("scales inverted", kWarning, {kUp, "the inverse", "convention"}, [](GgufContents& c) {
    std::string& bytes = Tensor(c, kUp).bytes;
    for (size_t i = kTq2Bytes - 2; i < bytes.size(); i += kTq2Bytes) {
      bytes.replace(i, 2, "\x00\x58", 2);  // 128
    }
  });
  faults.Add(
      "I2_S of another meaning", kError, {kUp},
      [](GgufContents& c) {
        std::string& bytes = Tensor(c, kUp).bytes;
        bytes.replace(0, bytes.size() - 32, bytes.size() - 32, '\0');
      },
      GgufPacking::kI2sX86);
  faults.Add(
      "I2_S scale not finite", kError, {kUp},
      [](GgufContents& c) {
        std::string& bytes = Tensor(c, kUp).bytes;
        bytes.replace(bytes.size() - 32, 4, std::string("\x00\x00\xc0\x7f", 4));
      },
      GgufPacking::kI2sX86);
  faults.Add(
      "a matrix copied over another", kWarning, {kUp, "'blk.0.ffn_up.weight'"},
      [](GgufContents& c) { Tensor(c, kUp).bytes = Tensor(c, "blk.0.ffn_up.weight").bytes; });
  faults.Add("norm not finite", kError, {kNorm, "nan"}, [](GgufContents& c) {
    PokeFloat(Tensor(c, kNorm).bytes, 9, std::numeric_limits<float>::quiet_NaN());
  });
  faults.Add("norm all zero", kError, {kNorm, "all its values are zero"}, [](GgufContents& c) {
    Tensor(c, kNorm).bytes.assign(Tensor(c, kNorm).bytes.size(), '\0');
  });
  faults.Add("embedding not finite", kError, {kEmbedding, "row 3"}, [](GgufContents& c) {
    PokeFloat(Tensor(c, kEmbedding).bytes, 3 * kLargerHidden,
              std::numeric_limits<float>::infinity());
  });
}

void AddFaultsOfGroups(Faults& faults) {
  faults.AddGrouped("code 3", {kUp, "code 3"},
                    [](GgufContents& c) { Tensor(c, kUp).bytes[kQ2Bytes * 5 + 2] = '\xff'; });
  faults.AddGrouped("scale not finite", {kUp, "scale"}, [](GgufContents& c) {
    Tensor(c, kUp).bytes.replace(kQ2Bytes * 5, 2, std::string("\x00\x7e", 2));
  });
  const std::string k_norm = "blk.1.attn_k_norm.weight";
  faults.AddGrouped("no norm of k", {k_norm}, [=](GgufContents& c) {
    std::erase_if(c.tensors, [&](const auto& tensor) { return tensor.name == k_norm; });
  });
  faults.AddGrouped("embedding all zero", {"token_embd.weight", "zero"}, [](GgufContents& c) {
    std::string& bytes = Tensor(c, "token_embd.weight").bytes;
    bytes.assign(bytes.size(), '\0');
  });
}

}  // namespace

std::vector<Fault> GgufFaults() {
  Faults faults;
  AddFaultsOfFiles(faults);
  AddFaultsOfMetadata(faults);
  AddFaultsOfTensors(faults);
  AddFaultsOfGroups(faults);
  return faults.Take();
}

std::vector<Fault> GoodGguf() {
  Faults good;
  good.AddGrouped("good", {}, [](GgufContents&) {});
  for (const GgufPacking packing :
       {GgufPacking::kTq1_0, GgufPacking::kTq2_0, GgufPacking::kI2sX86, GgufPacking::kF16}) {
    good.Add(
        "good", kWarning, {}, [](GgufContents&) {}, packing);
  }
  return good.Take();
}

}  // namespace sterna::testing
