#include "engine/model/gguf_ternary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half_float.h"
#include "nlohmann/json.hpp"
#include "tests/testing/gguf_writer.h"
#include "tests/testing/paths.h"

namespace sterna {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A type, and its groups.
struct Format {
  GgufTensorType type;
  const char* name;
  int64_t group;
  int64_t group_bytes;
};
constexpr Format kTq1_0{GgufTensorType::kTq1_0, "TQ1_0", 256, 54};
constexpr Format kTq2_0{GgufTensorType::kTq2_0, "TQ2_0", 256, 66};
constexpr Format kQ2_0{GgufTensorType::kQ2_0, "Q2_0", 64, 18};
constexpr Format kForkQ2_0{GgufTensorType::kQ2_0, "Q2_0", 128, 34};
constexpr Format kI2s{GgufTensorType::kI2s, "I2_S", 128, 32};
constexpr Format kGrouped[] = {kTq1_0, kTq2_0, kQ2_0, kForkQ2_0};

// A tensor as GgufFile makes it, and its bytes.
struct Packed {
  Packed(const Format& format, int64_t rows, int64_t cols, std::string packed)
      : bytes(std::move(packed)) {
    tensor = {.name = "t",
              .type = format.type,
              .type_name = format.name,
              .shape = {rows, cols},
              .rows = rows,
              .cols = cols,
              .block_elements = format.group,
              .block_bytes = format.group_bytes,
              .bytes = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
              .file = "m.gguf"};
    const int64_t tail = format.type == GgufTensorType::kI2s ? 32 : 0;
    EXPECT_EQ(static_cast<int64_t>(bytes.size()),
              rows * cols / format.group * format.group_bytes + tail);
  }
  Packed(const Packed&) = delete;
  Packed& operator=(const Packed&) = delete;
  std::string bytes;
  GgufTensor tensor;
};

std::string Pack(const Format& format, std::span<const uint8_t> codes,
                 std::span<const float> scales) {
  if (format.type == GgufTensorType::kTq1_0) return testing::PackTq1_0(codes, scales);
  if (format.type == GgufTensorType::kTq2_0) return testing::PackTq2_0(codes, scales);
  return testing::PackQ2_0(codes, scales, static_cast<int>(format.group));
}

std::vector<uint8_t> RandomCodes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> codes(count);
  for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % 3);
  return codes;
}

struct Rows {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

// `half_scales` as floats.
std::vector<float> Floats(std::span<const uint16_t> half_scales) {
  std::vector<float> scales;
  for (const uint16_t half : half_scales) scales.push_back(HalfToFloat(half));
  return scales;
}

// All rows; the first error of any.
StatusOr<Rows> ReadAll(const GgufTensor& tensor) {
  STERNA_ASSIGN_OR_RETURN(const GgufTernaryReader reader, GgufTernaryReader::Make(tensor));
  Rows all;
  std::vector<uint8_t> codes(static_cast<size_t>(tensor.cols));
  std::vector<float> scales(static_cast<size_t>(reader.num_groups()));
  for (int64_t row = 0; row < tensor.rows; ++row) {
    STERNA_RETURN_IF_ERROR(reader.ReadRow(row, codes, scales));
    all.codes.insert(all.codes.end(), codes.begin(), codes.end());
    all.scales.insert(all.scales.end(), scales.begin(), scales.end());
  }
  return all;
}

TEST(GgufTernaryTest, ReadsWhatWasPacked) {
  for (const Format& format : kGrouped) {
    SCOPED_TRACE(absl::StrCat(format.name, " ", format.group));
    const int64_t rows = 7;
    const int64_t cols = 3 * format.group;
    const std::vector<uint8_t> codes = RandomCodes(rows * cols, 1);
    std::vector<float> scales(rows * 3);
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.25f + static_cast<float>(i);
    const Packed packed(format, rows, cols, Pack(format, codes, scales));
    const auto read = ReadAll(packed.tensor);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->codes, codes);
    EXPECT_EQ(read->scales, scales);
    EXPECT_EQ(GgufTernaryReader::Make(packed.tensor)->group_size(), format.group);
  }
}

