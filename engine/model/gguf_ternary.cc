#include "engine/model/gguf_ternary.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/model/gguf_tensor_types.h"
#include "engine/model/scale_groups.h"
#include "kernels/half_float.h"

namespace sterna {
namespace {

constexpr uint8_t kNoCode = 3;

float LoadHalf(const uint8_t* bytes) {
  uint16_t half;
  std::memcpy(&half, bytes, sizeof(half));
  return HalfToFloat(half);
}

// TQ2_0, 256 weights in 66 bytes:
//                           bits 7 6   5 4   3 2   1 0
//   64 bytes, byte 32h + m = | l=3 | l=2 | l=1 | l=0 |  | fp16 scale
// where h < 2, m < 32, and the code is that of weight 128h + 32l + m.
void DecodeTq2_0(const uint8_t* in, uint8_t* codes, float* scale) {
  for (int j = 0; j < 256; ++j) {
    codes[j] = in[j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
  }
  *scale = LoadHalf(in + 64);
}

void StoreHalf(uint16_t half, uint8_t* bytes) { std::memcpy(bytes, &half, sizeof(half)); }

void PackTq2_0(const uint8_t* codes, uint16_t half_scale, uint8_t* out) {
  std::fill_n(out, 64, uint8_t{0});
  for (int j = 0; j < 256; ++j) {
    out[j / 128 * 32 + j % 32] |= static_cast<uint8_t>(codes[j] << (j % 128 / 32 * 2));
  }
  StoreHalf(half_scale, out + 64);
}

// TQ1_0, 256 weights in 54 bytes:
//   qs[48] | qh[4] | fp16 scale
// A byte holds five base-3 digits, which are codes, the first the most significant: of their number
// q in [0, 242] it is ceil(q * 256 / 243), so that the digits come out by multiplying by 3: what is
// carried over 256. Digit n of byte m is the code of
//   weight         32n + m   of qs[0 .. 31], m < 32
//   weight  160 +  16n + m   of qs[32 .. 47], m < 16
//   weight  240 +   4n + m   of qh, m < 4, where the fifth digit is always 0
constexpr int kTq1Digits = 5;
using Tq1Byte = std::array<uint8_t, kTq1Digits>;

constexpr uint8_t Tq1ByteOf(int q) { return static_cast<uint8_t>((q * 256 + 242) / 243); }

// The digits of every byte; code 3 for the bytes that stand for none.
constexpr std::array<Tq1Byte, 256> MakeTq1Table() {
  std::array<Tq1Byte, 256> table{};
  for (int byte = 0; byte < 256; ++byte) {
    int q = 0;
    int rest = byte;
    for (uint8_t& digit : table[byte]) {
      digit = static_cast<uint8_t>(rest * 3 >> 8);
      rest = rest * 3 & 255;
      q = q * 3 + digit;
    }
    if (Tq1ByteOf(q) != byte) table[byte].fill(kNoCode);
  }
  return table;
}
constexpr std::array<Tq1Byte, 256> kTq1Table = MakeTq1Table();
static_assert(kTq1Table[0] == Tq1Byte{0, 0, 0, 0, 0} && kTq1Table[255] == Tq1Byte{2, 2, 2, 2, 2});
static_assert(kTq1Table[128] == Tq1Byte{1, 1, 1, 1, 1});

// Bytes that hold as many digits each.
struct Tq1Part {
  int bytes, digits;
};
constexpr Tq1Part kTq1Parts[] = {{32, 5}, {16, 5}, {4, 4}};

void DecodeTq1_0(const uint8_t* in, uint8_t* codes, float* scale) {
  for (const Tq1Part part : kTq1Parts) {
    for (int m = 0; m < part.bytes; ++m) {
      const Tq1Byte& digits = kTq1Table[in[m]];
      // A fifth digit where there is none stands for nothing either.
      const bool whole = part.digits == kTq1Digits || digits[4] == 0;
      for (int n = 0; n < part.digits; ++n) {
        codes[n * part.bytes + m] = whole ? digits[n] : kNoCode;
      }
    }
    in += part.bytes;
    codes += part.bytes * part.digits;
  }
  *scale = LoadHalf(in);
}

void PackTq1_0(const uint8_t* codes, uint16_t half_scale, uint8_t* out) {
  for (const Tq1Part part : kTq1Parts) {
    for (int m = 0; m < part.bytes; ++m) {
      int q = 0;
      for (int n = 0; n < kTq1Digits; ++n) {
        q = q * 3 + (n < part.digits ? codes[n * part.bytes + m] : 0);
      }
      out[m] = Tq1ByteOf(q);
    }
    out += part.bytes;
    codes += part.bytes * part.digits;
  }
  StoreHalf(half_scale, out);
}

// Q2_0, 64 weights in 18 bytes, or 128 in 34:
//                                    bits 7 6      5 4      3 2     1 0
//   fp16 scale | 16 or 32 bytes, byte b = | 4b + 3 | 4b + 2 | 4b + 1 | 4b |
// Code 3, the value +2 of the type, is of no ternary weight.
void DecodeQ2_0(const uint8_t* in, int64_t group, uint8_t* codes, float* scale) {
  *scale = LoadHalf(in);
  for (int64_t j = 0; j < group; ++j) codes[j] = in[2 + j / 4] >> (j % 4 * 2) & 3;
}

void PackQ2_0(const uint8_t* codes, int64_t group, uint16_t half_scale, uint8_t* out) {
  StoreHalf(half_scale, out);
  std::fill_n(out + 2, group / 4, uint8_t{0});
  for (int64_t j = 0; j < group; ++j) {
    out[2 + j / 4] |= static_cast<uint8_t>(codes[j] << (j % 4 * 2));
  }
}

// I2_S, as x86 builds write it: all n weights of the tensor, one row after the other, in blocks of
// 128 in 32 bytes; a block may reach over the end of a row.
//               bits 7 6   5 4   3 2   1 0
//   byte m of 32 = | l=0 | l=1 | l=2 | l=3 |     the code of weight 32l + m of the block
// Behind all n/4 bytes the tensor's scale, an f32, and 28 bytes of padding. Builds for ARM write
// blocks of 64 in 16 bytes the same way.
void DecodeI2s(const uint8_t* in, I2sLayout layout, int64_t first, std::span<uint8_t> codes) {
  const int64_t bytes = layout == I2sLayout::kX86 ? 32 : 16;  // of a block
  for (size_t i = 0; i < codes.size(); ++i) {
    const int64_t j = first + static_cast<int64_t>(i);
    codes[i] = in[j / (4 * bytes) * bytes + j % bytes] >> (6 - j % (4 * bytes) / bytes * 2) & 3;
  }
}

Status CheckScale(const GgufTensor& tensor, float scale, const std::string& what) {
  if (std::isfinite(scale) && scale >= 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(tensor.Where(), "has the scale ", scale, " ", what,
                                          ", but scales are finite and not negative: the file is ",
                                          "corrupt, or of another layout than it says"));
}

// How many of a tensor's weights have each code.
using Histogram = std::array<int64_t, 3>;

// Trained ternary weights are a third to a half zeros and otherwise as many +1 as -1, within a few
// hundredths. The bounds are far from that, and for tensors large enough for chance not to matter.
constexpr int64_t kMinElementsForBalance = 4096;

Status CheckBalance(const GgufTensor& tensor, I2sLayout layout, const Histogram& count) {
  const int64_t all = count[0] + count[1] + count[2];
  if (all < kMinElementsForBalance) return absl::OkStatus();
  const int64_t nonzero = count[0] + count[2];
  const bool plausible =
      count[1] * 50 >= all && nonzero * 20 >= all && std::abs(count[2] - count[0]) * 4 <= nonzero;
  if (plausible) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      tensor.Where(), "has, read as I2_S of ", layout == I2sLayout::kX86 ? "an x86" : "an ARM",
      " build, ", count[0], " weights -1, ", count[1], " weights 0 and ", count[2],
      " weights +1, which is no balance of trained weights: the file is corrupt, or of a build ",
      "whose layout of I2_S is not read"));
}

}  // namespace

