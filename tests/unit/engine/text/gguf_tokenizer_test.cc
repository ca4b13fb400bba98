// Tokenizers, templates and stop tokens of GGUF files that were made by hand.
#include "engine/text/gguf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/text/byte_level.h"
#include "engine/text/gguf_vocabulary.h"
#include "engine/text/utf8.h"
#include "tests/unit/engine/text/gguf_tokenizer_testing.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Metadata = std::vector<GgufKeyValue>;
using Strings = std::vector<std::string>;
using Ints = std::vector<int32_t>;
using Floats = std::vector<float>;

constexpr char kSpace[] = "\xE2\x96\x81";  // U+2581

// Byte b is token b; then come the others, by id.
enum ByteLevelId : int32_t { kHe = 256, kLl, kHell, kBos, kEot, kTool, kUnused, kPad };

Metadata ByteLevel() {
  Strings tokens;
  for (int byte = 0; byte < 256; ++byte) {
    AppendUtf8(ByteLevelCharacter(static_cast<uint8_t>(byte)), &tokens.emplace_back());
  }
  for (const char* token :
       {"he", "ll", "hell", "<|begin_of_text|>", "<|eot_id|>", "<tool>", "spare", "[PAD263]"}) {
    tokens.emplace_back(token);
  }
  Ints types(256 + 3, 1);
  for (const int32_t type : {3, 3, 4, 5, 5}) types.push_back(type);
  return {{"general.architecture", std::string("llama")},
          {gguf_keys::kModel, std::string("gpt2")},
          {gguf_keys::kPre, std::string("llama-bpe")},
          {gguf_keys::kTokens, tokens},
          {gguf_keys::kTokenTypes, types},
          {gguf_keys::kMerges, Strings{"h e", "l l", "he ll"}},
          {gguf_keys::kBos, static_cast<uint32_t>(kBos)},
          {gguf_keys::kEos, static_cast<uint32_t>(kEot)}};
}

// <unk>, <s>, </s>, the bytes from 3, then these.
enum PieceId : int32_t { kMark = 259, kA, kB, kMarkA, kAb, kMarkAb, kPieceTool, kPiecePad };
int32_t ByteId(uint8_t byte) { return 3 + byte; }

Metadata SentencePiece() {
  Strings tokens = {"<unk>", "<s>", "</s>"};
  Ints types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(absl::StrFormat("<0x%02X>", byte));
    types.push_back(6);
  }
  for (const std::string& token :
       {std::string(kSpace), std::string("a"), std::string("b"), kSpace + std::string("a"),
        std::string("ab"), kSpace + std::string("ab"), std::string("<tool>"),
        std::string("[PAD1]")}) {
    tokens.push_back(token);
  }
  for (const int32_t type : {1, 1, 1, 1, 1, 1, 4, 5}) types.push_back(type);
  Floats scores(tokens.size(), 0);
  scores[kMarkA] = -2;
  scores[kAb] = -1;  // merges first
  scores[kMarkAb] = -3;
  return {{gguf_keys::kModel, std::string("llama")},
          {gguf_keys::kTokens, tokens},
          {gguf_keys::kScores, scores},
          {gguf_keys::kTokenTypes, types},
          {gguf_keys::kBos, uint32_t{1}},
          {gguf_keys::kEos, uint32_t{2}}};
}

