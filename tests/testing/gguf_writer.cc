#include "tests/testing/gguf_writer.h"

#include <type_traits>

#include "base/check.h"
#include "kernels/half_float.h"

namespace sterna::testing {
namespace {

template <typename T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendText(std::string& out, std::string_view text) {
  Append<uint64_t>(out, text.size());
  out.append(text);
}

void AppendHalf(std::string& out, float value) {
  // What is no number is for readers to refuse.
  if (value != value || value - value != 0) {
    Append<uint16_t>(out, value != value ? 0x7e01 : value > 0 ? 0x7c00 : 0xfc00);
    return;
  }
  const uint16_t half = FloatToHalf(value);
  STERNA_CHECK(HalfToFloat(half) == value);
  Append(out, half);
}

void Pad(std::string& out, uint64_t alignment) {
  while (out.size() % alignment != 0) out.push_back('\0');
}

template <typename T>
constexpr uint32_t NumberType() {
  if constexpr (std::is_same_v<T, uint8_t>) return 0;
  if constexpr (std::is_same_v<T, int8_t>) return 1;
  if constexpr (std::is_same_v<T, uint16_t>) return 2;
  if constexpr (std::is_same_v<T, int16_t>) return 3;
  if constexpr (std::is_same_v<T, uint32_t>) return 4;
  if constexpr (std::is_same_v<T, int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, uint64_t>) return 10;
  if constexpr (std::is_same_v<T, int64_t>) return 11;
  if constexpr (std::is_same_v<T, double>) return 12;
}

// ceil(q * 256 / 243) of the number q that `digits`, the first the most significant, make.
uint8_t Base3Byte(const int (&digits)[5]) {
  int q = 0;
  for (const int digit : digits) q = 3 * q + digit;
  int byte = 0;
  while (byte * 243 < q * 256) ++byte;
  return static_cast<uint8_t>(byte);
}

}  // namespace

template <typename T>
GgufBytes GgufNumber(T value) {
  GgufBytes number{.type = NumberType<T>(), .bytes = {}};
  Append(number.bytes, value);
  return number;
}
template GgufBytes GgufNumber(uint8_t);
template GgufBytes GgufNumber(int8_t);
template GgufBytes GgufNumber(uint16_t);
template GgufBytes GgufNumber(int16_t);
template GgufBytes GgufNumber(uint32_t);
template GgufBytes GgufNumber(int32_t);
template GgufBytes GgufNumber(uint64_t);
template GgufBytes GgufNumber(int64_t);
template GgufBytes GgufNumber(float);
template GgufBytes GgufNumber(double);
template GgufBytes GgufNumber(bool);

GgufBytes GgufText(std::string_view text) {
  GgufBytes value{.type = 8, .bytes = {}};
  AppendText(value.bytes, text);
  return value;
}

GgufBytes GgufList(const std::vector<GgufBytes>& elements, uint32_t type) {
  GgufBytes list{.type = 9, .bytes = {}};
  Append<uint32_t>(list.bytes, elements.empty() ? type : elements[0].type);
  Append<uint64_t>(list.bytes, elements.size());
  for (const GgufBytes& element : elements) {
    STERNA_CHECK(element.type == elements[0].type);
    list.bytes += element.bytes;
  }
  return list;
}

namespace {

template <typename T>
GgufBytes ValueBytes(const T& value) {
  return GgufNumber(value);
}

GgufBytes ValueBytes(const std::string& text) { return GgufText(text); }

template <typename T>
GgufBytes ValueBytes(const std::vector<T>& list) {
  std::vector<GgufBytes> elements;
  elements.reserve(list.size());
  for (const T& element : list) elements.push_back(ValueBytes(element));
  return GgufList(elements, ValueBytes(T()).type);
}

}  // namespace

std::pair<std::string, GgufBytes> GgufPair(const GgufKeyValue& pair) {
  return {pair.first, std::visit([](const auto& value) { return ValueBytes(value); }, pair.second)};
}

std::string GgufHeaderBytes(const GgufContents& contents) {
  std::string out = contents.magic;
  Append(out, contents.version);
  Append<uint64_t>(out, contents.num_tensors.value_or(contents.tensors.size()));
  Append<uint64_t>(out, contents.num_keys.value_or(contents.metadata.size()));
  for (const auto& [key, value] : contents.metadata) {
    AppendText(out, key);
    Append(out, value.type);
    out += value.bytes;
  }
  uint64_t offset = 0;
  for (const GgufTensorBytes& tensor : contents.tensors) {
    AppendText(out, tensor.name);
    Append<uint32_t>(out, static_cast<uint32_t>(tensor.dims.size()));
    for (const uint64_t dim : tensor.dims) Append(out, dim);
    Append(out, tensor.type);
    Append(out, tensor.offset.value_or(offset));
    offset +=
        (tensor.bytes.size() + contents.alignment - 1) / contents.alignment * contents.alignment;
  }
  return out;
}

std::string GgufFileBytes(const GgufContents& contents) {
  std::string out = GgufHeaderBytes(contents);
  for (const GgufTensorBytes& tensor : contents.tensors) {
    Pad(out, contents.alignment);
    out += tensor.bytes;
  }
  if (contents.pad_last) Pad(out, contents.alignment);
  return out;
}

std::string PackTq1_0(std::span<const uint8_t> codes, std::span<const float> scales) {
  std::string out;
  for (size_t block = 0; block < scales.size(); ++block) {
    const auto w = codes.subspan(256 * block, 256);
    for (int m = 0; m < 32; ++m) {
      out.push_back(
          static_cast<char>(Base3Byte({w[m], w[32 + m], w[64 + m], w[96 + m], w[128 + m]})));
    }
    for (int m = 160; m < 176; ++m) {
      out.push_back(
          static_cast<char>(Base3Byte({w[m], w[16 + m], w[32 + m], w[48 + m], w[64 + m]})));
    }
    for (int m = 240; m < 244; ++m) {
      out.push_back(static_cast<char>(Base3Byte({w[m], w[4 + m], w[8 + m], w[12 + m], 0})));
    }
    AppendHalf(out, scales[block]);
  }
  return out;
}

std::string PackTq2_0(std::span<const uint8_t> codes, std::span<const float> scales) {
  std::string out;
  for (size_t block = 0; block < scales.size(); ++block) {
    for (int half = 0; half < 2; ++half) {
      const auto w = codes.subspan(256 * block + 128 * half, 128);
      for (int m = 0; m < 32; ++m) {
        out.push_back(static_cast<char>(w[m] + 4 * w[32 + m] + 16 * w[64 + m] + 64 * w[96 + m]));
      }
    }
    AppendHalf(out, scales[block]);
  }
  return out;
}

std::string PackQ2_0(std::span<const uint8_t> codes, std::span<const float> scales, int group) {
  std::string out;
  for (size_t block = 0; block < scales.size(); ++block) {
    AppendHalf(out, scales[block]);
    const auto w = codes.subspan(group * block, group);
    for (int j = 0; j < group; j += 4) {
      out.push_back(static_cast<char>(w[j] + 4 * w[j + 1] + 16 * w[j + 2] + 64 * w[j + 3]));
    }
  }
  return out;
}

std::string PackI2s(std::span<const uint8_t> codes, float scale, int chunk) {
  std::string out;
  const int stride = chunk / 4;
  for (size_t begin = 0; begin < codes.size(); begin += chunk) {
    const auto w = codes.subspan(begin, chunk);
    for (int m = 0; m < stride; ++m) {
      out.push_back(static_cast<char>(64 * w[m] + 16 * w[stride + m] + 4 * w[2 * stride + m] +
                                      w[3 * stride + m]));
    }
  }
  Append(out, scale);
  return out.append(28, '\0');
}

std::string PackQ8_0(std::span<const int> q, float scale) {
  std::string out;
  AppendHalf(out, scale);
  for (const int value : q) out.push_back(static_cast<char>(value));
  return out;
}

std::string PackQ4_0(std::span<const int> q, float scale) {
  std::string out;
  AppendHalf(out, scale);
  for (int b = 0; b < 16; ++b) out.push_back(static_cast<char>(q[b] + 16 * q[b + 16]));
  return out;
}

std::string PackQ6K(std::span<const int> q, std::span<const int> scales, float scale) {
  std::string low(128, '\0');
  std::string high(64, '\0');
  for (int half = 0; half < 2; ++half) {
    for (int m = 0; m < 32; ++m) {
      const int first = q[128 * half + m];
      const int second = q[128 * half + 32 + m];
      const int third = q[128 * half + 64 + m];
      const int fourth = q[128 * half + 96 + m];
      low[64 * half + m] = static_cast<char>(first % 16 + third % 16 * 16);
      low[64 * half + 32 + m] = static_cast<char>(second % 16 + fourth % 16 * 16);
      high[32 * half + m] =
          static_cast<char>(first / 16 + second / 16 * 4 + third / 16 * 16 + fourth / 16 * 64);
    }
  }
  std::string out = low + high;
  for (const int group_scale : scales) out.push_back(static_cast<char>(group_scale));
  AppendHalf(out, scale);
  return out;
}

}  // namespace sterna::testing
