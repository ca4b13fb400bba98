#include "engine/model/tensor_reader.h"

#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/bfloat16.h"
#include "kernels/half_float.h"

namespace sterna {
namespace {

// Two bytes of any alignment to each float.
template <typename ToFloat>
void Convert(const uint8_t* source, std::span<float> out, ToFloat to_float) {
  for (size_t i = 0; i < out.size(); ++i) {
    uint16_t bits;
    std::memcpy(&bits, source + 2 * i, sizeof(bits));
    out[i] = to_float(bits);
  }
}

}  // namespace

bool IsFloatTensor(TensorType type) {
  return type == TensorType::kBf16 || type == TensorType::kF16 || type == TensorType::kF32;
}

int64_t FloatBytes(TensorType type) { return type == TensorType::kF32 ? 4 : 2; }

void ReadFloats(const TensorView& view, int64_t first, std::span<float> out) {
  const uint8_t* source = view.bytes.data() + first * FloatBytes(view.type);
  if (view.type == TensorType::kF32) {
    std::memcpy(out.data(), source, out.size_bytes());
  } else if (view.type == TensorType::kBf16) {
    Convert(source, out, Bf16ToFloat);
  } else {
    Convert(source, out, HalfToFloat);
  }
}

StoredMatrix StoreOf(const TensorView& view, std::string where) {
  const int64_t cols = view.shape[1];
  const auto address = reinterpret_cast<uintptr_t>(view.bytes.data());
  const bool aligned = address % static_cast<uintptr_t>(FloatBytes(view.type)) == 0;
  return {
      .rows = view.shape[0],
      .cols = cols,
      .type = view.type == TensorType::kBf16 ? DenseType::kBf16 : DenseType::kF32,
      .read_row = [view, cols](int64_t row,
                               std::span<float> values) { ReadFloats(view, row * cols, values); },
      .bytes = view.bytes,
      .in_place = view.type != TensorType::kF16 && aligned,
      .where = std::move(where)};
}

std::set<std::string> TensorReader::used() const {
  const MutexLock lock(mutex_);
  return used_;
}

StatusOr<const TensorView*> TensorReader::Get(const std::string& name) {
  const TensorView* view = tensors_.Find(name);
  if (view == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(tensors_.path(), " lacks tensor '", name, "', which config.json implies"));
  }
  const MutexLock lock(mutex_);
  used_.insert(name);
  return view;
}

StatusOr<const TensorView*> TensorReader::GetFloat(const std::string& name,
                                                   const std::vector<int64_t>& shape) {
  STERNA_ASSIGN_OR_RETURN(const TensorView* view, Get(name));
  if (!IsFloatTensor(view->type) || view->shape != shape) {
    return Mismatch(name, *view,
                    absl::StrCat("BF16, F16 or F32 [", absl::StrJoin(shape, ", "), "]"));
  }
  return view;
}

StatusOr<std::vector<float>> TensorReader::Vector(const std::string& name, int64_t size) {
  STERNA_ASSIGN_OR_RETURN(const TensorView* view, GetFloat(name, {size}));
  std::vector<float> values(static_cast<size_t>(size));
  ReadFloats(*view, 0, values);
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return absl::DataLossError(absl::StrCat(view->file, ": tensor '", name, "' holds ", values[i],
                                              " at ", i, ", but must be finite"));
    }
  }
  return values;
}

Status TensorReader::Mismatch(const std::string& name, const TensorView& view,
                              const std::string& wanted) {
  return absl::InvalidArgumentError(absl::StrCat(view.file, ": tensor '", name, "' is ",
                                                 view.type_name, " ", view.ShapeString(),
                                                 ", but config.json implies ", wanted));
}

}  // namespace sterna