std::unique_ptr<Tokenizer> Load(const Metadata& metadata) {
  const GgufOnDisk file(metadata);
  auto tokenizer = LoadGgufTokenizer(file.metadata());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::vector<int32_t> Encode(const Metadata& metadata, const std::string& text,
                            bool add_special = false, bool parse_special = false) {
  const auto tokenizer = Load(metadata);
  if (tokenizer == nullptr) return {};
  return tokenizer->Encode(text, add_special, parse_special).value_or(std::vector<int32_t>());
}

std::string LoadError(const Metadata& metadata) {
  const GgufOnDisk file(metadata);
  return LoadGgufTokenizer(file.metadata()).status().ToString();
}

TEST(GgufByteLevelTest, TokensMergesAndSpecialTokens) {
  const Metadata metadata = ByteLevel();
  EXPECT_THAT(Encode(metadata, "hello"), ElementsAre(kHell, 'o'));
  EXPECT_THAT(Encode(metadata, "hello", true), ElementsAre(kBos, kHell, 'o'));
  EXPECT_THAT(Encode(metadata, "<tool><|eot_id|>", false, true), ElementsAre(kTool, kEot));
  EXPECT_EQ(Encode(metadata, "<tool><|eot_id|>").size(), 1 + std::string("<|eot_id|>").size());
  const auto tokenizer = Load(metadata);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), kUnused);  // what comes after it stands for no token
  EXPECT_EQ(tokenizer->bos_id(), kBos);
  EXPECT_FALSE(tokenizer->StripsLeadingSpace());
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->TokenBytes(byte), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(tokenizer->TokenBytes(kHell), "hell");
  EXPECT_EQ(tokenizer->TokenBytes(kTool), "<tool>");
  EXPECT_EQ(tokenizer->TokenBytes(kEot), "");
  EXPECT_TRUE(tokenizer->IsSpecial(kEot));
  EXPECT_EQ(tokenizer->TokenBytes(kUnused), "");
  EXPECT_EQ(tokenizer->TokenBytes(kPad), "");
}

// Some files have rows without a text; llama.cpp reads them.
TEST(GgufByteLevelTest, TokensWithoutATextAreUnused) {
  Metadata metadata = ByteLevel();
  ValueOf<Strings>(metadata, gguf_keys::kTokens)[kTool] = "";
  ValueOf<Strings>(metadata, gguf_keys::kTokens)[kUnused] = "";
  EXPECT_THAT(Encode(metadata, "hello"), ElementsAre(kHell, 'o'));
  EXPECT_EQ(Load(metadata)->TokenBytes(kTool), "");
  metadata = SentencePiece();
  ValueOf<Strings>(metadata, gguf_keys::kTokens)[kPieceTool] = "";
  ValueOf<Strings>(metadata, gguf_keys::kTokens)[kPiecePad] = "";
  EXPECT_THAT(Encode(metadata, "ab"), ElementsAre(kMarkAb));
  EXPECT_EQ(Load(metadata)->IdToToken(kPieceTool), "[EMPTY_265]");
}

TEST(GgufByteLevelTest, WhatGoesAroundAText) {
  Metadata metadata = ByteLevel();
  metadata.emplace_back(gguf_keys::kAddBos, false);
  metadata.emplace_back(gguf_keys::kAddEos, true);
  EXPECT_THAT(Encode(metadata, "h", true), ElementsAre('h', kEot));
  metadata = ByteLevel();
  ValueOf<std::string>(metadata, gguf_keys::kPre) = "gpt-2";  // adds no BOS unless told to
  EXPECT_THAT(Encode(metadata, "h", true), ElementsAre('h'));
  // Llama.cpp's ids where the file has none; here they are no control tokens.
  Erase(metadata, gguf_keys::kBos);
  EXPECT_EQ(Load(metadata)->bos_id(), std::nullopt);
  auto& tokens = ValueOf<Strings>(metadata, gguf_keys::kTokens);
  auto& types = ValueOf<Ints>(metadata, gguf_keys::kTokenTypes);
  std::swap(tokens[11], tokens[kBos]);
  std::swap(types[11], types[kBos]);
  EXPECT_EQ(Load(metadata)->bos_id(), 11);
}