bool IsTernaryGgufType(GgufTensorType type) {
  return type == GgufTensorType::kTq1_0 || type == GgufTensorType::kTq2_0 ||
         type == GgufTensorType::kQ2_0 || type == GgufTensorType::kI2s;
}

StatusOr<GgufTernaryReader> GgufTernaryReader::Make(const GgufTensor& tensor,
                                                    I2sLayout i2s_layout) {
  if (!IsTernaryGgufType(tensor.type)) {
    return absl::UnimplementedError(
        absl::StrCat(tensor.Where(), "has type ", tensor.type_name,
                     ", but ternary tensors are read as TQ1_0, TQ2_0, Q2_0 or I2_S"));
  }
  if (tensor.type != GgufTensorType::kI2s) {
    return GgufTernaryReader(tensor, tensor.block_elements, i2s_layout, 0);
  }
  float scale;
  std::memcpy(&scale, tensor.bytes.data() + tensor.bytes.size() - kI2sTailBytes, sizeof(scale));
  STERNA_RETURN_IF_ERROR(CheckScale(tensor, scale, "for all its weights"));
  return GgufTernaryReader(tensor, tensor.cols, i2s_layout, scale);
}

Status GgufTernaryReader::ReadRow(int64_t row, std::span<uint8_t> codes,
                                  std::span<float> scales) const {
  const GgufTensor& tensor = *tensor_;
  STERNA_CHECK(row >= 0 && row < tensor.rows);
  STERNA_CHECK(static_cast<int64_t>(codes.size()) == tensor.cols);
  STERNA_CHECK(static_cast<int64_t>(scales.size()) == num_groups());
  const uint8_t* in = tensor.bytes.data();
  if (tensor.type == GgufTensorType::kI2s) {
    DecodeI2s(in, i2s_layout_, row * tensor.cols, codes);
    scales[0] = tensor_scale_;
  } else {
    in += row * num_groups() * tensor.block_bytes;
    for (int64_t group = 0; group < num_groups(); ++group, in += tensor.block_bytes) {
      uint8_t* const out = codes.data() + group * group_size_;
      if (tensor.type == GgufTensorType::kTq1_0) DecodeTq1_0(in, out, &scales[group]);
      if (tensor.type == GgufTensorType::kTq2_0) DecodeTq2_0(in, out, &scales[group]);
      if (tensor.type == GgufTensorType::kQ2_0) DecodeQ2_0(in, group_size_, out, &scales[group]);
      const auto where = [&] { return absl::StrCat("for group ", group, " of row ", row); };
      const float scale = scales[group];
      if (!(scale >= 0) || !std::isfinite(scale)) return CheckScale(tensor, scale, where());
    }
  }
  const auto bad = std::find(codes.begin(), codes.end(), kNoCode);
  if (bad == codes.end()) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(
      tensor.Where(), "has at row ", row, ", column ", bad - codes.begin(),
      tensor.type == GgufTensorType::kTq1_0 ? " a byte" : " the code 3",
      ", which stands for no ternary weight: the file is corrupt, or of another layout than its ",
      "type ", tensor.type_name, " has here"));
}