// Each code alone in each place, everything else of another one: no place is taken for another.
TEST(GgufTernaryTest, EveryCodeInEveryPlace) {
  for (const Format& format : kGrouped) {
    SCOPED_TRACE(absl::StrCat(format.name, " ", format.group));
    const float scale = 0.5f;
    for (int64_t place = 0; place < format.group; ++place) {
      for (int code = 0; code < 3; ++code) {
        std::vector<uint8_t> codes(format.group, static_cast<uint8_t>((code + place + 1) % 3));
        codes[place] = static_cast<uint8_t>(code);
        const Packed packed(format, 1, format.group, Pack(format, codes, {&scale, 1}));
        const auto read = ReadAll(packed.tensor);
        ASSERT_TRUE(read.ok()) << read.status();
        ASSERT_EQ(read->codes, codes) << place;
      }
    }
  }
}

// The bytes of TQ1_0 that stand for weights are the 243 that an encoder writes, the digits of each
// as the format defines them; of the 81 of the last four digits the fifth is 0.
TEST(GgufTernaryTest, EveryByteOfTq1_0) {
  for (const int place : {0, 31, 32, 47, 48, 51}) {
    int good = 0;
    for (int byte = 0; byte < 256; ++byte) {
      std::string bytes(52, static_cast<char>(128));                    // 11111 in base 3
      for (int m = 48; m < 52; ++m) bytes[m] = static_cast<char>(127);  // 11110
      bytes += std::string("\0\x3c", 2);
      bytes[place] = static_cast<char>(byte);
      const Packed packed(kTq1_0, 1, 256, bytes);
      const auto read = ReadAll(packed.tensor);
      if (!read.ok()) {
        EXPECT_THAT(read.status().message(), HasSubstr("m.gguf: tensor 't' has at row 0"));
        EXPECT_THAT(read.status().message(), HasSubstr("a byte, which stands for no ternary"));
        continue;
      }
      ++good;
      const int first = place < 32 ? place : place < 48 ? 160 + place - 32 : 240 + place - 48;
      const int stride = place < 32 ? 32 : place < 48 ? 16 : 4;
      const int digits = place < 48 ? 5 : 4;
      for (int n = 0; n < digits; ++n) {
        const auto shifted = static_cast<uint8_t>(byte * static_cast<int>(std::pow(3, n)));
        EXPECT_EQ(read->codes[first + n * stride], shifted * 3 >> 8) << byte;
      }
    }
    EXPECT_EQ(good, place < 48 ? 243 : 81);
  }
}

std::string PackRow(const Format& format, std::span<const uint8_t> codes,
                    std::span<const uint16_t> half_scales) {
  std::vector<uint8_t> out(half_scales.size() * static_cast<size_t>(format.group_bytes));
  PackGgufTernaryRow({format.type, format.group, format.group_bytes}, codes, half_scales, out);
  return {out.begin(), out.end()};
}

// The product's packing is that of the tests, which is written from the definitions on its own, and
// is read back: each code alone in each place, and all at random with scales of any bits.
TEST(GgufTernaryTest, PacksWhatIsReadBack) {
  for (const Format& format : kGrouped) {
    SCOPED_TRACE(absl::StrCat(format.name, " ", format.group));
    const uint16_t half_scale = 0x3801;
    for (int64_t place = 0; place < format.group; ++place) {
      for (int code = 0; code < 3; ++code) {
        std::vector<uint8_t> codes(format.group, static_cast<uint8_t>((code + place + 1) % 3));
        codes[place] = static_cast<uint8_t>(code);
        ASSERT_EQ(PackRow(format, codes, {&half_scale, 1}),
                  Pack(format, codes, Floats({&half_scale, 1})));
      }
    }
    const std::vector<uint8_t> codes = RandomCodes(4 * format.group, 7);
    const uint16_t half_scales[] = {0, 1, 0x3c00, 0x7bff};
    const Packed packed(format, 1, 4 * format.group, PackRow(format, codes, half_scales));
    EXPECT_EQ(packed.bytes, Pack(format, codes, Floats(half_scales)));
    const auto read = ReadAll(packed.tensor);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->codes, codes);
    EXPECT_EQ(read->scales, Floats(half_scales));
  }
}

