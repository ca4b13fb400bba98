#include "engine/model/safetensors_writer.h"

#include <filesystem>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

std::vector<uint8_t> Bytes(int64_t size, int first) {
  std::vector<uint8_t> bytes(static_cast<size_t>(size));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<uint8_t>(first + 7 * i);
  return bytes;
}

const std::vector<SafetensorsHeader>& Tensors() {
  static const auto& tensors = *new std::vector<SafetensorsHeader>{
      {"model.norm", TensorType::kF32, {5}},  {"a.weight", TensorType::kU8, {3, 7}},
      {"a.scale", TensorType::kBf16, {1}},    {"b.weight", TensorType::kF16, {4, 4}},
      {"b.\"odd\"\n", TensorType::kBf16, {}},
  };
  return tensors;
}

// Writes all tensors and reads them back; returns the names of the files.
std::set<std::string> WriteAndRead(const std::string& dir, int64_t max_shard_bytes) {
  auto writer =
      SafetensorsWriter::Create(dir, Tensors(), {{"note", "for \"people\""}}, max_shard_bytes);
  EXPECT_TRUE(writer.ok()) << writer.status();
  int number = 0;
  for (const SafetensorsHeader& tensor : Tensors()) {
    const std::vector<uint8_t> bytes = Bytes(tensor.bytes(), ++number);
    EXPECT_TRUE(writer->Write(std::span(bytes).first(1)).ok());
    EXPECT_TRUE(writer->Write(std::span(bytes).subspan(1)).ok());
  }
  EXPECT_FALSE(SafetensorsCheckpoint::Open(dir).ok());
  const Status finished = writer->Finish();
  EXPECT_TRUE(finished.ok()) << finished;

  const auto checkpoint = SafetensorsCheckpoint::Open(dir);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->names().size(), Tensors().size());
  number = 0;
  for (const SafetensorsHeader& tensor : Tensors()) {
    const TensorView* view = checkpoint->Find(tensor.name);
    EXPECT_NE(view, nullptr) << tensor.name;
    EXPECT_EQ(view->type, tensor.type);
    EXPECT_EQ(view->shape, tensor.shape);
    EXPECT_EQ(std::vector<uint8_t>(view->bytes.begin(), view->bytes.end()),
              Bytes(tensor.bytes(), ++number));
  }
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

TEST(SafetensorsWriterTest, WritesOneFile) {
  const testing::TempDir dir;
  EXPECT_THAT(WriteAndRead(dir.path(), kMaxShardBytes),
              ::testing::ElementsAre("model.safetensors"));
  const std::string text = *ReadTextFile(dir.path() + "/model.safetensors");
  EXPECT_THAT(text, ::testing::HasSubstr(R"("note":"for \"people\"")"));
  uint64_t header_bytes;
  std::memcpy(&header_bytes, text.data(), sizeof(header_bytes));
  EXPECT_EQ(header_bytes % 8, 0);
}

// 20, 21, 2, 32 and 2 bytes: the first is larger than a shard, two fit one to the byte.
TEST(SafetensorsWriterTest, WritesShards) {
  const testing::TempDir dir;
  EXPECT_THAT(
      WriteAndRead(dir.path(), 34),
      ::testing::ElementsAre("model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                             "model-00003-of-00003.safetensors", "model.safetensors.index.json"));
  const testing::TempDir tiny;
  EXPECT_EQ(WriteAndRead(tiny.path(), 1).size(), Tensors().size() + 1);
}

TEST(SafetensorsWriterTest, LeavesNothingWhenItIsNotFinished) {
  const testing::TempDir dir;
  {
    auto writer = SafetensorsWriter::Create(dir.path(), Tensors(), {}, 34);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(writer->Write(Bytes(20, 0)).ok());
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(SafetensorsWriterTest, SaysWhereItCannotWrite) {
  const testing::TempDir dir;
  const Status status = SafetensorsWriter::Create(dir.path() + "/none", Tensors(), {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(status.message(), ::testing::HasSubstr("/none/model.safetensors"));
}

}  // namespace
}  // namespace sterna