// How each name cuts words, by where merges of two characters apply.
TEST(GgufByteLevelTest, PreTokenizersCutAsTheirNamesSay) {
  struct Case {
    const char* name;
    bool three_digits, two_digits, space_digit, nfc;
  };
  for (const Case& expected :
       {Case{"llama-bpe", true, true, false, false}, Case{"llama3", true, true, false, false},
        Case{"llama-v3", true, true, false, false}, Case{"falcon3", true, true, false, false},
        Case{"smaug-bpe", true, true, false, false}, Case{"qwen2", false, false, false, true},
        Case{"gpt-2", true, true, true, false}, Case{"mpt", true, true, true, true},
        Case{"olmo", true, true, true, true}, Case{"smollm", false, false, false, false},
        Case{"starcoder", false, false, false, false}, Case{"falcon", true, true, false, false},
        Case{"default", true, true, false, false}}) {
    Metadata metadata = ByteLevel();
    ValueOf<std::string>(metadata, gguf_keys::kPre) = expected.name;
    auto& tokens = ValueOf<Strings>(metadata, gguf_keys::kTokens);
    auto& merges = ValueOf<Strings>(metadata, gguf_keys::kMerges);
    tokens[kHe] = "12";
    tokens[kLl] = "123";
    tokens[kHell] =
        "\xC4\xA0"
        "1";  // " 1"
    merges = {"\xC4\xA0 1", "1 2", "12 3"};
    const auto tokenizer = Load(metadata);
    ASSERT_NE(tokenizer, nullptr) << expected.name;
    const auto count = [&](const char* text) {
      return tokenizer->Encode(text, false, false)->size();
    };
    EXPECT_EQ(count("123"), expected.three_digits ? 1u : 3u) << expected.name;
    EXPECT_EQ(count("12"), expected.two_digits ? 1u : 2u) << expected.name;
    EXPECT_EQ(count(" 1"), expected.space_digit ? 1u : 2u) << expected.name;
    EXPECT_EQ(count("e\xCC\x81"), expected.nfc ? 2u : 3u) << expected.name;  // e and an accent
  }
}

// "xyz" is a token that no merges make.
TEST(GgufByteLevelTest, WholeWordsWhereThePreTokenizerIgnoresMerges) {
  for (const auto& [name, ignores] :
       {std::pair("llama-bpe", true), std::pair("smaug-bpe", false), std::pair("gpt-2", false)}) {
    Metadata metadata = ByteLevel();
    ValueOf<std::string>(metadata, gguf_keys::kPre) = name;
    ValueOf<Strings>(metadata, gguf_keys::kTokens)[kHell] = "xyz";
    ValueOf<Strings>(metadata, gguf_keys::kMerges).pop_back();
    EXPECT_EQ(Encode(metadata, "xyz").size(), ignores ? 1u : 3u) << name;
    // A control token is none, whatever it is called.
    ValueOf<Strings>(metadata, gguf_keys::kTokens)[kEot] = "uvw";
    EXPECT_EQ(Encode(metadata, "uvw").size(), 3u) << name;
  }
}

TEST(GgufByteLevelTest, WithoutAPreTokenizerOnlyLlama3IsKnown) {
  Metadata metadata = ByteLevel();
  Erase(metadata, gguf_keys::kPre);
  EXPECT_THAT(Encode(metadata, "hell 1234", true),
              ElementsAre(kBos, kHell, ' ', '1', '2', '3', '4'));
  ValueOf<Strings>(metadata, gguf_keys::kTokens)[kBos] = "<other>";
  const std::string error = LoadError(metadata);
  EXPECT_THAT(error, HasSubstr("NOT_FOUND"));
  EXPECT_THAT(error,
              HasSubstr("vocab.gguf: there is no metadata 'tokenizer.ggml.pre', so nothing"));
  EXPECT_THAT(error, HasSubstr("one of llama-bpe, llama3, "));
}