TEST(GgufTernaryDeathTest, PacksOnlyWhatTheTypesHold) {
  const uint16_t scale = 0x3c00;
  EXPECT_DEATH(PackRow(kTq2_0, std::vector<uint8_t>(255, 1), {&scale, 1}), "codes.size");
  EXPECT_DEATH(PackRow(kTq2_0, std::vector<uint8_t>(256, 3), {&scale, 1}), "kNoCode");
  EXPECT_DEATH(PackRow(kI2s, std::vector<uint8_t>(128, 1), {&scale, 1}), "kI2s");
}

std::vector<uint8_t> CodesOf(const Json& weights) {
  std::vector<uint8_t> codes;
  for (const Json& w : weights) codes.push_back(static_cast<uint8_t>(w.get<int>() + 1));
  return codes;
}

Json Golden(const char* name) {
  const auto text = ReadTextFile(testing::SourcePath(absl::StrCat("tests/golden/data/", name)));
  EXPECT_TRUE(text.ok()) << text.status();
  return Json::parse(*text);
}

TEST(GgufTernaryTest, GoldenTq2_0) {
  const Json golden = Golden("tq2_0_golden.json");
  std::string bytes;
  for (const Json& byte : golden["qs"]) bytes.push_back(static_cast<char>(byte.get<int>()));
  const Packed packed(kTq2_0, 1, 256, bytes + std::string("\0\x38", 2));
  const auto read = ReadAll(packed.tensor);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->codes, CodesOf(golden["w"]));
  EXPECT_THAT(read->scales, ElementsAre(0.5f));
  const uint16_t half_scale = 0x3800;
  EXPECT_EQ(PackRow(kTq2_0, read->codes, {&half_scale, 1}), packed.bytes);
}

// Also as rows that end within a block.
TEST(GgufTernaryTest, GoldenI2s) {
  const Json golden = Golden("i2s_x86_golden.json");
  std::string bytes;
  for (const Json& byte : golden["bytes"]) bytes.push_back(static_cast<char>(byte.get<int>()));
  const std::string tail = testing::PackI2s({}, 1.75f);
  for (const int64_t cols : {256, 128, 64, 32, 8, 1}) {
    const Packed packed(kI2s, 256 / cols, cols, bytes + tail);
    const auto read = ReadAll(packed.tensor);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->codes, CodesOf(golden["w"]));
    EXPECT_THAT(read->scales, Each(1.75f));
    EXPECT_EQ(GgufTernaryReader::Make(packed.tensor)->num_groups(), 1);
  }
}

TEST(GgufTernaryTest, ReadsI2sOfOddShapes) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 128}, {5, 384}, {128, 3}, {64, 130}, {32, 100}}) {
    const std::vector<uint8_t> codes = RandomCodes(rows * cols, 2);
    const Packed packed(kI2s, rows, cols, testing::PackI2s(codes, 0.1f));
    const auto read = ReadAll(packed.tensor);
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->codes, codes);
    const auto matrix = ReadGgufTernaryMatrix(packed.tensor);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    EXPECT_EQ(matrix->granularity(), ScaleGranularity::kTensor);
    EXPECT_EQ(matrix->tensor_scale(), 0.1f);
    for (int64_t i = 0; i < rows * cols; ++i) {
      ASSERT_EQ(matrix->At(i / cols, i % cols), codes[i] - 1);
    }
  }
}

TEST(GgufTernaryTest, RefusesCode3NamingThePlace) {
  for (const Format& format : {kTq2_0, kQ2_0, kForkQ2_0, kI2s}) {
    SCOPED_TRACE(absl::StrCat(format.name, " ", format.group));
    const bool i2s = format.type == GgufTensorType::kI2s;
    for (const int64_t place : {int64_t{0}, int64_t{31}, format.group - 1}) {
      std::vector<uint8_t> codes(4 * format.group, 1);
      codes[3 * format.group + place] = 3;  // in row 1, which has two groups
      const float scales[] = {1, 2, 3, 4};
      const Packed packed(format, 2, 2 * format.group,
                          i2s ? testing::PackI2s(codes, 1) : Pack(format, codes, scales));
      for (const Status& status :
           {ReadAll(packed.tensor).status(), ReadGgufTernaryMatrix(packed.tensor).status()}) {
        EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
        EXPECT_THAT(status.message(),
                    HasSubstr(absl::StrCat("m.gguf: tensor 't' has at row 1, column ",
                                           format.group + place, " the code 3")));
      }
    }
  }
}

