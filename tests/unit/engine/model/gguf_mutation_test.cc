// Thousands of valid GGUF files with something changed: opening them and reading all that they hold
// must end in an answer or an error, and take no memory that the file does not justify.
#include <algorithm>
#include <new>
#include <random>

#include "absl/strings/str_cat.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_blocks.h"
#include "engine/model/gguf_ternary.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/memory_limit.h"
#include "tests/testing/temp_dir.h"

namespace sterna {
namespace {

using testing::GgufContents;
using testing::GgufList;
using testing::GgufNumber;
using testing::GgufText;
using testing::TempDir;

constexpr int64_t kAllowedBytes = 32 << 20;  // the files have a few thousand

// Every type of value and every type of tensor that is read, and one that is not.
GgufContents Everything() {
  std::mt19937 random(1);
  std::vector<uint8_t> codes(512);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % 3);
  const float scales[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  const std::vector<int> q(256, 5);
  const auto two = [&](size_t groups) { return std::span(scales).subspan(0, groups); };
  return {.metadata = {{"general.architecture", GgufText("bitnet-b1.58")},
                       {"general.alignment", GgufNumber(uint32_t{32})},
                       {"u8", GgufNumber(uint8_t{1})},
                       {"i16", GgufNumber(int16_t{-1})},
                       {"f32", GgufNumber(1.5f)},
                       {"f64", GgufNumber(2.5)},
                       {"b", GgufNumber(true)},
                       {"ints", GgufList({GgufNumber(int64_t{4}), GgufNumber(int64_t{5})})},
                       {"strings", GgufList({GgufText("one"), GgufText("two"), GgufText("")})},
                       {"lists", GgufList({GgufList({GgufText("x")}), GgufList({}, 4)})}},
          .tensors = {{"f32", 0, {3, 2}, std::string(24, '\1'), {}},
                      {"f16", 1, {5}, std::string(10, '\1'), {}},
                      {"bf16", 30, {5, 1, 1, 1}, std::string(10, '\1'), {}},
                      {"q8_0", 8, {32}, testing::PackQ8_0(std::span(q).subspan(0, 32), 1), {}},
                      {"q4_0", 2, {32}, testing::PackQ4_0(std::span(q).subspan(0, 32), 1), {}},
                      {"q6_k", 14, {256}, testing::PackQ6K(q, std::span(q).subspan(0, 16), 1), {}},
                      {"tq1_0", 34, {256, 2}, testing::PackTq1_0(codes, two(2)), {}},
                      {"tq2_0", 35, {512}, testing::PackTq2_0(codes, two(2)), {}},
                      {"i2_s", 36, {64, 8}, testing::PackI2s(codes, 0.5f), {}},
                      {"q4_k", 12, {256}, std::string(144, '\2'), {}},
                      {"q2_0", 42, {128, 4}, testing::PackQ2_0(codes, two(8), 64), {}}}};
}

// Reads all that a file says it has. The sum keeps the reading from being optimised away.
double ReadEverything(const GgufFile& file) {
  double sum = 0;
  for (const auto& [key, value] : file.metadata().values()) {
    sum += static_cast<double>(value.Description().size() + value.Elements().size());
    const GgufMetadata& m = file.metadata();
    sum += m.Integer(key).ok() + m.Float(key).ok() + m.Bool(key).ok() + m.String(key).ok() +
           m.Integers(key).ok() + m.Floats(key).ok() + m.Strings(key).ok();
  }
  for (const auto& [name, tensor] : file.tensors()) {
    for (const uint8_t byte : tensor.bytes) sum += byte;
    if (IsTernaryGgufType(tensor.type)) {
      const auto matrix = ReadGgufTernaryMatrix(tensor);
      if (matrix.ok()) sum += matrix->At(tensor.rows - 1, tensor.cols - 1);
      continue;
    }
    std::vector<float> row(static_cast<size_t>(tensor.cols));
    for (int64_t r = 0; r < tensor.rows; ++r) {
      if (DequantizeGgufRow(tensor, r, row).ok()) sum += row[0] == row[0] ? 1 : 0;
    }
  }
  return sum;
}

// What goes wrong with files, and what somebody would do to one on purpose.
void Mutate(std::mt19937& random, size_t header_bytes, std::string& bytes) {
  constexpr uint64_t kNumbers[] = {0,  1,  2,   3,   31,         32,         33,
                                   64, 99, 127, 128, 0xffffffff, 0x7fffffff, uint64_t{1} << 32};
  const size_t range = random() % 4 == 0 ? bytes.size() : header_bytes;
  const int changes = 1 + static_cast<int>(random() % 3);
  for (int i = 0; i < changes; ++i) {
    const size_t at = random() % range;
    uint64_t number = kNumbers[random() % std::size(kNumbers)];
    if (random() % 3 == 0) number = ~number;
    const size_t width = std::min<size_t>(random() % 2 == 0 ? 4 : 8, bytes.size() - at);
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
        break;
      case 2:
      case 3:
        bytes.replace(at, width, reinterpret_cast<const char*>(&number), width);
        break;
      case 4:
        bytes.insert(at, bytes.substr(random() % range, random() % 40));
        break;
      default:
        bytes.erase(at, random() % 16);
        break;
    }
    if (bytes.size() < range) return;
  }
  if (random() % 16 == 0) bytes.resize(random() % bytes.size());
}

TEST(GgufMutationTest, MutatedFilesNeitherCrashNorTakeMemory) {
  const TempDir dir;
  const GgufContents contents = Everything();
  const std::string whole = testing::GgufFileBytes(contents);
  const size_t header_bytes = testing::GgufHeaderBytes(contents).size();
  const testing::MemoryLimit limit(kAllowedBytes);
  const auto unchanged = GgufFile::Open(dir.Write("m.gguf", whole));
  ASSERT_TRUE(unchanged.ok()) << unchanged.status();
  EXPECT_EQ(unchanged->tensors().size(), 11u);
  double sum = ReadEverything(*unchanged);
  int refused = 0;
  constexpr int kRounds = 3000;
  for (int round = 0; round < kRounds; ++round) {
    std::mt19937 random(static_cast<uint32_t>(round));
    std::string bytes = whole;
    Mutate(random, header_bytes, bytes);
    SCOPED_TRACE(absl::StrCat("seed ", round));
    try {
      const std::string path = dir.Write("m.gguf", bytes);
      const auto file = GgufFile::Open(path);
      if (file.ok()) {
        sum += ReadEverything(*file);
        continue;
      }
      ++refused;
      EXPECT_THAT(std::string(file.status().message()), ::testing::HasSubstr(path));
    } catch (const std::bad_alloc&) {
      ADD_FAILURE() << "more memory than the file justifies";
    }
  }
  EXPECT_GT(sum, 0);
  EXPECT_GT(refused, kRounds / 2);
  EXPECT_LT(refused, kRounds);
}

}  // namespace
}  // namespace sterna
