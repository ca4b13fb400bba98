// Decodes GGUF tensors of numbers, whole or quantised, row by row into floats: what embeddings,
// heads and norms come as. Ternary tensors have gguf_ternary.h.
// Source: the block definitions of ggml (ggml-common.h, ggml-quants.c).
//
// Thread contract: free functions without state; const access from many threads is fine.
#ifndef STERNA_ENGINE_MODEL_GGUF_BLOCKS_H_
#define STERNA_ENGINE_MODEL_GGUF_BLOCKS_H_

#include <cstdint>
#include <span>

#include "base/status.h"
#include "engine/model/gguf.h"

namespace sterna {

// Row `row` < tensor.rows as floats, into `out` [tensor.cols]: exact for F32, F16 and BF16; for
// Q8_0, Q4_0 and Q6_K each product of scales and the integer rounded to float, in ggml's order.
// Unimplemented for any other type, with the types that are read. `tensor` is of an open file.
Status DequantizeGgufRow(const GgufTensor& tensor, int64_t row, std::span<float> out);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_BLOCKS_H_
