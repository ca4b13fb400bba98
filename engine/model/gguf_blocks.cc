#include "engine/model/gguf_blocks.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "kernels/bfloat16.h"
#include "kernels/half_float.h"

namespace sterna {
namespace {

uint16_t LoadU16(const uint8_t* bytes) {
  uint16_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

float LoadHalf(const uint8_t* bytes) { return HalfToFloat(LoadU16(bytes)); }

// One block from `in` into `out`, of as many bytes and floats as the type's block has.
using DecodeBlock = void (*)(const uint8_t* in, float* out);

void DecodeF32(const uint8_t* in, float* out) { std::memcpy(out, in, sizeof(*out)); }
void DecodeF16(const uint8_t* in, float* out) { *out = LoadHalf(in); }
void DecodeBf16(const uint8_t* in, float* out) { *out = Bf16ToFloat(LoadU16(in)); }

// Q8_0, 32 values in 34 bytes:
//   fp16 scale | int8 q[32]          value j = scale * q[j], q in [-128, 127]
void DecodeQ8_0(const uint8_t* in, float* out) {
  const float scale = LoadHalf(in);
  for (int j = 0; j < 32; ++j) out[j] = scale * static_cast<float>(static_cast<int8_t>(in[2 + j]));
}

// Q4_0, 32 values in 18 bytes:
//                               bits 7 .. 4     3 .. 0
//   fp16 scale | 16 bytes, byte b = | q[b + 16] | q[b]   |
// value j = scale * (q[j] - 8), q in [0, 15]
void DecodeQ4_0(const uint8_t* in, float* out) {
  const float scale = LoadHalf(in);
  for (int b = 0; b < 16; ++b) {
    const int byte = in[2 + b];
    out[b] = scale * static_cast<float>((byte & 15) - 8);
    out[b + 16] = scale * static_cast<float>((byte >> 4) - 8);
  }
}

// Q6_K, 256 values in 210 bytes:
//   low[128] | high[64] | int8 scales[16] | fp16 scale
// Each half h of 128 values has low[64h ..], high[32h ..] and scales[8h ..] of its own. In it,
// value 32k + m (k < 4, m < 32) has its low 4 bits in byte 32 * (k % 2) + m of low, in the lower
// half of the byte for k < 2 and the upper for k >= 2, its high 2 bits at bits 2k of byte m of
// high, and scale (32k + m) / 16:
//   value = scale * scales[..] * (q - 32), q in [0, 63]
void DecodeQ6K(const uint8_t* in, float* out) {
  const float scale = LoadHalf(in + 208);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* const low = in + 64 * half;
    const uint8_t* const high = in + 128 + 32 * half;
    const uint8_t* const scales = in + 192 + 8 * half;
    for (int j = 0; j < 128; ++j) {
      const int k = j / 32;
      const int m = j % 32;
      const int q = (low[32 * (k % 2) + m] >> (k / 2 * 4) & 15) | (high[m] >> (2 * k) & 3) << 4;
      const auto group_scale = static_cast<float>(static_cast<int8_t>(scales[j / 16]));
      out[128 * half + j] = scale * group_scale * static_cast<float>(q - 32);
    }
  }
}

// Null for the types that are not read as floats.
DecodeBlock DecoderOf(GgufTensorType type) {
  switch (type) {
    case GgufTensorType::kF32:
      return DecodeF32;
    case GgufTensorType::kF16:
      return DecodeF16;
    case GgufTensorType::kBf16:
      return DecodeBf16;
    case GgufTensorType::kQ8_0:
      return DecodeQ8_0;
    case GgufTensorType::kQ4_0:
      return DecodeQ4_0;
    case GgufTensorType::kQ6K:
      return DecodeQ6K;
    default:
      return nullptr;
  }
}

}  // namespace

Status DequantizeGgufRow(const GgufTensor& tensor, int64_t row, std::span<float> out) {
  STERNA_CHECK(row >= 0 && row < tensor.rows);
  STERNA_CHECK(static_cast<int64_t>(out.size()) == tensor.cols);
  const DecodeBlock decode = DecoderOf(tensor.type);
  if (decode == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(tensor.Where(), "has type ", tensor.type_name,
                     ", but tensors of numbers are read as F32, F16, BF16, Q8_0, Q4_0 or Q6_K"));
  }
  const int64_t blocks = tensor.cols / tensor.block_elements;
  const uint8_t* in = tensor.bytes.data() + row * blocks * tensor.block_bytes;
  for (int64_t block = 0; block < blocks; ++block) {
    decode(in + block * tensor.block_bytes, out.data() + block * tensor.block_elements);
  }
  return absl::OkStatus();
}

}  // namespace sterna
