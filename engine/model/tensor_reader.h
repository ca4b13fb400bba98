// Checked access to the tensors of one safetensors checkpoint, for those that make weights of them.
#ifndef STERNA_ENGINE_MODEL_TENSOR_READER_H_
#define STERNA_ENGINE_MODEL_TENSOR_READER_H_

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/status.h"
#include "engine/model/safetensors.h"
#include "engine/model/weight_source.h"

namespace sterna {

bool IsFloatTensor(TensorType type);  // BF16, F16 or F32

// Bytes of one element of a float tensor.
int64_t FloatBytes(TensorType type);

// Converts `out.size()` elements of a float tensor, beginning with element `first`.
void ReadFloats(const TensorView& view, int64_t first, std::span<float> out);

// A float matrix; `where` as StoredMatrix has it.
StoredMatrix StoreOf(const TensorView& view, std::string where);

// Looks tensors up, checks them against what the config implies and remembers which were asked for.
// Refers to the checkpoint, which must outlive it. Any thread may read while others do. Errors name
// file and tensor: NotFound for one that is not there, InvalidArgument for another type or shape,
// DataLoss for values that are not finite.
class TensorReader {
 public:
  explicit TensorReader(const SafetensorsCheckpoint& tensors) : tensors_(tensors) {}

  std::set<std::string> used() const STERNA_EXCLUDES(mutex_);

  bool Has(const std::string& name) const { return tensors_.Find(name) != nullptr; }

  StatusOr<const TensorView*> Get(const std::string& name) STERNA_EXCLUDES(mutex_);

  // A float tensor of the given shape.
  StatusOr<const TensorView*> GetFloat(const std::string& name, const std::vector<int64_t>& shape);

  // A vector of `size` finite values.
  StatusOr<std::vector<float>> Vector(const std::string& name, int64_t size);

  // The error of a tensor that is not the `wanted` type and shape.
  static Status Mismatch(const std::string& name, const TensorView& view,
                         const std::string& wanted);

 private:
  const SafetensorsCheckpoint& tensors_;
  mutable Mutex mutex_;
  std::set<std::string> used_ STERNA_GUARDED_BY(mutex_);
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_TENSOR_READER_H_
