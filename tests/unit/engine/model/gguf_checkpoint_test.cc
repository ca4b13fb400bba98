// Models that are split over several GGUF files.
#include <algorithm>
#include <array>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "engine/model/gguf.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::ElementsAre;
using testing::GgufContents;
using testing::GgufFileBytes;
using testing::GgufNumber;
using testing::GgufText;
using ::testing::HasSubstr;
using testing::TempDir;

constexpr uint32_t kF32 = 0;

class GgufSplitTest : public ::testing::Test {
 protected:
  static constexpr int kFiles = 3;
  // A model 'm' of three files, of one tensor each, the first with general.architecture.
  GgufSplitTest() {
    for (uint16_t i = 0; i < kFiles; ++i) {
      files_[i].metadata = {{"split.no", GgufNumber(i)},
                            {"split.count", GgufNumber(uint16_t{kFiles})},
                            {"split.tensors.count", GgufNumber(int32_t{kFiles})}};
      files_[i].tensors = {
          {absl::StrCat("t", i), kF32, {1}, std::string(4, static_cast<char>('0' + i)), {}}};
    }
    files_[0].metadata.emplace_back("general.architecture", GgufText("bitnet"));
  }
  std::string Path(int i) const { return absl::StrCat(dir_.path(), "/", Name(i)); }
  static std::string Name(int i) {
    return absl::StrCat("m-0000", i + 1, "-of-0000", kFiles, ".gguf");
  }
  StatusOr<GgufCheckpoint> Open() {
    for (int i = 0; i < kFiles; ++i) dir_.Write(Name(i), GgufFileBytes(files_[i]));
    return GgufCheckpoint::Open(Path(0));
  }
  testing::GgufBytes& Value(int file, const std::string& key) {
    for (auto& [name, value] : files_[file].metadata) {
      if (name == key) return value;
    }
    return files_[file].metadata.emplace_back(key, testing::GgufBytes{}).second;
  }
  TempDir dir_;
  GgufContents files_[kFiles];
};

TEST_F(GgufSplitTest, OpensTheRestBesideTheFirst) {
  auto opened = Open();
  ASSERT_TRUE(opened.ok()) << opened.status();
  const GgufCheckpoint checkpoint = *std::move(opened);
  EXPECT_EQ(checkpoint.files().size(), 3u);
  EXPECT_THAT(checkpoint.names(), ElementsAre("t0", "t1", "t2"));
  EXPECT_EQ(*checkpoint.metadata().String("general.architecture"), "bitnet");
  for (int i = 0; i < kFiles; ++i) {
    const GgufTensor* tensor = checkpoint.Find(absl::StrCat("t", i));
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->bytes[0], '0' + i);
    EXPECT_EQ(tensor->file, Path(i));
  }
  EXPECT_EQ(checkpoint.Find("t3"), nullptr);
}

TEST_F(GgufSplitTest, OneFileIsAModelTooSplitOrNot) {
  const GgufContents unsplit = {
      .metadata = {}, .tensors = {{"a", kF32, {1}, "1234", {}}, {"b", kF32, {1}, "5678", {}}}};
  dir_.Write("one.gguf", GgufFileBytes(unsplit));
  const auto one = GgufCheckpoint::Open(dir_.path() + "/one.gguf");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_THAT(one->names(), ElementsAre("a", "b"));
  Value(0, "split.count") = GgufNumber(uint16_t{1});
  Value(0, "split.tensors.count") = GgufNumber(int32_t{1});
  dir_.Write("two.gguf", GgufFileBytes(files_[0]));
  const auto split = GgufCheckpoint::Open(dir_.path() + "/two.gguf");
  ASSERT_TRUE(split.ok()) << split.status();
  EXPECT_THAT(split->names(), ElementsAre("t0"));
}

