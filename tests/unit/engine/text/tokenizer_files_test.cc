// Corrupt and unsupported tokenizer files: each an error that names the file and the field.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "engine/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

class TokenizerFilesTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(directory_); }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << text;
  }
  std::string Source(const std::string& name) {
    return ReadTextFile(testing::SourcePath("tests/golden/data/tokenizers/" + name)).value_or("");
  }
  // "OK", or the error.
  std::string Load() { return LoadTokenizer(directory_).status().ToString(); }

  // The error after `change` was made to a good tokenizer.json.
  std::string LoadChanged(const std::function<void(Json&)>& change,
                          const std::string& kind = "llama3_like") {
    Json json = Json::parse(Source(kind + "/tokenizer.json"));
    change(json);
    Write("tokenizer.json", json.dump());
    return Load();
  }

  // One per test, as tests run in parallel.
  const std::string directory_ = ::testing::TempDir() + "/tokenizer_files_test_" +
                                 ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(TokenizerFilesTest, MissingFiles) {
  EXPECT_THAT(Load(), HasSubstr("has neither tokenizer.json nor tokenizer.model"));
  Write("tokenizer.json", Source("llama2_like/tokenizer.json"));
  EXPECT_THAT(Load(), HasSubstr("tokenizer.model, which is missing"));
}

TEST_F(TokenizerFilesTest, AGoodFileLoads) {
  EXPECT_EQ(LoadChanged([](Json&) {}), "OK");
  EXPECT_EQ(LoadChanged([](Json& json) { json["post_processor"] = nullptr; }), "OK");
}

TEST_F(TokenizerFilesTest, WrongFieldsAreNamed) {
  const std::vector<std::pair<std::function<void(Json&)>, std::string>> cases = {
      {[](Json& j) { j.erase("model"); }, "tokenizer.json: model is missing"},
      {[](Json& j) { j["model"].erase("vocab"); }, "model.vocab is missing"},
      {[](Json& j) { j["model"].erase("merges"); }, "model.merges is missing"},
      {[](Json& j) { j["model"]["type"] = "WordPiece"; }, "model.type is \"WordPiece\""},
      {[](Json& j) { j["model"]["vocab"]["a"] = "x"; }, "model.vocab[\"a\"] is \"x\""},
      {[](Json& j) { j["model"]["vocab"]["a"] = -1; }, "model.vocab[\"a\"] is -1"},
      {[](Json& j) { j["model"]["vocab"]["a"] = 2000000000; }, "the largest id is 2000000000"},
      {[](Json& j) { j["model"]["vocab"]["a"] = 5000000000; }, "model.vocab[\"a\"] is 5000000000"},
      {[](Json& j) { j["model"]["vocab"]["a"] = 7; }, "id 7 is both"},
      {[](Json& j) { j["model"]["vocab"].erase("a"); }, "which model.vocab lacks"},
      {[](Json& j) { j["model"]["vocab"].erase("~"); },
       "model.vocab lacks \"~\", the token of byte"},
      {[](Json& j) { j["model"]["merges"][3] = "zz yy"; }, "model.merges[3] names \"zz\""},
      {[](Json& j) { j["model"]["merges"][3] = "abc"; }, "model.merges[3] is \"abc\""},
      {[](Json& j) { j["model"]["merges"][3] = Json::array({"a"}); }, "model.merges[3] is [\"a\"]"},
      {[](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }, "model.end_of_word_suffix"},
      {[](Json& j) { j["model"]["dropout"] = 0.5; }, "model.dropout is 0.5"},
      {[](Json& j) { j["model"]["ignore_merges"] = 1; }, "model.ignore_merges is 1"},
      {[](Json& j) {
         j["normalizer"] = {{"type", "NFKD"}};
       },
       "normalizer.type is \"NFKD\""},
      {[](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["type"] = "Odd"; },
       "pre_tokenizer.pretokenizers[0].type is \"Odd\""},
      {[](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = 5; },
       "pre_tokenizer.pretokenizers[0].pattern is 5"},
      {[](Json& j) {
         j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"Regex", "(a"}};
       },
       "pre_tokenizer.pretokenizers[0].pattern: regular expression does not compile"},
      {[](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext"; },
       "pretokenizers[0].behavior is \"MergedWithNext\""},
      {[](Json& j) { j["pre_tokenizer"]["pretokenizers"] = 1; }, "pretokenizers is 1"},
      {[](Json& j) { j["post_processor"]["processors"][1]["type"] = "BertProcessing"; },
       "post_processor.processors[1].type is \"BertProcessing\""},
      {[](Json& j) { j["post_processor"]["processors"][1]["special_tokens"] = Json::object(); },
       "special_tokens[\"<|bos|>\"].ids is missing"},
      {[](Json& j) { j["added_tokens"] = 5; }, "added_tokens is 5"},
      {[](Json& j) { j["added_tokens"][1]["content"] = ""; }, "added_tokens[1].content is \"\""},
      {[](Json& j) { j["added_tokens"][1]["special"] = "yes"; }, "added_tokens[1].special"},
      {[](Json& j) { j["added_tokens"][1]["id"] = nullptr; }, "added_tokens[1].id is missing"},
      {[](Json& j) { j["added_tokens"][1] = 7; }, "added_tokens[1].id is missing"},
      {[](Json& j) { j["added_tokens"][1]["id"] = 3; }, "id 3 is both"},
  };
  for (const auto& [change, message] : cases) {
    const std::string error = LoadChanged(change);
    EXPECT_THAT(error, HasSubstr("INVALID_ARGUMENT"));
    EXPECT_THAT(error, HasSubstr("tokenizer.json"));
    EXPECT_THAT(error, HasSubstr(message));
  }
}