StatusOr<TernaryMatrix> ReadGgufTernaryMatrix(const GgufTensor& tensor, I2sLayout i2s_layout,
                                              const RowOrder& row_order,
                                              const RowForgetter& forgetter) {
  STERNA_ASSIGN_OR_RETURN(const GgufTernaryReader reader,
                          GgufTernaryReader::Make(tensor, i2s_layout));
  const int64_t groups = reader.num_groups();
  const int64_t group_size = reader.group_size();
  TernaryMatrix matrix(tensor.rows, tensor.cols);
  Histogram histogram{};
  std::vector<uint8_t> codes(static_cast<size_t>(tensor.cols));
  std::vector<float> scales(static_cast<size_t>(tensor.rows * groups));
  for (int64_t row = 0; row < tensor.rows; ++row) {
    const int64_t matrix_row = row_order ? row_order(row) : row;
    const auto row_scales = std::span<float>(scales).subspan(matrix_row * groups, groups);
    STERNA_RETURN_IF_ERROR(reader.ReadRow(row, codes, row_scales));
    for (const uint8_t code : codes) ++histogram[code];
    for (int64_t group = 0; group < groups; ++group) {
      const auto of_group = std::span<uint8_t>(codes).subspan(group * group_size, group_size);
      if (row_scales[group] == 0) std::fill(of_group.begin(), of_group.end(), kTernaryCodeZero);
      const bool zeros = std::all_of(of_group.begin(), of_group.end(),
                                     [](uint8_t code) { return code == kTernaryCodeZero; });
      if (zeros) row_scales[group] = 0;
    }
    matrix.SetRowCodes(matrix_row, codes, 0);
    forgetter.AfterRow(row);
  }
  if (tensor.type == GgufTensorType::kI2s) {
    STERNA_RETURN_IF_ERROR(CheckBalance(tensor, i2s_layout, histogram));
  }
  SetCoarsestScales(std::move(scales), group_size, matrix);
  return matrix;
}

void PackGgufTernaryRow(const GgufPacking& packing, std::span<const uint8_t> codes,
                        std::span<const uint16_t> half_scales, std::span<uint8_t> out) {
  STERNA_CHECK(IsTernaryGgufType(packing.type) && packing.type != GgufTensorType::kI2s);
  const auto blocks = static_cast<int64_t>(half_scales.size());
  STERNA_CHECK(static_cast<int64_t>(codes.size()) == blocks * packing.block_elements);
  STERNA_CHECK(static_cast<int64_t>(out.size()) == blocks * packing.block_bytes);
  STERNA_CHECK(std::ranges::all_of(codes, [](uint8_t code) { return code < kNoCode; }));
  for (int64_t block = 0; block < blocks; ++block) {
    const uint8_t* const in = codes.data() + block * packing.block_elements;
    uint8_t* const to = out.data() + block * packing.block_bytes;
    const uint16_t scale = half_scales[block];
    if (packing.type == GgufTensorType::kTq1_0) PackTq1_0(in, scale, to);
    if (packing.type == GgufTensorType::kTq2_0) PackTq2_0(in, scale, to);
    if (packing.type == GgufTensorType::kQ2_0) PackQ2_0(in, packing.block_elements, scale, to);
  }
}

}  // namespace sterna
