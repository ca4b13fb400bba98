// The published tokenizer vectors, and long inputs, on the tokenizers of the reference data: those
// of Hugging Face directories, of GGUF files, and of directories brought into GGUF.
#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/mapped_file.h"
#include "engine/text/detokenizer.h"
#include "engine/text/gguf_tokenizer.h"
#include "engine/text/gguf_tokenizer_export.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "tests/testing/paths.h"
#include "tests/unit/engine/text/gguf_tokenizer_testing.h"

namespace sterna {
namespace {

struct Family {
  const char* name;
  const char* path;  // under tokenizers/: a directory or a GGUF file
  const char* vectors;
  bool through_gguf = false;  // write the directory's tokenizer as GGUF and read that
};

StatusOr<std::unique_ptr<Tokenizer>> LoadFamily(const Family& family, const std::string& path) {
  if (path.ends_with(".gguf")) {
    STERNA_ASSIGN_OR_RETURN(const GgufFile file, GgufFile::Open(path));
    return LoadGgufTokenizer(file.metadata());
  }
  if (!family.through_gguf) return LoadTokenizer(path);
  STERNA_ASSIGN_OR_RETURN(const auto directory, LoadTokenizer(path));
  STERNA_ASSIGN_OR_RETURN(const auto metadata,
                          GgufTokenizerMetadata(path, directory->vocab_size() + 7, {}));
  const GgufOnDisk file(metadata);
  STERNA_ASSIGN_OR_RETURN(auto tokenizer, LoadGgufTokenizer(file.metadata()));
  ExpectSameTokenizer(*tokenizer, *directory,
                      {"Hello <s>world</s> <|im_end|>x<think>\n1234 e\xCC\x81"});
  return tokenizer;
}

class TokenizerVectorsTest : public ::testing::TestWithParam<Family> {
 protected:
  void SetUp() override {
    const std::string path = testing::SharedDataPath(std::string("tokenizers/") + GetParam().path);
    if (path.empty()) {
      GTEST_SKIP() << "no reference data: " << GetParam().path << " is not checked";
    }
    const auto start = std::chrono::steady_clock::now();
    auto tokenizer = LoadFamily(GetParam(), path);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    RecordProperty("load_seconds", std::to_string(seconds.count()));
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(TokenizerVectorsTest, EncodesTheVectors) {
  const std::string prefix = std::string("tokenizers/vectors/ggml-vocab-") + GetParam().vectors;
  const auto inputs = ReadTextFile(testing::SharedDataPath(prefix + ".gguf.inp"));
  const auto outputs = ReadTextFile(testing::SharedDataPath(prefix + ".gguf.out"));
  ASSERT_TRUE(inputs.ok() && outputs.ok());
  std::vector<std::string> texts = absl::StrSplit(*inputs, "\n__ggml_vocab_test__\n");
  const std::vector<std::string> lines = absl::StrSplit(*outputs, '\n');
  ASSERT_GE(lines.size(), 40u);
  ASSERT_GE(texts.size(), lines.size() - 1);
  for (size_t i = 0; i + 1 < lines.size(); ++i) {  // the last line is empty
    std::vector<int32_t> want;
    for (const auto& number : absl::StrSplit(lines[i], ' ', absl::SkipEmpty())) {
      ASSERT_TRUE(absl::SimpleAtoi(number, &want.emplace_back()));
    }
    const auto got = tokenizer_->Encode(texts[i], /*add_special=*/false, /*parse_special=*/false);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ(*got, want) << "vector " << i << ": " << texts[i];
    // NFC may have changed the text; what the tokens say is the normalised one.
    const std::string text =
        GetParam().vectors == std::string("qwen2") ? NormalizeNfc(texts[i]) : texts[i];
    EXPECT_EQ(Decode(*tokenizer_, *got), text) << "vector " << i;
  }
}

TEST_P(TokenizerVectorsTest, AMegabyteOfOneCharacterIsQuick) {
  for (const char* unit :
       {"a", " ", "\n", "1", "1 ", "<", "\xCC\x81\xCC\xA3", "\xF0\x9F\xA6\x99", "\t x"}) {
    std::string text;
    while (text.size() < 1'000'000) text += unit;
    // The processor's time: what neighbours take of a shared machine does not count.
    const std::clock_t start = std::clock();
    const auto ids = tokenizer_->Encode(text, false, false);
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    ASSERT_TRUE(ids.ok()) << ids.status();
    const bool nfc = GetParam().vectors == std::string("qwen2");
    EXPECT_TRUE(Decode(*tokenizer_, *ids) == (nfc ? NormalizeNfc(text) : text)) << unit;
    // Quadratic would be minutes; the rest is room for slow and sanitized builds.
    EXPECT_LT(seconds, 10) << unit;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, TokenizerVectorsTest,
    ::testing::Values(Family{"llama2", "llama2", "llama-spm"},
                      Family{"llama2_through_gguf", "llama2", "llama-spm", true},
                      Family{"llama2_gguf", "vectors/ggml-vocab-llama-spm.gguf", "llama-spm"},
                      Family{"llama3", "llama3", "llama-bpe"},
                      Family{"llama3_through_gguf", "llama3", "llama-bpe", true},
                      Family{"qwen3", "qwen3", "qwen2"},
                      Family{"qwen3_through_gguf", "qwen3", "qwen2", true},
                      Family{"gpt2_gguf", "vectors/ggml-vocab-gpt-2.gguf", "gpt-2"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace sterna
