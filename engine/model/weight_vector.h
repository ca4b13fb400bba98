// A vector of weights, a norm or a bias: made on the host, then moved to where ops read it.
// Move-only. Thread contract: none; immutable once placed.
#ifndef STERNA_ENGINE_MODEL_WEIGHT_VECTOR_H_
#define STERNA_ENGINE_MODEL_WEIGHT_VECTOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "kernels/ops.h"

namespace sterna {

class WeightVector {
 public:
  WeightVector() = default;
  // Implicit: what loaders make is what they store.
  WeightVector(std::vector<float> values) : host_(std::move(values)) {}  // NOLINT

  int64_t size() const { return static_cast<int64_t>(span().size()); }
  bool empty() const { return span().empty(); }
  // As ops take it: of the host until Place, of the device after.
  std::span<const float> span() const {
    if (placed_.memory.empty()) return host_;
    return {static_cast<const float*>(placed_.view.data), static_cast<size_t>(placed_.view.cols)};
  }
  operator std::span<const float>() const { return span(); }  // NOLINT: as above, for ops

  // Moves the values to the device and frees the host's, if the device has memory of its own.
  template <typename F>
  Status Place(Ops<F>& ops) {
    if (host_.empty()) return absl::OkStatus();
    STERNA_ASSIGN_OR_RETURN(
        placed_, ops.Place(DenseMatrix{
                     .data = host_.data(), .rows = 1, .cols = static_cast<int64_t>(host_.size())}));
    if (!placed_.memory.empty()) host_ = {};
    return absl::OkStatus();
  }

 private:
  std::vector<float> host_;
  PlacedDense placed_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_WEIGHT_VECTOR_H_
