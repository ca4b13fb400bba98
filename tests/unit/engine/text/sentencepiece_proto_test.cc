#include "engine/text/sentencepiece_proto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "engine/text/sentencepiece_model.h"
#include "tests/testing/paths.h"
#include "tests/unit/engine/text/gguf_tokenizer_testing.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;

std::string ModelBytes() {
  const auto bytes =
      ReadTextFile(testing::SourcePath("tests/golden/data/tokenizers/llama2_like/tokenizer.model"));
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.value_or("");
}

std::string ParseError(const std::string& bytes) {
  return std::string(ParseSentencePiece(bytes).status().message());
}

TEST(SentencePieceProtoTest, ReadsATrainedModelAsTheLibraryDoes) {
  const std::string bytes = ModelBytes();
  const auto model = ParseSentencePiece(bytes);
  ASSERT_TRUE(model.ok()) << model.status();
  std::string error;
  const auto library = SentencePieceModel::Load(bytes, &error);
  ASSERT_NE(library, nullptr) << error;
  ASSERT_EQ(static_cast<int32_t>(model->pieces.size()), library->size());
  for (int32_t id = 0; id < library->size(); ++id) {
    const auto& piece = model->pieces[id];
    ASSERT_EQ(piece.text, library->Piece(id));
    ASSERT_EQ(piece.type == PieceType::kByte, library->IsByte(id));
    ASSERT_EQ(piece.type == PieceType::kControl || piece.type == PieceType::kUnknown,
              library->IsControlOrUnknown(id));
  }
  EXPECT_EQ(model->pieces[2].type, PieceType::kControl);
  EXPECT_EQ(model->pieces.back().type, PieceType::kNormal);
  EXPECT_LT(model->pieces.back().score, model->pieces[300].score);
  EXPECT_EQ(model->model_type, SentencePieceProto::kBpe);
  EXPECT_TRUE(model->byte_fallback);
  EXPECT_TRUE(model->add_dummy_prefix);
  EXPECT_FALSE(model->remove_extra_whitespace);
  EXPECT_TRUE(model->escape_whitespace);
  EXPECT_FALSE(model->space_is_suffix);
}

TEST(SentencePieceProtoTest, WhatIsWrittenIsRead) {
  SentencePieceProto model;
  model.pieces = {{"<unk>", 0, PieceType::kUnknown},
                  {"\xE2\x96\x81" + std::string(300, 'x'), -1.5F, PieceType::kNormal},
                  {"", 3e38F, PieceType::kUserDefined}};
  model.model_type = SentencePieceProto::kBpe;
  model.charsmap = std::string("\0\xFF\x80", 3);
  for (int bits = 0; bits < 32; ++bits) {
    model.byte_fallback = (bits & 1) != 0;
    model.space_is_suffix = (bits & 2) != 0;
    model.add_dummy_prefix = (bits & 4) != 0;
    model.remove_extra_whitespace = (bits & 8) != 0;
    model.escape_whitespace = (bits & 16) != 0;
    const auto read = ParseSentencePiece(SerializeSentencePiece(model));
    ASSERT_TRUE(read.ok()) << read.status();
    ASSERT_EQ(read->pieces.size(), model.pieces.size());
    for (size_t i = 0; i < model.pieces.size(); ++i) {
      EXPECT_EQ(read->pieces[i].text, model.pieces[i].text);
      EXPECT_EQ(read->pieces[i].score, model.pieces[i].score);
      EXPECT_EQ(read->pieces[i].type, model.pieces[i].type);
    }
    EXPECT_EQ(read->model_type, model.model_type);
    EXPECT_EQ(read->charsmap, model.charsmap);
    EXPECT_EQ(read->byte_fallback, model.byte_fallback);
    EXPECT_EQ(read->space_is_suffix, model.space_is_suffix);
    EXPECT_EQ(read->add_dummy_prefix, model.add_dummy_prefix);
    EXPECT_EQ(read->remove_extra_whitespace, model.remove_extra_whitespace);
    EXPECT_EQ(read->escape_whitespace, model.escape_whitespace);
  }
}