TEST_F(TokenizerFilesTest, NestingIsBounded) {
  EXPECT_THAT(LoadChanged([](Json& json) {
                for (int i = 0; i < 10; ++i) {
                  Json inner = json["pre_tokenizer"];
                  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", {inner}}};
                }
              }),
              HasSubstr("is nested deeper than"));
  const std::string deep = std::string(1000000, '[') + std::string(1000000, ']');
  Write("tokenizer.json", deep);
  EXPECT_THAT(Load(), HasSubstr("tokenizer.json nests 1000000 levels of brackets"));
  // Where a message would show the value, that would run out of stack.
  Write("tokenizer.json", R"({"added_tokens": {"a": )" + deep + "}}");
  EXPECT_THAT(Load(), HasSubstr("tokenizer.json nests 1000002 levels of brackets"));
}

TEST_F(TokenizerFilesTest, TruncatedAndGarbledFilesNeverCrash) {
  const std::string json = Source("qwen_like/tokenizer.json");
  const std::string model = Source("llama2_like/tokenizer.model");
  ASSERT_FALSE(json.empty() || model.empty());
  for (size_t size = 0; size < json.size(); size += json.size() / 40) {
    Write("tokenizer.json", json.substr(0, size));
    EXPECT_THAT(Load(), HasSubstr("tokenizer.json is not valid JSON"));
  }
  std::mt19937 random(8);
  for (int round = 0; round < 150; ++round) {  // garbled JSON may still be good
    std::string garbled = json;
    for (int i = 0; i < 3; ++i) garbled[random() % garbled.size()] = static_cast<char>(random());
    Write("tokenizer.json", garbled);
    Load();
  }
  std::filesystem::remove(directory_ + "/tokenizer.json");
  for (size_t size = 0; size < model.size(); size += model.size() / 20) {
    Write("tokenizer.model", model.substr(0, size));
    Load();
  }
  Write("tokenizer.model", "");
  EXPECT_THAT(Load(), HasSubstr("tokenizer.model is not a valid SentencePiece model"));
  Write("tokenizer.model", std::string(1000, '\xFF'));
  EXPECT_THAT(Load(), HasSubstr("tokenizer.model is not a valid SentencePiece model"));
}

// SentencePiece throws for a piece that begins with a byte 0; the fuzzer's input, shortened.
TEST_F(TokenizerFilesTest, APieceThatNoIndexHoldsIsAnError) {
  const std::string unknown("\x0A\x0E\x0A\x05<unk>\x15\0\0\0\0\x18\x02", 16);
  const std::string control("\x0A\x0C\x0A\x03<s>\x15\0\0\0\0\x18\x03", 14);
  const std::string piece("\x0A\x0B\x0A\x04\0\0a>\x15\0\0\0\0", 13);
  Write("tokenizer.model", unknown + control + piece);
  EXPECT_THAT(Load(), HasSubstr("is not a valid SentencePiece model"));
}

// As many control tokens as make every search among them felt: this took minutes.
TEST_F(TokenizerFilesTest, ManyControlTokensAreReadInLinearTime) {
  std::string model("\x0A\x0E\x0A\x05<unk>\x15\0\0\0\0\x18\x02", 16);
  for (int i = 0; i < 300000; ++i) {
    const std::string piece = "c" + std::to_string(1000000 + i);
    model += std::string("\x0A\x0C\x0A\x08", 4) + piece + std::string("\x18\x03", 2);
  }
  model += std::string(
      "\x0A\x08\x0A\x01"
      "a\x15\0\0\0\0",
      10);
  Write("tokenizer.model", model);
  EXPECT_EQ(Load(), "OK");
}

TEST_F(TokenizerFilesTest, ModelAndJsonMustAgree) {
  Write("tokenizer.model", Source("llama2_like/tokenizer.model"));
  EXPECT_EQ(LoadChanged([](Json&) {}, "llama2_like"), "OK");
  const std::string error = LoadChanged(
      [](Json& json) {
        auto& vocab = json["model"]["vocab"];
        std::swap(vocab["a"], vocab["b"]);
      },
      "llama2_like");
  EXPECT_THAT(error, HasSubstr("tokenizer.model and tokenizer.json disagree: id "));
  EXPECT_THAT(LoadChanged(
                  [](Json& json) {
                    json["normalizer"] = {{"type", "Lowercase"}};
                  },
                  "llama2_like"),
              HasSubstr("normalizer is {\"type\":\"Lowercase\"}"));
}