TEST(GgufTernaryTest, RefusesScalesThatAreNone) {
  for (const float bad : {-0.5f, kInfinity, -kInfinity, kNan}) {
    for (const Format& format : kGrouped) {
      SCOPED_TRACE(absl::StrCat(format.name, " ", format.group, " ", bad));
      const std::vector<uint8_t> codes = RandomCodes(6 * format.group, 3);
      const float scales[] = {1, 2, 3, 4, bad, 6};
      const Packed packed(format, 2, 3 * format.group, Pack(format, codes, scales));
      const Status status = ReadGgufTernaryMatrix(packed.tensor).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(status.message(), HasSubstr("m.gguf: tensor 't' has the scale"));
      EXPECT_THAT(status.message(), HasSubstr("for group 1 of row 1"));
    }
    const Packed packed(kI2s, 1, 128, testing::PackI2s(RandomCodes(128, 4), bad));
    const Status status = GgufTernaryReader::Make(packed.tensor).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(), HasSubstr("for all its weights"));
  }
}

TEST(GgufTernaryTest, RefusesOtherTypes) {
  const Packed packed({GgufTensorType::kQ8_0, "Q8_0", 32, 34}, 1, 32, std::string(34, '\0'));
  for (const Status& status : {GgufTernaryReader::Make(packed.tensor).status(),
                               ReadGgufTernaryMatrix(packed.tensor).status()}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(status.message(), HasSubstr("'t' has type Q8_0"));
    EXPECT_THAT(status.message(), HasSubstr("TQ1_0, TQ2_0, Q2_0 or I2_S"));
  }
  EXPECT_FALSE(IsTernaryGgufType(GgufTensorType::kQ8_0));
  EXPECT_TRUE(IsTernaryGgufType(GgufTensorType::kTq1_0));
}

// Weights of a given share of -1, 0 and +1, shuffled.
std::vector<uint8_t> Balanced(int minus, int zero, int plus) {
  std::vector<uint8_t> codes;
  codes.insert(codes.end(), minus, 0);
  codes.insert(codes.end(), zero, 1);
  codes.insert(codes.end(), plus, 2);
  std::shuffle(codes.begin(), codes.end(), std::mt19937(5));
  return codes;
}

TEST(GgufTernaryTest, RefusesI2sOfImplausibleBalance) {
  const std::vector<uint8_t> bad[] = {Balanced(0, 4096, 0),       Balanced(2048, 2048, 0),
                                      Balanced(0, 2048, 2048),    Balanced(2048, 0, 2048),
                                      Balanced(1900, 1196, 1000), Balanced(100, 3900, 96)};
  for (const auto& codes : bad) {
    const Packed packed(kI2s, 16, 256, testing::PackI2s(codes, 1));
    const Status status = ReadGgufTernaryMatrix(packed.tensor).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(status.message(), HasSubstr("m.gguf: tensor 't' has, read as I2_S of an x86"));
    EXPECT_THAT(status.message(), HasSubstr("balance"));
    // Too few to tell.
    const Packed few(kI2s, 1, 128, testing::PackI2s(std::span(codes).subspan(0, 128), 1));
    EXPECT_TRUE(ReadGgufTernaryMatrix(few.tensor).ok());
  }
  for (const auto& codes : {Balanced(1400, 1296, 1400), Balanced(1100, 1996, 1000),
                            Balanced(1900, 300, 1896), Balanced(300, 3500, 296)}) {
    const Packed packed(kI2s, 16, 256, testing::PackI2s(codes, 1));
    EXPECT_TRUE(ReadGgufTernaryMatrix(packed.tensor).ok());
  }
}

// What I2_S of an ARM build looks like here: other weights, and nothing that would tell.
TEST(GgufTernaryTest, TheArmFormOfI2sIsAnotherOrderOfTheSameCodes) {
  std::vector<uint8_t> codes = Balanced(1400, 1296, 1400);
  const Packed packed(kI2s, 16, 256, testing::PackI2s(codes, 1, /*chunk=*/64));
  auto read = ReadAll(packed.tensor);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_NE(read->codes, codes);
  std::sort(codes.begin(), codes.end());
  std::sort(read->codes.begin(), read->codes.end());
  EXPECT_EQ(read->codes, codes);
}

