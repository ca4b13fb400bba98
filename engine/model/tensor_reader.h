// Checked access to the tensors of one checkpoint, for those that make weights of them.
#ifndef STERNA_ENGINE_MODEL_TENSOR_READER_H_
#define STERNA_ENGINE_MODEL_TENSOR_READER_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/model/safetensors.h"

namespace sterna {

bool IsFloatTensor(TensorType type);  // BF16, F16 or F32

// Bytes of one element of a float tensor.
int64_t FloatBytes(TensorType type);

// Converts `out.size()` elements of a float tensor, beginning with element `first`.
void ReadFloats(const TensorView& view, int64_t first, std::span<float> out);

// Looks tensors up, checks them against what the config implies and remembers which were asked for.
// Refers to the checkpoint, which must outlive it. For one thread. Errors name file and tensor:
// NotFound for one that is not there, InvalidArgument for another type or shape, DataLoss for
// values that are not finite.
class TensorReader {
 public:
  explicit TensorReader(const SafetensorsCheckpoint& tensors) : tensors_(tensors) {}

  const std::vector<std::string>& used() const { return used_; }

  bool Has(const std::string& name) const { return tensors_.Find(name) != nullptr; }

  StatusOr<const TensorView*> Get(const std::string& name);

  // A float tensor of the given shape.
  StatusOr<const TensorView*> GetFloat(const std::string& name, const std::vector<int64_t>& shape);

  // A vector of `size` finite values.
  StatusOr<std::vector<float>> Vector(const std::string& name, int64_t size);

  // `name` of `size` values when `flag` (a field of config.json) is set; empty when it is not, and
  // then the tensor must not be there either.
  StatusOr<std::vector<float>> VectorIf(bool flag, const std::string& field,
                                        const std::string& name, int64_t size);

  // The error of a tensor that is not the `wanted` type and shape.
  static Status Mismatch(const std::string& name, const TensorView& view,
                         const std::string& wanted);

 private:
  const SafetensorsCheckpoint& tensors_;
  std::vector<std::string> used_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_TENSOR_READER_H_
