// Metadata to be written into a GGUF file, as plain data. (What is read from one is a GgufValue,
// gguf_metadata.h, which stays in the file's mapping.)
#ifndef STERNA_ENGINE_MODEL_GGUF_VALUE_H_
#define STERNA_ENGINE_MODEL_GGUF_VALUE_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace sterna {

// The key, and a value of the type that it is to have in the file.
using GgufKeyValue =
    std::pair<std::string,
              std::variant<uint32_t, int32_t, float, bool, std::string, std::vector<std::string>,
                           std::vector<int32_t>, std::vector<float>>>;

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_VALUE_H_
