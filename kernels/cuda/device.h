// One CUDA device as the ops use it: a stream on which everything happens in order, memory, copies,
// and the first failure of all that was asked for.
//
// A CUDA error is sticky: after a failed kernel nothing works any more. So the first one is kept,
// with what was being done, later calls do nothing, and Finish tells it.
// Lifetime: memory from it must not outlive it. Thread contract: one caller at a time.
#ifndef STERNA_KERNELS_CUDA_DEVICE_H_
#define STERNA_KERNELS_CUDA_DEVICE_H_

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/status.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/ternary_linear.h"
#include "kernels/device_memory.h"
#include "kernels/ops.h"

namespace sterna::cuda {

// The Status of an error: ResourceExhausted for want of memory, else Internal; `what` was being
// done.
Status ToStatus(cudaError_t error, const std::string& what);

// Memory of the host that a device copies to and from in the background.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  ~PinnedMemory() {
    if (data_ != nullptr) (void)cudaFreeHost(data_);
  }
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;

  void* data() const { return data_; }
  // Whatever it held is gone. What fails, fails with the error of the runtime.
  cudaError_t Resize(int64_t bytes) {
    if (bytes <= bytes_) return cudaSuccess;
    if (data_ != nullptr) (void)cudaFreeHost(std::exchange(data_, nullptr));
    bytes_ = 0;
    const cudaError_t error =
        cudaHostAlloc(&data_, static_cast<size_t>(bytes), cudaHostAllocDefault);
    if (error == cudaSuccess) bytes_ = bytes;
    return error;
  }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

class Device {
 public:
  // NotFound where there is no such device, with those there are; FailedPrecondition where the
  // driver is missing or too old, or the device is older than sm_80.
  static StatusOr<std::unique_ptr<Device>> Open(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const std::string& name() const { return name_; }
  // As Ops has it; never empty.
  const std::string& pci_bus_id() const { return pci_bus_id_; }
  const DeviceTraits& traits() const { return traits_; }
  cudaStream_t stream() const { return stream_; }

  // Zeroed, on a boundary of 256 bytes. ResourceExhausted names what was asked for and is free.
  StatusOr<DeviceMemory> Allocate(int64_t bytes);
  MemoryBytes memory() const;

  // `from` may be written again on return.
  void CopyToDevice(void* to, const void* from, int64_t bytes);
  Status CopyToHost(void* to, const void* from, int64_t bytes);
  // Into `to`, which grows as it must; there after Finish, or a WaitFor what was marked later.
  void CopyToPinned(const void* from, int64_t bytes, PinnedMemory& to);

  // Of Ops::Mark, by number: one of kMarks, which nobody waits for any more.
  static constexpr size_t kMarks = Ops<float>::kMostMarks;
  void Mark(size_t mark);
  // As Finish, for what was asked for before the mark.
  Status WaitFor(size_t mark);

  // Does `enqueue`, which asks for work on `stream()` and returns what came of it, unless something
  // has failed before.
  template <typename Enqueue>
  void Do(const char* what, const Enqueue& enqueue) {
    if (!status_.ok()) return;
    Check(cudaSetDevice(index_), what);  // a thread begins with device 0
    if (status_.ok()) Check(enqueue(), what);
  }
  // From now on everything fails with this.
  void Fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  // Waits for all that was asked for; the first failure ever.
  Status Finish();

 private:
  // Memory that the device copies from in the background, used in turn.
  struct Staging {
    PinnedMemory host;
    cudaEvent_t copied = nullptr;
  };
  static constexpr int64_t kStagingBytes = int64_t{4} << 20;

  explicit Device(int index) : index_(index) {}
  Status Start();
  // Keeps the first failure.
  void Check(cudaError_t error, const char* what);

  const int index_;
  std::string name_;
  std::string pci_bus_id_;
  DeviceTraits traits_;
  cudaStream_t stream_ = nullptr;
  // Two of a step, its arrays and what is sampled by: a step can be brought to the device while the
  // one before it is being done.
  std::array<Staging, 4> staging_;
  size_t next_staging_ = 0;
  std::array<cudaEvent_t, kMarks> marks_ = {};
  Status status_;
};

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_DEVICE_H_
