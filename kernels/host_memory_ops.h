// The part of Ops that is the same for all devices whose memory is the host's: nothing has to be
// moved for them, and copies are just that.
//
// Use: derive from it instead of from Ops. All work of such a device is done when an op returns.
#ifndef STERNA_KERNELS_HOST_MEMORY_OPS_H_
#define STERNA_KERNELS_HOST_MEMORY_OPS_H_

#include <cstdint>
#include <cstring>
#include <utility>

#include "kernels/ops.h"

namespace sterna {

template <typename F>
class HostMemoryOps : public Ops<F> {
 public:
  StatusOr<DeviceMemory> Allocate(int64_t bytes) override { return AllocateHostMemory(bytes); }
  void CopyToDevice(void* device, const void* host, int64_t bytes) override {
    if (bytes > 0) std::memcpy(device, host, static_cast<size_t>(bytes));
  }
  Status CopyToHost(void* host, const void* device, int64_t bytes) override {
    STERNA_RETURN_IF_ERROR(this->Finish());
    if (bytes > 0) std::memcpy(host, device, static_cast<size_t>(bytes));
    return absl::OkStatus();
  }
  StatusOr<TernaryMatrix> Place(TernaryMatrix host) override { return host; }
  StatusOr<PlacedDense> Place(const DenseMatrix& host) override {
    return PlacedDense{.view = host, .memory = {}};
  }
};

}  // namespace sterna

#endif  // STERNA_KERNELS_HOST_MEMORY_OPS_H_
