// Tokenizers of Hugging Face directories, written as GGUF metadata and read back.
#include "engine/text/gguf_tokenizer_export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "engine/text/gguf_vocabulary.h"
#include "engine/text/sentencepiece_proto.h"
#include "nlohmann/json.hpp"
#include "tests/testing/paths.h"
#include "tests/unit/engine/text/gguf_tokenizer_testing.h"

namespace sterna {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kDirectory[] = "tests/golden/data/tokenizers/";
constexpr int64_t kVocabSize = 450;

std::string Source(const std::string& name) {
  const auto text = ReadTextFile(testing::SourcePath(kDirectory + name));
  EXPECT_TRUE(text.ok()) << text.status();
  return text.value_or("");
}

std::vector<std::string> Texts() {
  std::vector<std::string> texts;
  const Json goldens = Json::parse(Source("goldens.json"));
  for (const Json& golden : goldens["llama3_like"]) texts.push_back(golden[0]);
  EXPECT_GE(texts.size(), 150u);
  return texts;
}

// What GGUF cannot say, taken away.
void MakePlain(Json& json) {
  for (Json& token : json["added_tokens"]) {
    token["lstrip"] = token["rstrip"] = token["single_word"] = token["normalized"] = false;
  }
}

struct Kind {
  const char* name;
  const char* directory;
  const char* pre;
  std::function<void(Json&)> change;
};

void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }

std::vector<Kind> Kinds() {
  const auto without_prefix = [](Json& json) { json["pre_tokenizer"]["add_prefix_space"] = false; };
  return {
      {"llama3", "llama3_like", "llama-bpe", [](Json&) {}},
      {"llama3_merging", "llama3_like", "smaug-bpe",
       [](Json& json) { json["model"]["ignore_merges"] = false; }},
      {"qwen", "qwen_like", "qwen2",
       [](Json& json) {
         Json& regex = json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
         std::string text = regex;
         text.replace(text.find("{1,3}"), 5, "");
         regex = text;
       }},
      {"gpt2", "gpt2_like", "gpt-2", without_prefix},
      {"gpt_neox", "gpt2_like", "mpt",
       [=](Json& json) {
         without_prefix(json);
         json["normalizer"] = {{"type", "NFC"}};
       }},
      {"smollm", "gpt2_like", "smollm",
       [=](Json& json) {
         without_prefix(json);
         const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
         json["pre_tokenizer"] = {{"type", "Sequence"},
                                  {"pretokenizers", {digits, json["pre_tokenizer"]}}};
       }},
      {"falcon", "falcon_like", "falcon", [](Json&) {}},
      {"llama2", "llama2_like", "default", [](Json&) {}},
  };
}

// A copy of a golden directory, with changes.
class Directory {
 public:
  Directory(const std::string& name, const std::function<void(Json&)>& change) {
    Json json = Json::parse(Source(name + "/tokenizer.json"));
    MakePlain(json);
    change(json);
    directory_.Write("tokenizer.json", json.dump());
    directory_.Write("tokenizer_config.json", Source(name + "/tokenizer_config.json"));
    const std::string model = testing::SourcePath(kDirectory + name + "/tokenizer.model");
    if (std::filesystem::exists(model)) {
      std::filesystem::copy_file(model, path() + "/tokenizer.model");
    }
  }

  const std::string& path() const { return directory_.path(); }
  void Write(const std::string& name, const std::string& text) const {
    directory_.Write(name, text);
  }

 private:
  testing::TempDir directory_;
};

class GgufTokenizerExportTest : public ::testing::TestWithParam<Kind> {};

TEST_P(GgufTokenizerExportTest, ReadsBackTheSame) {
  const Directory directory(GetParam().directory, GetParam().change);
  const auto want = LoadTokenizer(directory.path());
  ASSERT_TRUE(want.ok()) << want.status();
  auto metadata = GgufTokenizerMetadata(directory.path(), kVocabSize, {});
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  EXPECT_EQ(ValueOf<std::string>(*metadata, gguf_keys::kPre), GetParam().pre);
  EXPECT_EQ(ValueOf<std::vector<std::string>>(*metadata, gguf_keys::kTokens).size(), kVocabSize);
  const GgufOnDisk file(*metadata);
  const auto got = LoadGgufTokenizer(file.metadata());
  ASSERT_TRUE(got.ok()) << got.status();
  ExpectSameTokenizer(**got, **want, Texts());
}

