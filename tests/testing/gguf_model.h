// GGUF files of whole models, for tests: written from a loaded checkpoint, on their own reading of
// llama.cpp's names and order of rows.
#ifndef STERNA_TESTS_TESTING_GGUF_MODEL_H_
#define STERNA_TESTS_TESTING_GGUF_MODEL_H_

#include <cstdint>
#include <string>

#include "engine/model/weights.h"
#include "tests/testing/gguf_writer.h"

namespace sterna::testing {

// How ternary weights are packed in a file.
enum class GgufPacking { kTq1_0, kTq2_0, kQ2_0Group64, kQ2_0Group128, kI2sX86, kI2sArm, kF16 };

// The model as a file of `architecture`, e.g. "llama"; of its rotary scaling only yarn is written.
// Scales must be exact in half precision (I2_S: for the tensor), sizes what the packing takes.
// Embedding and head are F32. No tokenizer.
GgufContents GgufModelOf(const Checkpoint& checkpoint, const std::string& architecture,
                         GgufPacking packing);

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_GGUF_MODEL_H_
