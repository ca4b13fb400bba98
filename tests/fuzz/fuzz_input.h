// What the fuzzers share: their inputs as text.
#ifndef STERNA_TESTS_FUZZ_FUZZ_INPUT_H_
#define STERNA_TESTS_FUZZ_FUZZ_INPUT_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

namespace sterna::testing {

inline std::string_view AsText(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// What stands before the first byte 0 and what after it: two texts in one input. The second is
// empty where there is none.
inline std::pair<std::string_view, std::string_view> SplitAtZero(std::string_view input) {
  const size_t zero = input.find('\0');
  if (zero == std::string_view::npos) return {input, {}};
  return {input.substr(0, zero), input.substr(zero + 1)};
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_FUZZ_FUZZ_INPUT_H_
