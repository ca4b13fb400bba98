// Writes safetensors files for tests, good ones and, through SafetensorsBytes, bad ones.
#ifndef STERNA_TESTS_TESTING_SAFETENSORS_WRITER_H_
#define STERNA_TESTS_TESTING_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sterna::testing {

// A file of this header, whatever it says, and this data: header length, header, data.
std::string SafetensorsBytes(std::string_view header, std::string_view data);

struct TensorData {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

// A tensor of dtype "BF16", "F16" or "F32". The values must be exact in that type: BF16 keeps the
// upper half of the float, F16 is for normal numbers and zero.
TensorData FloatTensor(std::string_view dtype, std::vector<int64_t> shape,
                       std::span<const float> values);
TensorData ByteTensor(std::vector<int64_t> shape, std::span<const uint8_t> values);

// A well-formed file of these tensors, in the map's order.
std::string SafetensorsFileBytes(const std::map<std::string, TensorData>& tensors);

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_SAFETENSORS_WRITER_H_
