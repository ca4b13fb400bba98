// Owners of a device's memory, for code that does not know what the device is (kernels/ops.h).
//
// Use: Ops::Allocate, or AllocateArray for elements of one type. Pointers are the device's: host
// code hands them to ops and reads what they point to with Ops::CopyToHost, unless it made the
// memory itself (AllocateHostMemory).
// Lifetime: the device must outlive its memory. Thread contract: none of these types synchronise.
#ifndef STERNA_KERNELS_DEVICE_MEMORY_H_
#define STERNA_KERNELS_DEVICE_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/check.h"

namespace sterna {

// Move-only; what it was moved from is empty.
class DeviceMemory {
 public:
  // Gives `data` back; `context` is what the owner was made with.
  using Release = void (*)(void* context, void* data);

  DeviceMemory() = default;
  // Owns `bytes` bytes at `data`, which is not null, and calls `release` once for them.
  DeviceMemory(void* data, int64_t bytes, Release release, void* context)
      : data_(data, Deleter{release, context}), bytes_(bytes) {
    STERNA_CHECK(data != nullptr && bytes > 0 && release != nullptr);
  }
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::move(other.data_)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    data_ = std::move(other.data_);
    bytes_ = std::exchange(other.bytes_, 0);
    return *this;
  }

  void* data() { return data_.get(); }
  const void* data() const { return data_.get(); }
  // As many as were asked for.
  int64_t size_bytes() const { return bytes_; }
  bool empty() const { return bytes_ == 0; }

 private:
  struct Deleter {
    Release release;
    void* context;
    void operator()(void* data) const { release(context, data); }
  };

  std::unique_ptr<void, Deleter> data_;
  int64_t bytes_ = 0;
};

// The same as elements, a whole number of them.
template <typename T>
class DeviceArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  DeviceArray() = default;
  explicit DeviceArray(DeviceMemory memory) : memory_(std::move(memory)) {
    STERNA_CHECK(memory_.size_bytes() % static_cast<int64_t>(sizeof(T)) == 0);
  }

  T* data() { return static_cast<T*>(memory_.data()); }
  const T* data() const { return static_cast<const T*>(memory_.data()); }
  int64_t size() const { return memory_.size_bytes() / static_cast<int64_t>(sizeof(T)); }
  int64_t size_bytes() const { return memory_.size_bytes(); }
  bool empty() const { return memory_.empty(); }
  std::span<T> span() { return {data(), static_cast<size_t>(size())}; }
  std::span<const T> span() const { return {data(), static_cast<size_t>(size())}; }

 private:
  DeviceMemory memory_;
};

// Zeroed memory of the host, as AlignedBuffer's: where it is large, what nothing touches costs
// nothing.
inline DeviceMemory AllocateHostMemory(int64_t bytes) {
  STERNA_CHECK(bytes >= 0);
  if (bytes == 0) return {};
  auto buffer = std::make_unique<AlignedBuffer<std::byte>>(static_cast<size_t>(bytes));
  void* const data = buffer->data();
  return DeviceMemory(
      data, bytes,
      [](void* context, void*) { delete static_cast<AlignedBuffer<std::byte>*>(context); },
      buffer.release());
}

}  // namespace sterna

#endif  // STERNA_KERNELS_DEVICE_MEMORY_H_
