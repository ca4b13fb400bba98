#include "base/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "base/aligned_buffer.h"

namespace sterna {
namespace {

std::string TempFile(const std::string& name, const std::string& text) {
  const std::string path = ::testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

TEST(MappedFileTest, MapsTheWholeFile) {
  const std::string text("a\0b\nc", 5);
  const StatusOr<MappedFile> file = MappedFile::Open(TempFile("mapped_file_test", text));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(std::string(file->bytes().begin(), file->bytes().end()), text);
}

TEST(MappedFileTest, EmptyFileIsEmpty) {
  const StatusOr<std::string> text = ReadTextFile(TempFile("mapped_file_empty", ""));
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, "");
}

TEST(MappedFileTest, WhatWasForgottenIsReadAgain) {
  std::string text(3 * 4096 + 100, 'a');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i % 251);
  const StatusOr<MappedFile> file = MappedFile::Open(TempFile("mapped_file_forget", text));
  ASSERT_TRUE(file.ok()) << file.status();
  const auto same = [&] {
    return std::equal(text.begin(), text.end(), file->bytes().begin(),
                      [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; });
  };
  EXPECT_TRUE(same());
  MappedFile::Forget(file->bytes());
  EXPECT_TRUE(same());
  MappedFile::Forget(file->bytes().subspan(5000, 1));
  MappedFile::Forget(file->bytes().subspan(text.size()));
  EXPECT_TRUE(same());
}

TEST(MappedFileTest, ErrorsNameThePath) {
  const StatusOr<MappedFile> missing = MappedFile::Open("/no/such/file");
  EXPECT_TRUE(absl::IsNotFound(missing.status()));
  EXPECT_NE(missing.status().ToString().find("/no/such/file"), std::string::npos);
  const StatusOr<MappedFile> folder = MappedFile::Open(::testing::TempDir());
  EXPECT_TRUE(absl::IsInvalidArgument(folder.status())) << folder.status();
}

TEST(MappedFileTest, PipesAreRefusedWithoutWaitingForAWriter) {
  const std::string path = ::testing::TempDir() + "mapped_file_pipe";
  std::filesystem::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  for (const Status& status : {MappedFile::Open(path).status(), ReadTextFile(path).status()}) {
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(status.message(), path + " is not a regular file");
  }
  std::filesystem::remove(path);
}

TEST(RowForgetterTest, RowsOfAnySizeAreReadAgain) {
  std::string text(10 * 4096 + 100, 'a');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i % 127);
  const StatusOr<MappedFile> file = MappedFile::Open(TempFile("mapped_file_rows", text));
  ASSERT_TRUE(file.ok()) << file.status();
  for (const int64_t rows : {1, 7, 41060}) {
    for (const int64_t step : {1, 3, 50000}) {
      const RowForgetter forgetter(file->bytes(), rows, step);
      for (int64_t row = 0; row < rows; ++row) forgetter.AfterRow(row);
      EXPECT_TRUE(std::equal(text.begin(), text.end(), file->bytes().begin()));
    }
  }
  for (const int64_t row : {0, 1, 2, 1'000'000'000}) RowForgetter({}, 1).AfterRow(row);
}

TEST(AlignedBufferTest, IsZeroAlignedAndMovesWhole) {
  for (const size_t size : {size_t{1}, size_t{1000}, size_t{3} << 20}) {
    AlignedBuffer<uint8_t> buffer(size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % kCacheLineBytes, 0u);
    for (size_t i = 0; i < size; i += 997) ASSERT_EQ(buffer[i], 0);
    buffer[size - 1] = 7;
    AlignedBuffer<uint8_t> moved = std::move(buffer);
    EXPECT_EQ(moved[size - 1], 7);
    EXPECT_TRUE(buffer.empty());  // NOLINT(bugprone-use-after-move): what a move leaves is promised
  }
}

}  // namespace
}  // namespace sterna
