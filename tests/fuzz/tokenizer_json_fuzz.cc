// A tokenizer.json, which is the tokenizer_config.json too; and after a byte 0 a text to encode.
// What makes no byte-level tokenizer is only read.
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/tokenizer_files.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/input_directory.h"
#include "tests/fuzz/tokenizing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sterna;
  static auto* const directory = new testing::InputDirectory();
  const auto [file, text] = testing::SplitAtZero(testing::AsText(data, size));
  const std::string path = directory->Write("tokenizer.json", file);
  const auto config = ReadTokenizerConfig(path);
  auto json = ReadTokenizerJson(path);
  if (!json.ok()) return 0;
  ApplyTokenizerConfig(config.value_or(TokenizerConfig()), &*json);
  if (!json->byte_level) return 0;
  const auto tokenizer = BpeTokenizer::Create(path, *json, config.value_or(TokenizerConfig()));
  if (tokenizer.ok()) testing::Tokenize(**tokenizer, text);
  return 0;
}
