// Writes GGUF files for tests, good ones and, through the fields that overrule what would be right,
// bad ones; and packs tensors. Written from the formats' definitions, and on its own: half
// precision is all that it shares with the reader.
#ifndef STERNA_TESTS_TESTING_GGUF_WRITER_H_
#define STERNA_TESTS_TESTING_GGUF_WRITER_H_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/model/gguf_value.h"

namespace sterna::testing {

// A metadata value: its type's number and its bytes.
struct GgufBytes {
  uint32_t type = 0;
  std::string bytes;
};

// Of uint8_t to uint64_t, int8_t to int64_t, float, double or bool.
template <typename T>
GgufBytes GgufNumber(T value);
GgufBytes GgufText(std::string_view text);
// Of elements of one type, arrays among them; `type` is for an array without elements.
GgufBytes GgufList(const std::vector<GgufBytes>& elements, uint32_t type = 0);
std::pair<std::string, GgufBytes> GgufPair(const GgufKeyValue& pair);

struct GgufTensorBytes {
  std::string name;
  uint32_t type = 0;
  std::vector<uint64_t> dims;  // innermost first, as in the file
  std::string bytes;
  std::optional<uint64_t> offset;  // what the header says, instead of where the bytes are
};

struct GgufContents {
  std::vector<std::pair<std::string, GgufBytes>> metadata;
  std::vector<GgufTensorBytes> tensors;
  std::string magic = "GGUF";
  uint32_t version = 3;
  uint64_t alignment = 32;  // how the data lies; it is for `metadata` to say so
  bool pad_last = true;     // the last tensor too
  // What the header says, instead of how many there are.
  std::optional<uint64_t> num_keys;
  std::optional<uint64_t> num_tensors;
};

std::string GgufFileBytes(const GgufContents& contents);
// The same without the data section and the padding before it.
std::string GgufHeaderBytes(const GgufContents& contents);

// Codes (w + 1 in {0, 1, 2}, or 3 to be refused) of whole rows and scales, one of each group, as
// the blocks of a type. `scales` must be exact in half precision.
std::string PackTq1_0(std::span<const uint8_t> codes, std::span<const float> scales);
std::string PackTq2_0(std::span<const uint8_t> codes, std::span<const float> scales);
std::string PackQ2_0(std::span<const uint8_t> codes, std::span<const float> scales, int group);
// The x86 form, for `chunk` 128; the ARM form has 64.
std::string PackI2s(std::span<const uint8_t> codes, float scale, int chunk = 128);
// The integers of one block and its scales.
std::string PackQ8_0(std::span<const int> q, float scale);
std::string PackQ4_0(std::span<const int> q, float scale);
std::string PackQ6K(std::span<const int> q, std::span<const int> scales, float scale);

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_GGUF_WRITER_H_