INSTANTIATE_TEST_SUITE_P(Kinds, GgufTokenizerExportTest, ::testing::ValuesIn(Kinds()),
                         [](const auto& info) { return std::string(info.param.name); });

std::string ExportError(const Directory& directory, int64_t vocab_size = kVocabSize,
                        const std::vector<int32_t>& ends = {}) {
  return GgufTokenizerMetadata(directory.path(), vocab_size, ends).status().ToString();
}

TEST(GgufTokenizerRefusalTest, SaysWhatGgufCannotSay) {
  const std::vector<std::tuple<std::string, std::function<void(Json&)>, std::string>> cases = {
      {"qwen_like", [](Json&) {}, "normalizer NFC and ignore_merges false, has no name in GGUF"},
      {"gpt2_like", [](Json&) {}, "has no name in GGUF known here; known are llama-bpe, llama3"},
      {"llama3_like", [](Json& j) { j["added_tokens"][2]["lstrip"] = true; },
       "has the added token \"<left>\" with lstrip"},
      {"llama3_like", [](Json& j) { j["added_tokens"][3]["rstrip"] = true; },
       "has the added token \"<right>\" with rstrip"},
      {"llama3_like", [](Json& j) { j["added_tokens"][5]["single_word"] = true; },
       "has the added token \"word\" with single_word"},
      {"llama3_like",
       [](Json& j) {
         Json& single = j["post_processor"]["processors"][1]["single"];
         single.insert(single.begin(), single[0]);
       },
       "puts 2 tokens in front of a text"},
      {"llama3_like",
       [](Json& j) {
         Json& post = j["post_processor"]["processors"][1];
         post["single"].push_back({{"SpecialToken", {{"id", "<left>"}}}});
         post["special_tokens"]["<left>"] = {{"ids", {422}}};
       },
       "puts \"<left>\" around a text"},
      {"llama2_like",
       [](Json& j) {
         j["normalizer"] = nullptr;
         j["pre_tokenizer"] = {
             {"type", "Metaspace"}, {"prepend_scheme", "first"}, {"split", false}};
       },
       "puts a space in front of some texts only"},
  };
  for (const auto& [kind, change, message] : cases) {
    const Directory directory(kind, change);
    EXPECT_THAT(ExportError(directory), AllOf(HasSubstr("INVALID_ARGUMENT"),
                                              HasSubstr(directory.path()), HasSubstr(message)));
  }
}

TEST(GgufTokenizerRefusalTest, SizesAndIdsMustFit) {
  const Directory directory("llama3_like", [](Json&) {});
  EXPECT_EQ(ExportError(directory, 426), "OK");
  EXPECT_THAT(ExportError(directory, 425),
              HasSubstr("has ids up to 425, but the model has 425 rows for tokens"));
  EXPECT_THAT(ExportError(directory, 450, {426}), HasSubstr("has no token 426, which ends"));
  EXPECT_THAT(ExportError(directory, 450, {-1}), HasSubstr("has no token -1, which ends"));
}

TEST(GgufTokenizerRefusalTest, OnlyBpeWithItsUserTokensInTheJson) {
  const Directory directory("llama2_like", [](Json&) {});
  auto model = ParseSentencePiece(Source("llama2_like/tokenizer.model"));
  ASSERT_TRUE(model.ok()) << model.status();
  model->space_is_suffix = true;
  directory.Write("tokenizer.model", SerializeSentencePiece(*model));
  EXPECT_THAT(ExportError(directory), HasSubstr("has treat_whitespace_as_suffix"));
  model->space_is_suffix = false;
  model->pieces[300].type = PieceType::kUserDefined;
  directory.Write("tokenizer.model", SerializeSentencePiece(*model));
  EXPECT_THAT(ExportError(directory), HasSubstr("has the user-defined piece \""));
  model->pieces[300].type = PieceType::kNormal;
  model->model_type = SentencePieceProto::kUnigram;
  directory.Write("tokenizer.model", SerializeSentencePiece(*model));
  EXPECT_THAT(ExportError(directory), HasSubstr("tokenizer.model has model_type 1"));
}

