#include "engine/model/gguf_blocks.h"

#include <bit>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/bfloat16.h"
#include "kernels/half_float.h"
#include "tests/testing/gguf_writer.h"

namespace sterna {
namespace {

using ::testing::HasSubstr;

// A tensor as GgufFile makes it, in `bytes`.
GgufTensor Tensor(GgufTensorType type, const char* type_name, int64_t rows, int64_t cols,
                  int64_t block_elements, int64_t block_bytes, const std::string& bytes) {
  EXPECT_EQ(static_cast<int64_t>(bytes.size()), rows * cols / block_elements * block_bytes);
  return {.name = "t",
          .type = type,
          .type_name = type_name,
          .shape = {rows, cols},
          .rows = rows,
          .cols = cols,
          .block_elements = block_elements,
          .block_bytes = block_bytes,
          .bytes = {reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
          .file = "m.gguf"};
}

std::vector<float> Row(const GgufTensor& tensor, int64_t row) {
  std::vector<float> out(static_cast<size_t>(tensor.cols));
  const Status status = DequantizeGgufRow(tensor, row, out);
  EXPECT_TRUE(status.ok()) << status;
  return out;
}

// All 65536 numbers of 16 bits, 256 a row; NaN compares by its bits.
TEST(GgufBlocksTest, DecodesAllNumbersOf16Bits) {
  std::string bytes;
  for (int bits = 0; bits < 65536; ++bits) {
    bytes.push_back(static_cast<char>(bits & 255));
    bytes.push_back(static_cast<char>(bits >> 8));
  }
  const GgufTensor half = Tensor(GgufTensorType::kF16, "F16", 256, 256, 1, 2, bytes);
  const GgufTensor bf16 = Tensor(GgufTensorType::kBf16, "BF16", 256, 256, 1, 2, bytes);
  for (int row = 0; row < 256; ++row) {
    const std::vector<float> halves = Row(half, row);
    const std::vector<float> bf16s = Row(bf16, row);
    for (int col = 0; col < 256; ++col) {
      const auto bits = static_cast<uint16_t>(256 * row + col);
      EXPECT_EQ(std::bit_cast<uint32_t>(halves[col]), std::bit_cast<uint32_t>(HalfToFloat(bits)));
      EXPECT_EQ(std::bit_cast<uint32_t>(bf16s[col]), std::bit_cast<uint32_t>(Bf16ToFloat(bits)));
    }
  }
}

TEST(GgufBlocksTest, DecodesFloats) {
  const float values[] = {1, -2, 0.1f, 4, 1e-40f, 8};
  const std::string bytes(reinterpret_cast<const char*>(values), sizeof(values));
  const GgufTensor tensor = Tensor(GgufTensorType::kF32, "F32", 2, 3, 1, 4, bytes);
  EXPECT_THAT(Row(tensor, 0), ::testing::ElementsAre(1, -2, 0.1f));
  EXPECT_THAT(Row(tensor, 1), ::testing::ElementsAre(4, 1e-40f, 8));
}

// Every int8 in every place, a place a block.
TEST(GgufBlocksTest, DecodesQ8_0) {
  std::string bytes;
  for (int shift = 0; shift < 256; ++shift) {
    std::vector<int> q(32);
    for (int j = 0; j < 32; ++j) q[j] = (j + shift) % 256 - 128;
    bytes += testing::PackQ8_0(q, 0.25f + static_cast<float>(shift));
  }
  const GgufTensor tensor = Tensor(GgufTensorType::kQ8_0, "Q8_0", 64, 128, 32, 34, bytes);
  for (int shift = 0; shift < 256; ++shift) {
    const std::vector<float> row = Row(tensor, shift / 4);
    for (int j = 0; j < 32; ++j) {
      EXPECT_EQ(row[shift % 4 * 32 + j],
                (0.25f + static_cast<float>(shift)) * static_cast<float>((j + shift) % 256 - 128));
    }
  }
}

TEST(GgufBlocksTest, DecodesQ4_0) {
  std::string bytes;
  for (int shift = 0; shift < 16; ++shift) {
    std::vector<int> q(32);
    for (int j = 0; j < 32; ++j) q[j] = (j * 5 + j / 16 + shift) % 16;
    bytes += testing::PackQ4_0(q, -0.125f * static_cast<float>(shift + 1));
  }
  const GgufTensor tensor = Tensor(GgufTensorType::kQ4_0, "Q4_0", 4, 128, 32, 18, bytes);
  for (int shift = 0; shift < 16; ++shift) {
    const std::vector<float> row = Row(tensor, shift / 4);
    for (int j = 0; j < 32; ++j) {
      EXPECT_EQ(row[shift % 4 * 32 + j], -0.125f * static_cast<float>(shift + 1) *
                                             static_cast<float>((j * 5 + j / 16 + shift) % 16 - 8));
    }
  }
}

// Every value of six bits in every place, with scales that differ and reach the ends of int8.
TEST(GgufBlocksTest, DecodesQ6K) {
  const auto q = [](int shift, int j) { return (j * 13 + j / 32 + shift) % 64; };
  const auto group_scale = [](int shift, int g) { return (g * 17 + shift * 5) % 256 - 128; };
  std::string bytes;
  for (int shift = 0; shift < 64; ++shift) {
    std::vector<int> values(256);
    std::vector<int> scales(16);
    for (int j = 0; j < 256; ++j) values[j] = q(shift, j);
    for (int g = 0; g < 16; ++g) scales[g] = group_scale(shift, g);
    bytes += testing::PackQ6K(values, scales, 0x1p-10f * static_cast<float>(shift + 1));
  }
  const GgufTensor tensor = Tensor(GgufTensorType::kQ6K, "Q6_K", 32, 512, 256, 210, bytes);
  for (int shift = 0; shift < 64; ++shift) {
    const std::vector<float> row = Row(tensor, shift / 2);
    for (int j = 0; j < 256; ++j) {
      // Exact: seven, eight and six bits.
      const int product = (shift + 1) * group_scale(shift, j / 16) * (q(shift, j) - 32);
      EXPECT_EQ(row[shift % 2 * 256 + j], 0x1p-10f * static_cast<float>(product));
    }
  }
}

TEST(GgufBlocksTest, RefusesOtherTypes) {
  const std::string bytes(66, '\0');
  const GgufTensor ternary = Tensor(GgufTensorType::kTq2_0, "TQ2_0", 1, 256, 256, 66, bytes);
  std::vector<float> out(256);
  const Status status = DequantizeGgufRow(ternary, 0, out);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(status.message(), HasSubstr("m.gguf: tensor 't' has type TQ2_0"));
  EXPECT_THAT(status.message(), HasSubstr("F32, F16, BF16, Q8_0, Q4_0 or Q6_K"));
}

}  // namespace
}  // namespace sterna
