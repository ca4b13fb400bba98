// A model.safetensors, all of whose tensors are then read in every way that loaders read tensors;
// or, where the input is a JSON object, a model.safetensors.index.json beside one good shard.
#include <string>
#include <vector>

#include "base/check.h"
#include "engine/model/safetensors.h"
#include "engine/model/tensor_reader.h"
#include "engine/model/ternary_reader.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/input_directory.h"
#include "tests/testing/safetensors_writer.h"

namespace sterna {
namespace {

// Every reader, each with the shape that the file itself gives the tensor: any other is refused.
void ReadTensor(const SafetensorsCheckpoint& tensors, const std::string& name) {
  const TensorView* view = tensors.Find(name);
  STERNA_CHECK(view != nullptr);
  const std::vector<int64_t>& shape = view->shape;
  TensorReader reader(tensors);
  reader.GetFloat(name, shape).status().IgnoreError();
  ReadWeightScale(reader, name).status().IgnoreError();
  if (shape.size() == 1) reader.Vector(name, shape[0]).status().IgnoreError();
  if (shape.size() != 2) return;
  ReadLatent(reader, name, shape[0], shape[1]).status().IgnoreError();
  if (IsFloatTensor(view->type)) ReadUnpacked(StoreOf(*view, name)).status().IgnoreError();
  if (shape[0] <= INT64_MAX / 4) {
    ReadPacked(reader, name, shape[0] * 4, shape[1]).status().IgnoreError();
  }
}

}  // namespace
}  // namespace sterna

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sterna;
  static auto* const single = new testing::InputDirectory();
  static auto* const sharded = new testing::InputDirectory();
  const std::string_view input = testing::AsText(data, size);
  // No header of an input this small is as long as these two bytes would make it.
  const bool is_index = input.starts_with("{\"");
  testing::InputDirectory& directory = is_index ? *sharded : *single;
  if (is_index) {
    const float value = 1;
    directory.Write(
        "model-00001-of-00001.safetensors",
        testing::SafetensorsFileBytes({{"a", testing::FloatTensor("F32", {1}, {&value, 1})},
                                       {"b", testing::FloatTensor("BF16", {1, 1}, {&value, 1})}}));
  }
  directory.Write(is_index ? "model.safetensors.index.json" : "model.safetensors", input);
  const auto tensors = SafetensorsCheckpoint::Open(directory.path());
  if (!tensors.ok()) return 0;
  for (const std::string& name : tensors->names()) ReadTensor(*tensors, name);
  return 0;
}