// Without tokenizer.json the model says what is done with spaces and characters.
TEST(GgufTokenizerAloneTest, TokenizerModelAlone) {
  for (const bool prefix : {true, false}) {
    auto model = ParseSentencePiece(Source("llama2_like/tokenizer.model"));
    ASSERT_TRUE(model.ok()) << model.status();
    model->add_dummy_prefix = prefix;
    model->remove_extra_whitespace = prefix;
    if (prefix) model->charsmap = SmallCharsmap().Bytes();
    const testing::TempDir directory;
    directory.Write("tokenizer.model", SerializeSentencePiece(*model));
    directory.Write("tokenizer_config.json", R"({"add_eos_token": true})");
    const auto want = LoadTokenizer(directory.path());
    ASSERT_TRUE(want.ok()) << want.status();
    EXPECT_EQ((*want)->StripsLeadingSpace(), prefix);
    const auto metadata = GgufTokenizerMetadata(directory.path(), kVocabSize, {});
    ASSERT_TRUE(metadata.ok()) << metadata.status();
    const GgufOnDisk file(*metadata);
    const auto got = LoadGgufTokenizer(file.metadata());
    ASSERT_TRUE(got.ok()) << got.status();
    ExpectSameTokenizer(**got, **want, Texts());
    EXPECT_EQ(*(*got)->Encode("bAnB", true, false) == *(*got)->Encode("banB", true, false), prefix);
  }
  const testing::TempDir directory;
  directory.Write("tokenizer.model", Source("llama2_like/tokenizer.model"));
  directory.Write("tokenizer_config.json", R"({"legacy": false})");
  EXPECT_THAT(GgufTokenizerMetadata(directory.path(), kVocabSize, {}).status().ToString(),
              HasSubstr("puts a space in front of some texts only"));
}

TEST(GgufTokenizerKeysTest, SpecialTokensTemplateAndEnds) {
  const Directory directory("llama3_like", [](Json&) {});
  directory.Write("tokenizer_config.json",
                  R"({"bos_token": "<|bos|>", "eos_token": "<|end|>", "pad_token": "<left>",
                      "unk_token": "<right>", "chat_template": "{{ bos_token }}hi{{ eos_token }}"})");
  const std::vector<int32_t> ends = {423, 421, 422};
  auto metadata = GgufTokenizerMetadata(directory.path(), kVocabSize, ends);
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  EXPECT_EQ(ValueOf<uint32_t>(*metadata, gguf_keys::kBos), 420u);
  EXPECT_EQ(ValueOf<uint32_t>(*metadata, gguf_keys::kEos), 421u);
  EXPECT_EQ(ValueOf<uint32_t>(*metadata, gguf_keys::kEot), 423u);
  EXPECT_EQ(ValueOf<uint32_t>(*metadata, gguf_keys::kPadding), 422u);
  EXPECT_EQ(ValueOf<uint32_t>(*metadata, gguf_keys::kUnknown), 423u);
  EXPECT_TRUE(ValueOf<bool>(*metadata, gguf_keys::kAddBos));
  EXPECT_FALSE(ValueOf<bool>(*metadata, gguf_keys::kAddEos));
  const GgufOnDisk file(*metadata);
  const auto ids = ReadGgufEndTokenIds(file.metadata());
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_THAT(*ids, ElementsAre(421, 422, 423));
  const auto chat = LoadGgufChatTemplate(file.metadata());
  ASSERT_TRUE(chat.ok()) << chat.status();
  EXPECT_EQ(chat->Render({.messages_json = "[]"}).value_or(""), "<|bos|>hi<|end|>");
}

TEST(GgufTokenizerKeysTest, ErrorsOfTheFilesAreKept) {
  EXPECT_THAT(GgufTokenizerMetadata("nowhere", 5, {}).status().ToString(),
              HasSubstr("nowhere has neither tokenizer.json nor tokenizer.model"));
  const Directory directory("llama3_like", [](Json&) {});
  directory.Write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(ExportError(directory), HasSubstr("tokenizer_config.json: chat_template is 5"));
}

}  // namespace
}  // namespace sterna
