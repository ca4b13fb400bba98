// The published tokenizer vectors, and long inputs, on the three tokenizers of the reference data.
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
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "tests/testing/paths.h"

namespace sterna {
namespace {

struct Family {
  const char* directory;
  const char* vectors;
};

class TokenizerVectorsTest : public ::testing::TestWithParam<Family> {
 protected:
  void SetUp() override {
    const std::string directory =
        testing::SharedDataPath(std::string("tokenizers/") + GetParam().directory);
    if (directory.empty()) {
      GTEST_SKIP() << "no reference data: " << GetParam().directory << " is not checked";
    }
    const auto start = std::chrono::steady_clock::now();
    auto tokenizer = LoadTokenizer(directory);
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
  for (const char* unit : {"a", " ", "\n", "1", "\xCC\x81\xCC\xA3", "\xF0\x9F\xA6\x99", "\t x"}) {
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
    EXPECT_LT(seconds, 30) << unit;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, TokenizerVectorsTest,
                         ::testing::Values(Family{"llama2", "llama-spm"},
                                           Family{"llama3", "llama-bpe"}, Family{"qwen3", "qwen2"}),
                         [](const auto& info) { return std::string(info.param.directory); });

}  // namespace
}  // namespace sterna