TEST(GgufSentencePieceTest, PiecesBytesAndSpaces) {
  const Metadata metadata = SentencePiece();
  EXPECT_THAT(Encode(metadata, "ab"), ElementsAre(kMarkAb));
  EXPECT_THAT(Encode(metadata, "ab", true), ElementsAre(1, kMarkAb));
  EXPECT_THAT(Encode(metadata, "a", true), ElementsAre(1, kMarkA));
  EXPECT_THAT(Encode(metadata, "\n"), ElementsAre(kMark, ByteId('\n')));
  EXPECT_THAT(Encode(metadata, "\xC3\xA9"), ElementsAre(kMark, ByteId(0xC3), ByteId(0xA9)));
  EXPECT_THAT(Encode(metadata, "a  b"), ElementsAre(kMarkA, kMark, kMark, kB));
  // A space comes in front of the text and of what follows a token that is no text.
  EXPECT_THAT(Encode(metadata, "<tool>ab</s>a", false, true),
              ElementsAre(kPieceTool, kMarkAb, 2, kMarkA));
  EXPECT_EQ(Encode(metadata, "</s>").front(), kMark);  // ordinary text
  const auto tokenizer = Load(metadata);
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(tokenizer->vocab_size(), kPiecePad);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_TRUE(tokenizer->StripsLeadingSpace());
  for (int byte = 0; byte < 256; ++byte) {
    EXPECT_EQ(tokenizer->TokenBytes(ByteId(byte)), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(tokenizer->TokenBytes(kMarkAb), " ab");
  EXPECT_EQ(tokenizer->TokenBytes(kPieceTool), "<tool>");
  EXPECT_EQ(tokenizer->TokenBytes(2), "");
  EXPECT_EQ(Decode(*tokenizer, *tokenizer->Encode("ab \xC3\xA9", true, false)), "ab \xC3\xA9");
}

TEST(GgufSentencePieceTest, TheFilesSwitches) {
  Metadata metadata = SentencePiece();
  metadata.emplace_back(gguf_keys::kAddSpacePrefix, false);
  metadata.emplace_back(gguf_keys::kAddBos, false);
  metadata.emplace_back(gguf_keys::kAddEos, true);
  EXPECT_THAT(Encode(metadata, "ab", true), ElementsAre(kAb, 2));
  EXPECT_FALSE(Load(metadata)->StripsLeadingSpace());
  metadata.emplace_back(gguf_keys::kRemoveExtraWhitespace, true);
  EXPECT_THAT(Encode(metadata, " a  b "), ElementsAre(kA, kMark, kB));
  // Llama's ids where the file has none, unless they are no control tokens.
  metadata = SentencePiece();
  Erase(metadata, gguf_keys::kBos);
  EXPECT_EQ(Load(metadata)->bos_id(), 1);
  ValueOf<Ints>(metadata, gguf_keys::kTokenTypes)[1] = 1;
  EXPECT_EQ(Load(metadata)->bos_id(), std::nullopt);
  EXPECT_THAT(Encode(metadata, "ab", true), ElementsAre(kMarkAb));
}

struct BadInput {
  std::function<void(Metadata&)> change;
  const char* message;
};

const std::vector<BadInput>& BadByteLevel() {
  static const auto* const kCases = new std::vector<BadInput>{
      {[](Metadata& m) { Erase(m, gguf_keys::kModel); }, "no metadata 'tokenizer.ggml.model'"},
      {[](Metadata& m) { ValueOf<std::string>(m, gguf_keys::kModel) = "bert"; },
       "'tokenizer.ggml.model' is 'bert'; supported are 'llama' (SentencePiece BPE) and 'gpt2'"},
      {[](Metadata& m) { Erase(m, gguf_keys::kTokens); }, "no metadata 'tokenizer.ggml.tokens'"},
      {[](Metadata& m) { Erase(m, gguf_keys::kTokenTypes); },
       "no metadata 'tokenizer.ggml.token_type'"},
      {[](Metadata& m) { Erase(m, gguf_keys::kMerges); }, "no metadata 'tokenizer.ggml.merges'"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kTokens).clear(); },
       "'tokenizer.ggml.tokens' has 0 tokens"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kTokens)[7] = "a\xFF"; },
       "'tokenizer.ggml.tokens[7]' is not valid UTF-8 at its byte 1"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kTokens)[kLl] = "he"; },
       "'tokenizer.ggml.tokens[257]' is 'he', and so is token 256"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kTokens)['a'] = "aa"; },
       "'tokenizer.ggml.tokens' lacks \"a\", the token of byte 97"},
      {[](Metadata& m) { ValueOf<Ints>(m, gguf_keys::kTokenTypes).pop_back(); },
       "'tokenizer.ggml.token_type' has 263 values, but 'tokenizer.ggml.tokens' has 264"},
      {[](Metadata& m) { ValueOf<Ints>(m, gguf_keys::kTokenTypes)[3] = 7; },
       "'tokenizer.ggml.token_type[3]' is 7; it must be 1 (normal)"},
      {[](Metadata& m) { ValueOf<Ints>(m, gguf_keys::kTokenTypes)[3] = 0; },
       "'tokenizer.ggml.token_type[3]' is 0"},
      {[](Metadata& m) { ValueOf<std::string>(m, gguf_keys::kPre) = "tekken"; },
       "'tokenizer.ggml.pre' is 'tekken'; supported are llama-bpe, llama3, llama-v3, falcon3,"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kMerges)[1] = "ll"; },
       "'tokenizer.ggml.merges[1]' is 'll'; it must be two tokens with one space"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kMerges)[1] = "l l l"; },
       "'tokenizer.ggml.merges[1]' is 'l l l'"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kMerges)[1] = " ll"; },
       "'tokenizer.ggml.merges[1]' is ' ll'"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kMerges)[1] = "ll "; },
       "'tokenizer.ggml.merges[1]' is 'll '"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kMerges)[1] = "l o"; },
       "'tokenizer.ggml.merges'[1] names \"lo\", which metadata 'tokenizer.ggml.tokens' lacks"},
      {[](Metadata& m) { ValueOf<uint32_t>(m, gguf_keys::kBos) = 263; },
       "'tokenizer.ggml.bos_token_id' is 263; it must be one of the ids 0 to 262"},
      {[](Metadata& m) { ValueOf<uint32_t>(m, gguf_keys::kEos) = 4294967295U; },
       "'tokenizer.ggml.eos_token_id' is 4294967295"},
      {[](Metadata& m) { m.emplace_back(gguf_keys::kAddBos, int32_t{1}); },
       "'tokenizer.ggml.add_bos_token' is an int32, but should be a bool"},
      {[](Metadata& m) {
         Erase(m, gguf_keys::kBos);
         m.emplace_back(gguf_keys::kAddBos, true);
       },
       "'tokenizer.ggml.add_bos_token' is true, but there is no 'tokenizer.ggml.bos_token_id'"},
      {[](Metadata& m) {
         Erase(m, gguf_keys::kEos);
         m.emplace_back(gguf_keys::kAddEos, true);
       },
       "'tokenizer.ggml.add_eos_token' is true, but there is no 'tokenizer.ggml.eos_token_id'"},
  };
  return *kCases;
}

