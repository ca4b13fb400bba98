// A GGUF file, all of whose metadata is then asked for as every type, and all of whose tensors are
// decoded.
#include <string>
#include <vector>

#include "engine/model/gguf.h"
#include "engine/model/gguf_blocks.h"
#include "engine/model/gguf_ternary.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/input_directory.h"

namespace sterna {
namespace {

void ReadValue(const GgufMetadata& metadata, std::string_view key, const GgufValue& value) {
  metadata.Integer(key).status().IgnoreError();
  metadata.Float(key).status().IgnoreError();
  metadata.Bool(key).status().IgnoreError();
  metadata.String(key).status().IgnoreError();
  metadata.Integers(key).status().IgnoreError();
  metadata.Floats(key).status().IgnoreError();
  metadata.Strings(key).status().IgnoreError();
  for (const GgufValue& element : value.Elements()) element.Elements();
}

void ReadTensor(const GgufTensor& tensor) {
  std::vector<float> row(static_cast<size_t>(tensor.cols));
  for (int64_t i = 0; i < tensor.rows; ++i) {
    if (!DequantizeGgufRow(tensor, i, row).ok()) break;
  }
  ReadGgufTernaryMatrix(tensor).status().IgnoreError();
}

}  // namespace
}  // namespace sterna

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sterna;
  static auto* const directory = new testing::InputDirectory();
  const std::string path = directory->Write("model.gguf", testing::AsText(data, size));
  const auto gguf = GgufCheckpoint::Open(path);
  if (!gguf.ok()) return 0;
  for (const auto& [key, value] : gguf->metadata().values()) {
    ReadValue(gguf->metadata(), key, value);
  }
  for (const std::string& name : gguf->names()) ReadTensor(*gguf->Find(name));
  return 0;
}
