// A tokenizer.model (SentencePiece) without a tokenizer.json beside it.
#include "engine/text/sentencepiece_tokenizer.h"
#include "tests/fuzz/fuzz_input.h"
#include "tests/fuzz/tokenizing.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace sterna;
  const auto tokenizer =
      CreateSentencePieceTokenizer("tokenizer.model", testing::AsText(data, size), nullptr, {});
  if (tokenizer.ok()) testing::Tokenize(**tokenizer, "");
  return 0;
}