const std::vector<BadInput>& BadSentencePiece() {
  static const auto* const kCases = new std::vector<BadInput>{
      {[](Metadata& m) { Erase(m, gguf_keys::kScores); }, "no metadata 'tokenizer.ggml.scores'"},
      {[](Metadata& m) { ValueOf<Floats>(m, gguf_keys::kScores).push_back(0); },
       "'tokenizer.ggml.scores' has 268 values, but 'tokenizer.ggml.tokens' has 267"},
      {[](Metadata& m) {
         ValueOf<Floats>(m, gguf_keys::kScores)[9] = std::numeric_limits<float>::quiet_NaN();
       },
       "'tokenizer.ggml.scores[9]' is nan; it must be finite"},
      {[](Metadata& m) { ValueOf<Ints>(m, gguf_keys::kTokenTypes)[0] = 1; },
       "'tokenizer.ggml.token_type' has type 2 (unknown) 0 times"},
      {[](Metadata& m) { ValueOf<Ints>(m, gguf_keys::kTokenTypes)[1] = 2; },
       "'tokenizer.ggml.token_type' has type 2 (unknown) 2 times"},
      {[](Metadata& m) { ValueOf<Strings>(m, gguf_keys::kTokens)[5] = "<0xZZ>"; },
       "'tokenizer.ggml.tokens' is not a valid SentencePiece model"},
      {[](Metadata& m) { ValueOf<Ints>(m, gguf_keys::kTokenTypes)[5] = 1; },
       "'tokenizer.ggml.tokens' is not a valid SentencePiece model"},
      {[](Metadata& m) {
         m.emplace_back(gguf_keys::kCharsmap, Ints{0, 256});
       },
       "'tokenizer.ggml.precompiled_charsmap[1]' is 256, but must be a byte"},
      {[](Metadata& m) {
         m.emplace_back(gguf_keys::kCharsmap, Ints{1, 0, 0, 0});
       },
       "is not a valid SentencePiece model: its character map has 4 bytes"},
      {[](Metadata& m) { m.emplace_back(gguf_keys::kAddSpacePrefix, std::string("yes")); },
       "'tokenizer.ggml.add_space_prefix' is a string, but should be a bool"},
  };
  return *kCases;
}

