// Ternary matrices from the forms in which safetensors files hold them (docs/formats.md, "Weights
// on disk"). Errors name file and tensor: those of TensorReader, and DataLoss for a corrupt tensor.
#ifndef STERNA_ENGINE_MODEL_TERNARY_READER_H_
#define STERNA_ENGINE_MODEL_TERNARY_READER_H_

#include <cstdint>
#include <string>

#include "base/status.h"
#include "engine/model/tensor_reader.h"
#include "kernels/ternary_format.h"

namespace sterna {

// U8 [rows / 4, cols]: bits 2i, 2i + 1 of byte (r, c) are the code of weight (i * rows / 4 + r, c).
// The scale, which is another tensor, is left to the caller.
StatusOr<TernaryMatrix> ReadPacked(TensorReader& reader, const std::string& name, int64_t rows,
                                   int64_t cols);

// Latent weights [rows, cols] of any float type, quantised to their mean magnitude (BitNet b1.58,
// arXiv:2402.17764, section 2): w = clamp(round(W * sw), -1, 1) with sw = 1 / max(mean |W|, 1e-5),
// and the scale 1 / sw.
StatusOr<TernaryMatrix> ReadLatent(TensorReader& reader, const std::string& name, int64_t rows,
                                   int64_t cols);

// Weights of any float type that are -s, 0 and s, with an s for the tensor, for each row or, where
// the columns are a multiple of 64, for groups of them: codes and the coarsest scales that say the
// same (scale_groups.h), exactly. Rows are put where `row_order` says. InvalidArgument where the
// values are others.
StatusOr<TernaryMatrix> ReadUnpacked(const StoredMatrix& stored, const RowOrder& row_order = {});

// One positive scale, of shape [1] or [].
StatusOr<double> ReadWeightScale(TensorReader& reader, const std::string& name);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_TERNARY_READER_H_
