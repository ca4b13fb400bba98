#include "tests/testing/safetensors_writer.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace sterna::testing {
namespace {

void Append(std::string& out, const void* data, size_t bytes) {
  out.append(static_cast<const char*>(data), bytes);
}

uint16_t HalfBits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  if (value == 0) return static_cast<uint16_t>(sign);
  const int exponent = static_cast<int>(bits >> 23 & 255) - 112;
  STERNA_CHECK(exponent > 0 && exponent < 31 && (bits & 0x1fff) == 0);
  return static_cast<uint16_t>(sign | static_cast<uint32_t>(exponent) << 10 | (bits >> 13 & 1023));
}

}  // namespace

std::string SafetensorsBytes(std::string_view header, std::string_view data) {
  std::string out;
  const uint64_t length = header.size();
  Append(out, &length, sizeof(length));
  return out.append(header).append(data);
}

TensorData FloatTensor(std::string_view dtype, std::vector<int64_t> shape,
                       std::span<const float> values) {
  TensorData tensor{.dtype = std::string(dtype), .shape = std::move(shape), .bytes = {}};
  for (const float value : values) {
    if (dtype == "F32") {
      Append(tensor.bytes, &value, sizeof(value));
      continue;
    }
    STERNA_CHECK(dtype == "BF16" || dtype == "F16");
    const uint16_t bits = dtype == "F16"
                              ? HalfBits(value)
                              : static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
    Append(tensor.bytes, &bits, sizeof(bits));
  }
  return tensor;
}

TensorData ByteTensor(std::vector<int64_t> shape, std::span<const uint8_t> values) {
  TensorData tensor{.dtype = "U8", .shape = std::move(shape), .bytes = {}};
  Append(tensor.bytes, values.data(), values.size());
  return tensor;
}

std::string SafetensorsFileBytes(const std::map<std::string, TensorData>& tensors) {
  std::vector<std::string> entries;
  std::string data;
  for (const auto& [name, tensor] : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    entries.push_back(absl::StrCat("\"", name, "\":{\"dtype\":\"", tensor.dtype, "\",\"shape\":[",
                                   absl::StrJoin(tensor.shape, ","), "],\"data_offsets\":[", begin,
                                   ",", data.size(), "]}"));
  }
  return SafetensorsBytes(absl::StrCat("{", absl::StrJoin(entries, ","), "}"), data);
}

}  // namespace sterna::testing