TEST(GgufTokenizerErrorsTest, EachIsNamed) {
  ASSERT_EQ(LoadError(ByteLevel()), "OK");
  for (const auto& [change, message] : BadByteLevel()) {
    Metadata metadata = ByteLevel();
    change(metadata);
    const std::string error = LoadError(metadata);
    EXPECT_THAT(error, HasSubstr("vocab.gguf: "));
    EXPECT_THAT(error, HasSubstr(message));
  }
  ASSERT_EQ(LoadError(SentencePiece()), "OK");
  for (const auto& [change, message] : BadSentencePiece()) {
    Metadata metadata = SentencePiece();
    change(metadata);
    const std::string error = LoadError(metadata);
    EXPECT_THAT(error, HasSubstr("vocab.gguf: "));
    EXPECT_THAT(error, HasSubstr(message));
  }
}

std::vector<int32_t> Ends(const Metadata& metadata) {
  const GgufOnDisk file(metadata);
  const auto ids = ReadGgufEndTokenIds(file.metadata());
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(std::vector<int32_t>{-1});
}

TEST(GgufEndTokensTest, KeysThenSpellings) {
  Metadata metadata = ByteLevel();
  ValueOf<uint32_t>(metadata, gguf_keys::kEos) = 5;
  EXPECT_THAT(Ends(metadata), ElementsAre(5, kEot));  // <|eot_id|> is well known
  ValueOf<Strings>(metadata, gguf_keys::kTokens)[kTool] = "<|im_end|>";
  EXPECT_THAT(Ends(metadata), ElementsAre(5, kEot));  // but this one is not a control token
  ValueOf<Ints>(metadata, gguf_keys::kTokenTypes)[kTool] = 3;
  EXPECT_THAT(Ends(metadata), ElementsAre(5, kEot, kTool));
  metadata.emplace_back(gguf_keys::kEot, uint32_t{7});
  metadata.emplace_back(gguf_keys::kEom, uint32_t{6});
  EXPECT_THAT(Ends(metadata), ElementsAre(5, 6, 7));
  Erase(metadata, gguf_keys::kEot);
  metadata.emplace_back(gguf_keys::kEnds, Ints{9, 5});
  EXPECT_THAT(Ends(metadata), ElementsAre(5, 6, 9));
  Erase(metadata, gguf_keys::kEos);
  EXPECT_THAT(Ends(metadata), ElementsAre(5, 6, 9));
  EXPECT_THAT(Ends(SentencePiece()), ElementsAre(2));
  Metadata none = SentencePiece();
  Erase(none, gguf_keys::kEos);
  ValueOf<Ints>(none, gguf_keys::kTokenTypes)[2] = 1;
  EXPECT_THAT(Ends(none), IsEmpty());
}