class TokenizerModelOnlyTest : public TokenizerFilesTest {
 protected:
  void SetUp() override {
    TokenizerFilesTest::SetUp();
    Write("tokenizer.model", Source("llama2_like/tokenizer.model"));
  }
};

TEST_F(TokenizerModelOnlyTest, OlderFilesGiveAddedTokens) {
  Write("added_tokens.json", R"({"<pad>": 440, "</line>": 441, "<tool>": 442})");
  Write("special_tokens_map.json",
        R"({"pad_token": {"content": "<pad>"}, "additional_special_tokens": ["</line>"],
            "bos_token": "<s>"})");
  auto tokenizer = LoadTokenizer(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 443);
  const auto special_ids = [&](bool parse_special) {
    std::vector<int32_t> ids =
        *(*tokenizer)->Encode("a<pad>b<tool></line>c", /*add_special=*/true, parse_special);
    std::erase_if(ids, [](int32_t id) { return id >= 3 && id < 440; });
    return ids;
  };
  EXPECT_EQ(special_ids(true), (std::vector<int32_t>{1, 440, 442, 441}));
  EXPECT_EQ(special_ids(false), (std::vector<int32_t>{1, 442}));
  EXPECT_TRUE((*tokenizer)->IsSpecial(440));
  EXPECT_TRUE((*tokenizer)->IsSpecial(441));
  EXPECT_FALSE((*tokenizer)->IsSpecial(442));
  // What is newer counts alone.
  Write("tokenizer_config.json", R"({"added_tokens_decoder": {"440": {"content": "<new>"}}})");
  tokenizer = LoadTokenizer(directory_);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocab_size(), 441);
  EXPECT_EQ((*tokenizer)->TokenToId("<new>"), 440);
}

TEST_F(TokenizerModelOnlyTest, OlderFilesAreChecked) {
  Write("added_tokens.json", R"({"<pad>": "440"})");
  EXPECT_THAT(Load(),
              HasSubstr("added_tokens.json: [\"<pad>\"] is \"440\"; it must be a token id"));
  Write("added_tokens.json", R"({"": 440})");
  EXPECT_THAT(Load(), HasSubstr("added_tokens.json: [\"\"] is 440; its name must not be empty"));
  Write("added_tokens.json", R"({"<pad>": 7})");
  EXPECT_THAT(Load(), HasSubstr("id 7 is both"));
  Write("added_tokens.json", "{}");
  Write("special_tokens_map.json", R"({"additional_special_tokens": ["<a>", 5]})");
  EXPECT_THAT(Load(), HasSubstr("special_tokens_map.json: additional_special_tokens[1] is 5"));
  Write("special_tokens_map.json", R"({"pad_token": {"id": 5}})");
  EXPECT_THAT(Load(), HasSubstr("special_tokens_map.json: pad_token is {\"id\":5}"));
}

TEST_F(TokenizerModelOnlyTest, AddPrefixSpaceIsRead) {
  const auto first_piece = [&](const std::string& config) {
    Write("tokenizer_config.json", config);
    const auto tokenizer = LoadTokenizer(directory_);
    EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
    return tokenizer.ok()
               ? (*tokenizer)->IdToToken((*tokenizer)->Encode("a", false, false)->front())
               : "";
  };
  const std::string mark = "\xE2\x96\x81";
  EXPECT_TRUE(first_piece("{}").starts_with(mark));
  EXPECT_TRUE(first_piece(R"({"add_prefix_space": true})").starts_with(mark));
  EXPECT_EQ(first_piece(R"({"add_prefix_space": false})"), "a");
  EXPECT_FALSE((*LoadTokenizer(directory_))->StripsLeadingSpace());
  // A tokenizer.json says itself what goes in front.
  Write("tokenizer.json", Source("llama2_like/tokenizer.json"));
  EXPECT_TRUE(first_piece(R"({"add_prefix_space": false})").starts_with(mark));
}

TEST_F(TokenizerFilesTest, TokenizerConfigIsChecked) {
  Write("tokenizer.json", Source("llama3_like/tokenizer.json"));
  const auto load = [&](const std::string& config) {
    Write("tokenizer_config.json", config);
    return Load();
  };
  EXPECT_EQ(load(R"({"bos_token": {"content": "<|bos|>"}, "add_bos_token": true})"), "OK");
  EXPECT_THAT(load("[]"), HasSubstr("tokenizer_config.json: the top level is []"));
  EXPECT_THAT(load(R"({"add_bos_token": 1})"), HasSubstr("config.json: add_bos_token is 1"));
  EXPECT_THAT(load(R"({"bos_token": 1})"), HasSubstr("config.json: bos_token is 1"));
  EXPECT_THAT(load(R"({"added_tokens_decoder": {"x": {}}})"),
              HasSubstr("added_tokens_decoder[\"x\"]"));
  EXPECT_THAT(load(R"({"added_tokens_decoder": {"3": {"content": "<new>"}}})"),
              HasSubstr("id 3 is both"));
}

}  // namespace
}  // namespace sterna
