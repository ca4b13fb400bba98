#include "kernels/cuda/device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace sterna::cuda {
namespace {

// What a kernel's failure is told as: when it shows, nobody knows any more which it was.
constexpr char kRunning[] = "running what was asked of it";

}  // namespace

Status ToStatus(cudaError_t error, const std::string& what) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      absl::StrCat(what, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
  return error == cudaErrorMemoryAllocation ? absl::ResourceExhaustedError(message)
                                            : absl::InternalError(message);
}

StatusOr<std::unique_ptr<Device>> Device::Open(int index) {
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    return absl::FailedPreconditionError(absl::StrCat(
        "no CUDA device can be used: ", cudaGetErrorString(error),
        "; an NVIDIA driver for CUDA 13 (580 or newer) and a GPU of compute capability 8.0 or "
        "newer are needed"));
  }
  if (index < 0 || index >= count) {
    return absl::NotFoundError(
        absl::StrCat("there is no CUDA device ", index, "; there are ", count, ", counted from 0"));
  }
  std::unique_ptr<Device> device(new Device(index));
  STERNA_RETURN_IF_ERROR(device->Start());
  return device;
}

Status Device::Start() {
  const std::string what = absl::StrCat("CUDA device ", index_);
  STERNA_RETURN_IF_ERROR(ToStatus(cudaSetDevice(index_), what));
  cudaDeviceProp properties;
  STERNA_RETURN_IF_ERROR(ToStatus(cudaGetDeviceProperties(&properties, index_), what));
  name_ = properties.name;
  char pci_bus_id[32];
  STERNA_RETURN_IF_ERROR(
      ToStatus(cudaDeviceGetPCIBusId(pci_bus_id, sizeof(pci_bus_id), index_), what));
  pci_bus_id_ = pci_bus_id;
  if (properties.major < 8) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ", ", name_, ", has compute capability ", properties.major, ".",
                     properties.minor, "; 8.0 or newer is needed"));
  }
  // What attention takes; GPUs for graphics and workstations have 99 KiB.
  constexpr size_t kSharedBytes = size_t{160} << 10;
  if (properties.sharedMemPerBlockOptin < kSharedBytes) {
    return absl::FailedPreconditionError(
        absl::StrCat(what, ", ", name_, ", has ", properties.sharedMemPerBlockOptin >> 10,
                     " KiB of shared memory for a block of threads; ", kSharedBytes >> 10,
                     " KiB are needed, as GPUs for data centres have (A100, H100, H200, B200)"));
  }
  traits_ = {.wgmma = properties.major == 9, .multiprocessors = properties.multiProcessorCount};
  STERNA_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), what));
  for (Staging& staging : staging_) {
    STERNA_RETURN_IF_ERROR(ToStatus(staging.host.Resize(kStagingBytes), what));
    STERNA_RETURN_IF_ERROR(
        ToStatus(cudaEventCreateWithFlags(&staging.copied, cudaEventDisableTiming), what));
  }
  for (cudaEvent_t& mark : marks_) {
    STERNA_RETURN_IF_ERROR(ToStatus(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming), what));
  }
  return absl::OkStatus();
}

Device::~Device() {
  // What fails here has failed before and been told.
  if (stream_ != nullptr) (void)cudaStreamSynchronize(stream_);
  for (Staging& staging : staging_) {
    if (staging.copied != nullptr) (void)cudaEventDestroy(staging.copied);
  }
  for (cudaEvent_t mark : marks_) {
    if (mark != nullptr) (void)cudaEventDestroy(mark);
  }
  if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
}

MemoryBytes Device::memory() const {
  size_t free = 0, total = 0;
  if (cudaSetDevice(index_) != cudaSuccess || cudaMemGetInfo(&free, &total) != cudaSuccess) {
    return {};
  }
  return {.free = static_cast<int64_t>(free), .total = static_cast<int64_t>(total)};
}

StatusOr<DeviceMemory> Device::Allocate(int64_t bytes) {
  if (bytes == 0) return DeviceMemory();
  void* data = nullptr;
  bool full = false;
  Do("allocating memory", [&] {
    const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(bytes));
    full = error == cudaErrorMemoryAllocation;
    // Want of memory is no failure of the device.
    return full ? (void)cudaGetLastError(), cudaSuccess : error;
  });
  STERNA_RETURN_IF_ERROR(status_);
  if (full) {
    return absl::ResourceExhaustedError(absl::StrCat(name_, " has no room for ", bytes >> 20,
                                                     " MiB more: ", memory().free >> 20,
                                                     " MiB are free"));
  }
  DeviceMemory memory(
      data, bytes, [](void*, void* p) { (void)cudaFree(p); }, nullptr);
  Do("clearing memory",
     [&] { return cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream_); });
  return memory;
}

void Device::CopyToDevice(void* to, const void* from, int64_t bytes) {
  for (int64_t done = 0; done < bytes; done += kStagingBytes) {
    Staging& staging = staging_[next_staging_++ % staging_.size()];
    const auto part = static_cast<size_t>(std::min(bytes - done, kStagingBytes));
    Do("waiting for a copy", [&] { return cudaEventSynchronize(staging.copied); });
    if (!status_.ok()) return;
    std::memcpy(staging.host.data(), static_cast<const std::byte*>(from) + done, part);
    Do("copying to it", [&] {
      return cudaMemcpyAsync(static_cast<std::byte*>(to) + done, staging.host.data(), part,
                             cudaMemcpyHostToDevice, stream_);
    });
    Do("copying to it", [&] { return cudaEventRecord(staging.copied, stream_); });
  }
}

Status Device::CopyToHost(void* to, const void* from, int64_t bytes) {
  if (bytes > 0) {
    Do("copying from it", [&] {
      return cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_);
    });
  }
  return Finish();
}

void Device::CopyToPinned(const void* from, int64_t bytes, PinnedMemory& to) {
  Do("making room for results", [&] { return to.Resize(bytes); });
  Do("copying from it", [&] {
    return cudaMemcpyAsync(to.data(), from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                           stream_);
  });
}

void Device::Mark(size_t mark) {
  Do("marking the end of a step", [&] { return cudaEventRecord(marks_[mark], stream_); });
}

Status Device::WaitFor(size_t mark) {
  Do(kRunning, [&] { return cudaEventSynchronize(marks_[mark]); });
  return status_;
}

void Device::Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && status_.ok()) {
    status_ = ToStatus(error, absl::StrCat(name_, ", ", what));
  }
}

Status Device::Finish() {
  Do(kRunning, [&] { return cudaStreamSynchronize(stream_); });
  return status_;
}

}  // namespace sterna::cuda
