// A config.json. The same text is all the files beside it too, so that the fields of each are
// looked for in what is being changed.
#include "engine/model/config.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/input_directory.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sterna;
  static auto* const directory = new testing::InputDirectory();
  for (const char* name :
       {"config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"}) {
    directory->Write(name, testing::AsText(data, size));
  }
  const auto config = ReadModelConfig(directory->path());
  if (config.ok()) config->rope.InverseFrequencies(config->head_dim);
  return 0;
}
