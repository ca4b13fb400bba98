#include "base/output_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>

#include "base/mapped_file.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;

std::vector<std::string> NamesIn(const std::string& dir) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

TEST(OutputFileTest, TakesItsNameWhenItIsWhole) {
  const testing::TempDir dir;
  const std::string path = dir.Write("file", "before");
  auto file = OutputFile::Create(path);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->Write("af").ok());
  const uint8_t bytes[] = {'t', 'e', 'r'};
  EXPECT_TRUE(file->Write(bytes).ok());
  EXPECT_EQ(file->bytes_written(), 5);
  EXPECT_EQ(*ReadTextFile(path), "before");
  OutputFile moved = *std::move(file);
  ASSERT_TRUE(moved.Commit().ok());
  EXPECT_EQ(*ReadTextFile(path), "after");
  EXPECT_THAT(NamesIn(dir.path()), ::testing::ElementsAre("file"));
}

TEST(OutputFileTest, LeavesNothingWithoutCommit) {
  const testing::TempDir dir;
  {
    auto file = OutputFile::Create(dir.path() + "/file");
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_TRUE(file->Write("half").ok());
    EXPECT_EQ(NamesIn(dir.path()).size(), 1);
  }
  EXPECT_THAT(NamesIn(dir.path()), ::testing::IsEmpty());
}

TEST(OutputFileTest, SaysWhatIsInTheWay) {
  const testing::TempDir dir;
  const Status missing = OutputFile::Create(dir.path() + "/none/file").status();
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound) << missing;
  EXPECT_THAT(missing.message(), HasSubstr(dir.path() + "/none/file"));
  // A directory cannot be replaced by a file.
  std::filesystem::create_directory(dir.path() + "/taken");
  auto file = OutputFile::Create(dir.path() + "/taken");
  ASSERT_TRUE(file.ok()) << file.status();
  const Status taken = file->Commit();
  EXPECT_FALSE(taken.ok());
  EXPECT_THAT(taken.message(), HasSubstr(dir.path() + "/taken"));
}

// A limit on the size of files stands for a disk that is full.
TEST(OutputFileTest, SaysThatItCouldNotBeWritten) {
  const testing::TempDir dir;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {.rlim_cur = 1000, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  Status status;
  {
    auto file = OutputFile::Create(dir.path() + "/file");
    if (file.ok()) {
      status = file->Write(std::string(2000, 'x'));
      if (status.ok()) status = file->Commit();
    }
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.message(), HasSubstr("cannot write " + dir.path() + "/file"));
  EXPECT_THAT(NamesIn(dir.path()), ::testing::IsEmpty());
}

}  // namespace
}  // namespace sterna