class GgufMatrixTest : public ::testing::TestWithParam<Format> {
 protected:
  static constexpr int64_t kRows = 19;
  static constexpr int64_t kGroups = 3;
  int64_t cols() const { return kGroups * GetParam().group; }
  size_t Index(int64_t row, int64_t group) const { return row * kGroups + group; }

  GgufMatrixTest()
      : codes_(RandomCodes(kRows * kGroups * GetParam().group, 6)),
        scales_(kRows * kGroups, 0.5f) {}
  void SetGroup(int64_t row, int64_t group, uint8_t code, float scale) {
    const auto begin = codes_.begin() + static_cast<int64_t>(Index(row, group)) * GetParam().group;
    std::fill(begin, begin + GetParam().group, code);
    scales_[Index(row, group)] = scale;
  }
  // The matrix that is read, after a look at every weight times its scale.
  TernaryMatrix Read() {
    const Packed packed(GetParam(), kRows, cols(), Pack(GetParam(), codes_, scales_));
    auto matrix = ReadGgufTernaryMatrix(packed.tensor);
    EXPECT_TRUE(matrix.ok()) << matrix.status();
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t col = 0; col < cols(); ++col) {
        const int64_t group = col / GetParam().group;
        const double scale = matrix->granularity() == ScaleGranularity::kTensor
                                 ? matrix->tensor_scale()
                                 : matrix->scale(row, col / matrix->group_size());
        const int w = codes_[Index(row, group) * GetParam().group + col % GetParam().group] - 1;
        EXPECT_EQ(matrix->At(row, col) * scale, w * scales_[Index(row, group)]);
      }
    }
    return *std::move(matrix);
  }
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
};

TEST_P(GgufMatrixTest, OneScaleIsOfTheTensor) {
  const TernaryMatrix matrix = Read();
  EXPECT_EQ(matrix.granularity(), ScaleGranularity::kTensor);
  EXPECT_EQ(matrix.tensor_scale(), 0.5);
}

TEST_P(GgufMatrixTest, GroupsOfZerosGoWithAnyScale) {
  SetGroup(0, 0, 1, 0);
  SetGroup(3, 2, 1, 7);
  SetGroup(4, 1, 2, 0);  // scale 0: zeros, whatever the codes
  const TernaryMatrix matrix = Read();
  EXPECT_EQ(matrix.granularity(), ScaleGranularity::kTensor);
  EXPECT_EQ(matrix.tensor_scale(), 0.5);
}

TEST_P(GgufMatrixTest, ScalesThatDifferByRowAreOfRows) {
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t group = 0; group < kGroups; ++group) {
      scales_[Index(row, group)] = 1.0f + static_cast<float>(row);
    }
  }
  SetGroup(7, 1, 1, 0);
  for (int64_t group = 0; group < kGroups; ++group) SetGroup(9, group, 1, 0);
  const TernaryMatrix matrix = Read();
  EXPECT_EQ(matrix.granularity(), ScaleGranularity::kRow);
  EXPECT_EQ(matrix.scale(7, 0), 8.0f);
}

TEST_P(GgufMatrixTest, ScalesThatDifferWithinARowAreOfGroups) {
  scales_[Index(kRows - 1, 1)] = 0.25f;
  SetGroup(0, 0, 1, 0);
  const TernaryMatrix matrix = Read();
  EXPECT_EQ(matrix.granularity(), ScaleGranularity::kGroup);
  EXPECT_EQ(matrix.group_size(), GetParam().group);
  EXPECT_EQ(matrix.scale(kRows - 1, 1), 0.25f);
  EXPECT_EQ(matrix.scale(kRows - 1, 2), 0.5f);
}

TEST_P(GgufMatrixTest, ZerosHaveOneScale) {
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t group = 0; group < kGroups; ++group) SetGroup(row, group, 1, 0);
  }
  EXPECT_EQ(Read().granularity(), ScaleGranularity::kTensor);
}

INSTANTIATE_TEST_SUITE_P(Formats, GgufMatrixTest, ::testing::ValuesIn(kGrouped),
                         [](const auto& param) {
                           return absl::StrCat(param.param.name, "Of", param.param.group);
                         });

}  // namespace
}  // namespace sterna
