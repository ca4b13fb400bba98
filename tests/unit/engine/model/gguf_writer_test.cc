#include "engine/model/gguf_writer.h"

#include <filesystem>

#include "engine/model/gguf.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;

std::vector<uint8_t> Bytes(int64_t size, int first) {
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(first + 7 * i);
  return bytes;
}

// Every type of value, tensors of several types, and sizes with and without padding behind them.
TEST(GgufWriterTest, WhatIsWrittenIsReadBack) {
  const testing::TempDir dir;
  const std::string path = dir.path() + "/m.gguf";
  const GgufKeyValue metadata[] = {
      {"general.architecture", std::string("llama")},
      {"a.uint", uint32_t{4'000'000'000}},
      {"a.int", int32_t{-5}},
      {"a.float", 0.25f},
      {"a.true", true},
      {"a.false", false},
      {"a.strings", std::vector<std::string>{"x", "", "\xe2\x96\x81y"}},
      {"a.ints", std::vector<int32_t>{-1, 2, 3}},
      {"a.floats", std::vector<float>{0.5f, -1e30f}},
      {"a.nothing", std::vector<std::string>{}},
  };
  const std::vector<GgufTensorHeader> tensors = {
      {"t.f32", kPackingF32, {3}},        {"t.bf16", kPackingBf16, {5, 2}},
      {"t.f16", kPackingF16, {2, 3, 16}}, {"t.tq1", kPackingTq1_0, {3, 512}},
      {"t.tq2", kPackingTq2_0, {1, 256}}, {"t.q2", kPackingQ2_0Of128, {16, 256}},
  };
  EXPECT_EQ(tensors[0].bytes(), 12);
  EXPECT_EQ(tensors[3].bytes(), 3 * 2 * 54);
  EXPECT_EQ(tensors[5].bytes(), 16 * 2 * 34);
  auto writer = GgufWriter::Create(path, metadata, tensors);
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<uint8_t> bytes = Bytes(tensors[i].bytes(), static_cast<int>(i));
    // In pieces.
    ASSERT_TRUE(writer->Write(std::span(bytes).first(5)).ok());
    ASSERT_TRUE(writer->Write(std::span(bytes).subspan(5)).ok());
  }
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer->Finish().ok());

  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file.ok()) << file.status();
  const GgufMetadata& read = file->metadata();
  EXPECT_EQ(read.values().size(), std::size(metadata));
  EXPECT_EQ(*read.String("general.architecture"), "llama");
  EXPECT_EQ(*read.Integer("a.uint"), 4'000'000'000);
  EXPECT_EQ(*read.Integer("a.int"), -5);
  EXPECT_EQ(*read.Float("a.float"), 0.25);
  EXPECT_TRUE(*read.Bool("a.true"));
  EXPECT_FALSE(*read.Bool("a.false"));
  EXPECT_THAT(*read.Strings("a.strings"), ElementsAre("x", "", "\xe2\x96\x81y"));
  EXPECT_THAT(*read.Integers("a.ints"), ElementsAre(-1, 2, 3));
  EXPECT_THAT(*read.Floats("a.floats"), ElementsAre(0.5, double{-1e30f}));
  EXPECT_THAT(*read.Strings("a.nothing"), ElementsAre());
  EXPECT_EQ(file->tensors().size(), tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor* tensor = file->Find(tensors[i].name);
    ASSERT_NE(tensor, nullptr) << tensors[i].name;
    EXPECT_EQ(tensor->type, tensors[i].packing.type);
    EXPECT_EQ(tensor->shape, tensors[i].shape);
    EXPECT_EQ(tensor->block_elements, tensors[i].packing.block_elements);
    EXPECT_EQ(tensor->block_bytes, tensors[i].packing.block_bytes);
    EXPECT_EQ(std::vector<uint8_t>(tensor->bytes.begin(), tensor->bytes.end()),
              Bytes(tensors[i].bytes(), static_cast<int>(i)));
  }
}

TEST(GgufWriterTest, LeavesNothingWhenItIsNotFinished) {
  const testing::TempDir dir;
  const GgufTensorHeader tensors[] = {{"t", kPackingF32, {3}}};
  {
    auto writer = GgufWriter::Create(dir.path() + "/m.gguf", {}, tensors);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(writer->Write(Bytes(4, 0)).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(GgufWriterTest, SaysWhereItCannotWrite) {
  const testing::TempDir dir;
  const Status status = GgufWriter::Create(dir.path() + "/none/m.gguf", {}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(status.message(), ::testing::HasSubstr("/none/m.gguf"));
}

TEST(GgufWriterDeathTest, TensorsAreWholeAndNoLonger) {
  const testing::TempDir dir;
  const GgufTensorHeader tensors[] = {{"t", kPackingF32, {3}}};
  auto writer = GgufWriter::Create(dir.path() + "/m.gguf", {}, tensors);
  ASSERT_TRUE(writer.ok()) << writer.status();
  EXPECT_DEATH((void)writer->Write(Bytes(13, 0)), "written_ <= all");
  EXPECT_DEATH((void)writer->Finish(), "tensor_ ==");
}

}  // namespace
}  // namespace sterna
