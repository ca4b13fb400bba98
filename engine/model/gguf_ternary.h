// Decodes ternary GGUF tensors to the codes and scales that are in the file, and puts them into the
// matrices that kernels multiply with; and packs rows of codes and scales as the types have them.
// Source: TQ1_0, TQ2_0 and Q2_0: ggml (ggml-common.h, ggml-quants.c; Q2_0 in groups of 128:
// PrismML's fork of it); I2_S: BitNet (src/ggml-bitnet-mad.cpp), as its x86 builds write it.
//
// I2_S comes in several layouts, and files do not say which: the caller has to. They permute the
// weights within a tensor, so that codes are as many of each kind and no check here can tell one
// from another. What is told: codes that no ternary weight has, and balances that no trained
// weights have.
//
// Thread contract: free functions, and a reader that is immutable; const access from many threads
// is fine.
#ifndef STERNA_ENGINE_MODEL_GGUF_TERNARY_H_
#define STERNA_ENGINE_MODEL_GGUF_TERNARY_H_

#include <cstdint>
#include <span>

#include "base/mapped_file.h"
#include "base/status.h"
#include "engine/model/gguf.h"
#include "engine/model/weight_source.h"
#include "kernels/ternary_format.h"

namespace sterna {

// Which build of BitNet wrote the I2_S tensors of a file: blocks of 128 weights, or of 64.
enum class I2sLayout { kX86, kArm };

// Whether GgufTernaryReader reads `type`.
bool IsTernaryGgufType(GgufTensorType type);

// Reads rows of one tensor, which must outlive it.
class GgufTernaryReader {
 public:
  // Unimplemented for a type that is not ternary. DataLoss for an I2_S tensor whose scale is not
  // finite or negative.
  static StatusOr<GgufTernaryReader> Make(const GgufTensor& tensor,
                                          I2sLayout i2s_layout = I2sLayout::kX86);

  const GgufTensor& tensor() const { return *tensor_; }
  // Columns that share a scale: 256 of TQ1_0 and TQ2_0, 64 or 128 of Q2_0; of I2_S, which has one
  // scale for the tensor, all.
  int64_t group_size() const { return group_size_; }
  int64_t num_groups() const { return tensor_->cols / group_size_; }

  // Row `row` < tensor().rows as the file has it: its codes, w + 1 in {0, 1, 2}, into `codes`
  // [cols], and the scale of each group, which multiplies, into `scales` [num_groups()].
  // DataLoss, with the place, for code 3, a TQ1_0 byte that stands for no weights, and a scale that
  // is not finite or negative.
  Status ReadRow(int64_t row, std::span<uint8_t> codes, std::span<float> scales) const;

 private:
  GgufTernaryReader(const GgufTensor& tensor, int64_t group_size, I2sLayout i2s_layout,
                    float tensor_scale)
      : tensor_(&tensor),
        group_size_(group_size),
        i2s_layout_(i2s_layout),
        tensor_scale_(tensor_scale) {}

  const GgufTensor* tensor_;
  int64_t group_size_;
  I2sLayout i2s_layout_;
  float tensor_scale_;  // of I2_S
};

// The whole tensor as a matrix [rows, cols], with the coarsest scales that say exactly the same
// (scale_groups.h); rows are put where `row_order` says. A group of scale 0 is a group of zeros.
// Errors of the reader, and DataLoss when the weights of an I2_S tensor are so unbalanced that they
// cannot be what they seem. Memory: the matrix and [rows, num_groups] floats on the way, and the
// pages of tensor.bytes, unless those are of a mapped file and `forgetter` is of them.
StatusOr<TernaryMatrix> ReadGgufTernaryMatrix(const GgufTensor& tensor,
                                              I2sLayout i2s_layout = I2sLayout::kX86,
                                              const RowOrder& row_order = {},
                                              const RowForgetter& forgetter = {{}, 1});

// Packs a row as ReadRow gives it: `codes` [cols], in {0, 1, 2}, and `half_scales` [cols / the
// block's elements], in half precision, into `out`, whole blocks. TQ1_0, TQ2_0 or Q2_0.
void PackGgufTernaryRow(const GgufPacking& packing, std::span<const uint8_t> codes,
                        std::span<const uint16_t> half_scales, std::span<uint8_t> out);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_TERNARY_H_