TEST_F(GgufSplitTest, FilesMergedAgainCountNone) {
  // What `llama-gguf-split --merge` writes: the first file's metadata but for the count.
  Value(0, "split.count") = GgufNumber(uint16_t{0});
  for (int i = 1; i < kFiles; ++i) files_[0].tensors.push_back(files_[i].tensors[0]);
  dir_.Write("merged.gguf", GgufFileBytes(files_[0]));
  const auto merged = GgufCheckpoint::Open(dir_.path() + "/merged.gguf");
  ASSERT_TRUE(merged.ok()) << merged.status();
  EXPECT_EQ(merged->files().size(), 1u);
  EXPECT_THAT(merged->names(), ElementsAre("t0", "t1", "t2"));

  files_[0].tensors.pop_back();
  dir_.Write("short.gguf", GgufFileBytes(files_[0]));
  const Status status = GgufCheckpoint::Open(dir_.path() + "/short.gguf").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), HasSubstr("'split.tensors.count' is 3"));
  EXPECT_THAT(status.message(), HasSubstr("hold 2 tensors"));
}

TEST_F(GgufSplitTest, RefusesFilesThatDoNotBelongTogether) {
  struct Case {
    int file;
    const char* key;
    testing::GgufBytes value;
    absl::StatusCode code;
    std::vector<std::string> messages;
  };
  constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
  const Case cases[] = {
      {0,
       "split.count",
       GgufNumber(uint16_t{2}),
       absl::StatusCode::kInvalidArgument,
       {Path(0), "first of 2", "-00001-of-00002.gguf"}},
      {0, "split.count", GgufNumber(int16_t{-1}), kDataLoss, {Path(0), "'split.count' -1"}},
      {0, "split.count", GgufNumber(uint32_t{65536}), kDataLoss, {Path(0), "65536"}},
      {0,
       "split.count",
       GgufText("3"),
       absl::StatusCode::kInvalidArgument,
       {Path(0), "'split.count' is a string, but should be an integer"}},
      {0,
       "split.no",
       GgufNumber(uint16_t{1}),
       absl::StatusCode::kInvalidArgument,
       {Path(0), "file 2 of 3", "-00001-of-00003.gguf"}},
      {0, "split.no", GgufNumber(uint16_t{3}), kDataLoss, {Path(0), "'split.no' is 3"}},
      {0, "split.no", GgufNumber(int16_t{-1}), kDataLoss, {Path(0), "'split.no' is -1"}},
      {1,
       "split.no",
       GgufNumber(uint16_t{2}),
       kDataLoss,
       {Path(1), "'split.no' is 2", "must be 1"}},
      {2, "split.count", GgufNumber(uint16_t{4}), kDataLoss, {Path(2), "'split.count' 4", "and 3"}},
      {0,
       "split.tensors.count",
       GgufNumber(int32_t{4}),
       kDataLoss,
       {Path(0), "'split.tensors.count' is 4", "hold 3 tensors"}},
      {1,
       "general.architecture",
       GgufText("llama"),
       kDataLoss,
       {Path(1), "'llama'", Path(0), "'bitnet'"}},
  };
  const auto restored = std::to_array(files_);
  for (const Case& c : cases) {
    SCOPED_TRACE(absl::StrCat(c.file, " ", c.key));
    std::copy(restored.begin(), restored.end(), files_);
    Value(c.file, c.key) = c.value;
    const Status status = Open().status();
    EXPECT_EQ(status.code(), c.code) << status;
    for (const std::string& message : c.messages) EXPECT_THAT(status.message(), HasSubstr(message));
  }
}

TEST_F(GgufSplitTest, RefusesMissingBrokenAndRepeatedParts) {
  files_[2].tensors[0].name = "t0";
  Status status = Open().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), HasSubstr(absl::StrCat(Path(2), ": tensor 't0' is in ", Path(0))));
  EXPECT_EQ(GgufCheckpoint::Open(Path(1)).status().code(), absl::StatusCode::kInvalidArgument);

  dir_.Write(Name(1), "GGUF");
  status = GgufCheckpoint::Open(Path(0)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_THAT(status.message(), HasSubstr("file 2 of the 3"));

  std::filesystem::remove(Path(1));
  status = GgufCheckpoint::Open(Path(0)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(status.message(), HasSubstr(Path(1)));

  files_[1].metadata.clear();
  dir_.Write(Name(1), GgufFileBytes(files_[1]));
  status = GgufCheckpoint::Open(Path(0)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound) << status;
  EXPECT_THAT(status.message(), HasSubstr("no metadata 'split.count'"));
}

}  // namespace
}  // namespace sterna
