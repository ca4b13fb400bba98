// Small committed tokenizers against what Transformers does with them
// (tests/golden/make_tokenizer_goldens.py), and properties that hold for every tokenizer.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"
#include "engine/text/unicode.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace sterna {
namespace {

using Json = nlohmann::json;

constexpr char kDirectory[] = "tests/golden/data/tokenizers/";

std::unique_ptr<Tokenizer> Load(const std::string& directory) {
  auto tokenizer = LoadTokenizer(directory);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

class TokenizerGoldenTest : public ::testing::TestWithParam<const char*> {};

TEST_P(TokenizerGoldenTest, EncodesAndDecodesAsTransformers) {
  const auto tokenizer = Load(testing::SourcePath(kDirectory) + GetParam());
  ASSERT_NE(tokenizer, nullptr);
  std::ifstream file(testing::SourcePath(std::string(kDirectory) + "goldens.json"));
  const Json goldens = Json::parse(file)[GetParam()];
  ASSERT_GE(goldens.size(), 150u);
  for (const Json& golden : goldens) {
    const std::string text = golden[0];
    const auto parsed = tokenizer->Encode(text, /*add_special=*/true, /*parse_special=*/true);
    const auto plain = tokenizer->Encode(text, /*add_special=*/false, /*parse_special=*/false);
    ASSERT_TRUE(parsed.ok() && plain.ok()) << golden;
    EXPECT_EQ(Json(*parsed), golden[1]) << golden[0];
    EXPECT_EQ(Json(*plain), golden[2]) << golden[0];
    EXPECT_EQ(Decode(*tokenizer, *parsed), golden[3].get<std::string>()) << golden[0];
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, TokenizerGoldenTest,
                         ::testing::Values("llama3_like", "qwen_like", "gpt2_like", "falcon_like",
                                           "llama2_like"),
                         [](const auto& info) { return std::string(info.param); });

// Every tokenizer that is there: the committed ones, the shipped model's, the reference data's.
std::vector<std::string> TokenizerDirectories() {
  std::vector<std::string> directories;
  for (const char* name : {"llama3_like", "qwen_like", "llama2_like"}) {
    directories.push_back(testing::SourcePath(kDirectory) + name);
  }
  const std::string shipped = testing::SourcePath("models/stories");
  if (std::filesystem::exists(shipped + "/tokenizer.json")) directories.push_back(shipped);
  for (const char* name : {"tokenizers/llama2", "tokenizers/llama3", "tokenizers/qwen3"}) {
    const std::string path = testing::SharedDataPath(name);
    if (!path.empty()) directories.push_back(path);
  }
  return directories;
}

TEST(EveryTokenizerTest, PiecewiseDecodingEqualsDecodingAtOnce) {
  std::mt19937 random(3);
  for (const std::string& directory : TokenizerDirectories()) {
    const auto tokenizer = Load(directory);
    ASSERT_NE(tokenizer, nullptr);
    // Mostly tokens that are bits of characters, found by their bytes.
    std::vector<int32_t> partial;
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      if (FindInvalidUtf8(tokenizer->TokenBytes(id)) != std::string::npos) partial.push_back(id);
    }
    ASSERT_GE(partial.size(), 100u) << directory;
    for (int round = 0; round < 3000; ++round) {
      std::vector<int32_t> ids;
      for (size_t n = random() % 12; n > 0; --n) {
        const bool any = random() % 3 == 0;  // some of them outside the vocabulary
        ids.push_back(any ? static_cast<int32_t>(random() % (tokenizer->vocab_size() + 9)) - 4
                          : partial[random() % partial.size()]);
      }
      IncrementalDetokenizer detokenizer(tokenizer.get(), /*continues_text=*/false);
      std::string text;
      for (const int32_t id : ids) {
        text += detokenizer.Append(id);
        ASSERT_EQ(FindInvalidUtf8(text), std::string::npos) << directory;
      }
      text += detokenizer.Finish();
      ASSERT_EQ(text, Decode(*tokenizer, ids)) << directory << ::testing::PrintToString(ids);
    }
  }
}

TEST(EveryTokenizerTest, TextComesBackFromItsTokens) {
  std::mt19937 random(4);
  const auto random_text = [&] {
    std::string text;
    for (size_t n = random() % 20; n > 0; --n) {
      static const char* const kPieces[] = {"a",        " ",
                                            "  ",       "\n",
                                            "The fox",  "7",
                                            "\xC3\xA9", "\xE2\x96\x81",
                                            "\t",       "\r\n",
                                            "\x01",     "\xE6\x97\xA5",
                                            "...",      "\xF0\x9F\xA6\x99",
                                            "<s>",      "don't"};
      text += kPieces[random() % std::size(kPieces)];
    }
    return text;
  };
  for (const std::string& directory : TokenizerDirectories()) {
    const auto tokenizer = Load(directory);
    ASSERT_NE(tokenizer, nullptr);
    for (int round = 0; round < 1000; ++round) {
      std::string text = random_text();
      const auto ids = tokenizer->Encode(text, false, false);
      ASSERT_TRUE(ids.ok());
      if (tokenizer->StripsLeadingSpace()) {  // SentencePiece writes U+2581 as the space it marks
        for (size_t at; (at = text.find("\xE2\x96\x81")) != std::string::npos;) {
          text.replace(at, 3, " ");
        }
      }
      ASSERT_EQ(Decode(*tokenizer, *ids), text) << directory;
    }
  }
}

TEST(EveryTokenizerTest, RefusesInvalidUtf8AndBoundsIds) {
  for (const std::string& directory : TokenizerDirectories()) {
    const auto tokenizer = Load(directory);
    ASSERT_NE(tokenizer, nullptr);
    const auto bad = tokenizer->Encode("ab\xC0z", true, true);
    EXPECT_EQ(bad.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(bad.status().message(), "the text is not valid UTF-8 at byte 2");
    for (const int32_t id : {-1, tokenizer->vocab_size(), 2147483647, -2147483647 - 1}) {
      EXPECT_EQ(tokenizer->TokenBytes(id), "");
      EXPECT_EQ(tokenizer->IdToToken(id), "");
      EXPECT_FALSE(tokenizer->IsSpecial(id));
    }
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      const std::string token = tokenizer->IdToToken(id);
      if (!token.empty()) {
        ASSERT_EQ(tokenizer->TokenToId(token), id) << token;
      }
      if (tokenizer->IsSpecial(id)) {
        ASSERT_EQ(tokenizer->TokenBytes(id), "");
      }
    }
  }
}

TEST(SpecialTokensTest, BosAndNames) {
  const auto llama3 = Load(testing::SourcePath(kDirectory) + "llama3_like");
  const auto qwen = Load(testing::SourcePath(kDirectory) + "qwen_like");
  const auto llama2 = Load(testing::SourcePath(kDirectory) + "llama2_like");
  ASSERT_TRUE(llama3 && qwen && llama2);
  EXPECT_EQ(llama3->bos_id(), llama3->TokenToId("<|bos|>"));
  EXPECT_EQ(qwen->bos_id(), std::nullopt);
  EXPECT_EQ(llama2->bos_id(), 1);
  EXPECT_TRUE(llama2->StripsLeadingSpace());
  EXPECT_FALSE(llama3->StripsLeadingSpace());
  EXPECT_TRUE(llama3->IsSpecial(*llama3->TokenToId("<|end|>")));
  EXPECT_FALSE(llama3->IsSpecial(*llama3->TokenToId("<tool>")));
  EXPECT_EQ(llama3->TokenToId("no such token"), std::nullopt);
  // Special spellings in a user's text stay text; the other added tokens are always tokens.
  const auto ids = llama3->Encode("<|end|><tool>", false, false);
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->back(), llama3->TokenToId("<tool>"));
  EXPECT_EQ(Decode(*llama3, *ids), "<|end|><tool>");
}

// Without tokenizer.json the SentencePiece model alone decides; here it was trained to the same
// rules.
TEST(SentencePieceTest, TheModelAloneGivesTheSameTokens) {
  const std::string source = testing::SourcePath(kDirectory) + "llama2_like";
  const std::string directory = ::testing::TempDir() + "/sentencepiece_alone";
  std::filesystem::create_directories(directory);
  std::filesystem::copy_file(source + "/tokenizer.model", directory + "/tokenizer.model",
                             std::filesystem::copy_options::overwrite_existing);
  const auto whole = Load(source);
  const auto alone = Load(directory);
  std::filesystem::remove_all(directory);
  ASSERT_TRUE(whole && alone);
  for (const char* text :
       {"The fox went home.", " two  spaces ", "", "a<s>b</s> c", "\xE6\x97\xA5"}) {
    for (const bool parse_special : {false, true}) {
      EXPECT_EQ(*whole->Encode(text, true, parse_special),
                *alone->Encode(text, true, parse_special))
          << text;
    }
  }
}

TEST(DetokenizerTest, KeepsASpaceThatContinuesAPrompt) {
  const auto llama2 = Load(testing::SourcePath(kDirectory) + "llama2_like");
  ASSERT_NE(llama2, nullptr);
  const auto ids = llama2->Encode("the fox", false, false);
  ASSERT_TRUE(ids.ok());
  for (const bool continues : {false, true}) {
    IncrementalDetokenizer detokenizer(llama2.get(), continues);
    std::string text;
    for (const int32_t id : *ids) text += detokenizer.Append(id);
    EXPECT_EQ(text + detokenizer.Finish(), continues ? " the fox" : "the fox");
  }
}

TEST(UnicodeTest, NormalizesToFormC) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"plain", "plain"},
      {"e\xCC\x81", "\xC3\xA9"},                                 // composes
      {"\xE2\x84\xAB", "\xC3\x85"},                              // a singleton
      {"q\xCC\xA3\xCC\x87", "q\xCC\xA3\xCC\x87"},                // nothing to compose
      {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},                // marks in order of class
      {"\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"},  // Hangul
      {"\xE0\xA4\x95\xE0\xA4\xBC", "\xE0\xA4\x95\xE0\xA4\xBC"},  // excluded from composition
      {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"},
      // U+11A7 is no trailing consonant, though it stands right before them: it stays.
      {"a\xEC\x93\xB0\xE1\x86\xA7"
       "b",
       "a\xEC\x93\xB0\xE1\x86\xA7"
       "b"},
      {"\xE1\x86\xA7\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA7\xE1\x86\xA7\xE1\x86\xA8"
       "e\xCC\x81",
       "\xE1\x86\xA7\xEA\xB0\x80\xE1\x86\xA7\xE1\x86\xA7\xE1\x86\xA8\xC3\xA9"},
  };
  for (const auto& [text, want] : cases) EXPECT_EQ(NormalizeNfc(text), want) << text;
}

}  // namespace
}  // namespace sterna