TEST(GgufEndTokensTest, IdsAreChecked) {
  for (const auto& [key, value, message] :
       {std::tuple<const char*, Ints, const char*>{
            gguf_keys::kEnds, {5, 263}, "'tokenizer.ggml.eos_token_ids[1]' is 263; it must be one"},
        {gguf_keys::kEnds, {-1}, "'tokenizer.ggml.eos_token_ids[0]' is -1"}}) {
    Metadata metadata = ByteLevel();
    metadata.emplace_back(key, value);
    const GgufOnDisk file(metadata);
    EXPECT_THAT(ReadGgufEndTokenIds(file.metadata()).status().ToString(), HasSubstr(message));
  }
  Metadata metadata = ByteLevel();
  metadata.emplace_back(gguf_keys::kEom, int32_t{-1});
  const GgufOnDisk file(metadata);
  EXPECT_THAT(ReadGgufEndTokenIds(file.metadata()).status().ToString(),
              HasSubstr("'tokenizer.ggml.eom_token_id' is -1"));
}

std::string Render(const Metadata& metadata) {
  const GgufOnDisk file(metadata);
  const auto chat = LoadGgufChatTemplate(file.metadata());
  if (!chat.ok()) return chat.status().ToString();
  return chat
      ->Render({.messages_json = R"([{"role": "system", "content": " Be brief. "},
                                     {"role": "user", "content": "Hi"}])"})
      .value_or("does not render");
}

TEST(GgufChatTemplateTest, TheFilesOwnWithItsTokens) {
  Metadata metadata = ByteLevel();
  EXPECT_THAT(Render(metadata), HasSubstr("vocab.gguf: there is no metadata 'tokenizer.chat_temp"));
  metadata.emplace_back(gguf_keys::kChatTemplate,
                        std::string("{{ bos_token }}{{ messages[1].content }}{{ eos_token }}"));
  EXPECT_EQ(Render(metadata), "<|begin_of_text|>Hi<|eot_id|>");
  ValueOf<std::string>(metadata, gguf_keys::kChatTemplate) = "{% if %}";
  EXPECT_THAT(Render(metadata), HasSubstr("vocab.gguf: metadata 'tokenizer.chat_template': "));
}

// The two templates of family A: what its GGUF file has, and what it was trained with.
TEST(GgufChatTemplateTest, FamilyAsOwnFileHasAWrongOne) {
  const std::string wrong =
      "{% for message in messages %}{% if message['role'] == 'user' %}{{ 'Human: ' + "
      "message['content'] + '\n\nBITNETAssistant: ' + eos_token }}{% endif %}{% endfor %}";
  Metadata metadata = ByteLevel();
  metadata.emplace_back(gguf_keys::kChatTemplate, wrong);
  EXPECT_EQ(Render(metadata), "Human: Hi\n\nBITNETAssistant: <|eot_id|>");
  const std::string right =
      "<|begin_of_text|>System: Be brief.<|eot_id|>User: Hi<|eot_id|>Assistant: ";
  for (const char* architecture : {"bitnet-b1.58", "bitnet-25", "bitnet"}) {
    ValueOf<std::string>(metadata, "general.architecture") = architecture;
    EXPECT_EQ(Render(metadata), right);
  }
  // Another template of that architecture stays as it is.
  ValueOf<std::string>(metadata, gguf_keys::kChatTemplate) = "{{ messages[1].content }}";
  EXPECT_EQ(Render(metadata), "Hi");
}

}  // namespace
}  // namespace sterna