// The library finds in it what it finds in the trained model.
TEST(SentencePieceProtoTest, TheLibraryReadsWhatIsWritten) {
  const std::string bytes = ModelBytes();
  const auto model = ParseSentencePiece(bytes);
  ASSERT_TRUE(model.ok()) << model.status();
  std::string error;
  const auto trained = SentencePieceModel::Load(bytes, &error);
  const auto written = SentencePieceModel::Load(SerializeSentencePiece(*model), &error);
  ASSERT_TRUE(trained != nullptr && written != nullptr) << error;
  for (const char* text : {"The fox went home.", " two  spaces ", "\xE6\x97\xA5 1234", "a\nb"}) {
    std::vector<int32_t> got, want;
    ASSERT_TRUE(written->Encode(text, &got, &error) && trained->Encode(text, &want, &error));
    EXPECT_EQ(got, want) << text;
  }
}

TEST(CharsmapTest, TheLibraryFollowsAGoodOne) {
  auto model = ParseSentencePiece(ModelBytes());
  ASSERT_TRUE(model.ok()) << model.status();
  model->charsmap = SmallCharsmap().Bytes();
  EXPECT_EQ(CheckCharsmap(model->charsmap), absl::OkStatus());
  EXPECT_EQ(CheckCharsmap(""), absl::OkStatus());
  std::string error;
  const auto library = SentencePieceModel::Load(SerializeSentencePiece(*model), &error);
  ASSERT_NE(library, nullptr) << error;
  std::vector<int32_t> upper, lower;
  ASSERT_TRUE(library->Encode("bAnB", &upper, &error) && library->Encode("banB", &lower, &error));
  EXPECT_EQ(upper, lower);
}

TEST(CharsmapTest, WhatLeadsOutsideIsRefused) {
  const auto error_with = [](const std::function<void(SmallCharsmap&)>& change) {
    SmallCharsmap map;
    change(map);
    return std::string(CheckCharsmap(map.Bytes()).message());
  };
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.units[0] = 256U << 10; }),
              HasSubstr("leads outside of itself at unit 0 of 256"));
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.units[7] = 1U << 9 | 1U << 10; }),
              HasSubstr("at unit 7 of 256"));
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.units[0] |= 1U << 31 | 256U << 10; }),
              HasSubstr("at unit 0 of 256"));
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.units[1 ^ 'A' ^ 2] |= 2; }),
              HasSubstr("at unit 64 of 256"));
  EXPECT_EQ(error_with([](SmallCharsmap& map) { map.units[1 ^ 'A' ^ 2] |= 1; }), "");
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.units.pop_back(); }),
              HasSubstr("leads outside of itself at unit 0 of 255"));
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.texts = "a"; }),
              HasSubstr("end with a zero"));
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.texts.clear(); }),
              HasSubstr("has 1028 bytes, which do not hold a trie of 1024 bytes"));
  EXPECT_THAT(error_with([](SmallCharsmap& map) { map.units.clear(); }), HasSubstr("of 0 bytes"));
  for (const size_t size : {1, 4, 7, 8, 900}) {
    EXPECT_FALSE(CheckCharsmap(SmallCharsmap().Bytes().substr(0, size)).ok()) << size;
  }
}

TEST(SentencePieceProtoTest, DamageIsAnErrorWithItsPlace) {
  EXPECT_EQ(ParseError(""), "");
  EXPECT_EQ(ParseError("\x0A"), "byte 1 has a number that goes beyond the end");
  EXPECT_EQ(ParseError("\x0A\x05"), "byte 2 has a field that goes beyond the end");
  EXPECT_EQ(ParseError("\x0A\x02\x0A\x05"), "byte 4 has a field that goes beyond the end");
  EXPECT_EQ(ParseError("\x08" + std::string(10, '\xFF')),
            "byte 11 has a number of more than ten bytes");
  EXPECT_THAT(ParseError("\x0B"), HasSubstr("has wire type 3, which protocol buffers do not"));
  EXPECT_EQ(ParseError("\x0A\x02\x18\x07"), "piece 0 has type 7; the types are 1 to 6");
  EXPECT_EQ(ParseError("\x42\x01x\x4D\x01\x02\x03\x04\x51\x01\x02\x03\x04\x05\x06\x07\x08"), "");

  std::string bytes = ModelBytes();
  std::mt19937 random(5);
  for (size_t size = 0; size < bytes.size(); size += 1 + random() % 40) {
    const auto ignored = ParseSentencePiece(std::string_view(bytes).substr(0, size));
  }
  for (int round = 0; round < 2000; ++round) {
    bytes[random() % bytes.size()] = static_cast<char>(random());
    const auto ignored = ParseSentencePiece(bytes);
  }
}

}  // namespace
}  // namespace sterna
