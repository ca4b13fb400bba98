// A move-only block of zero-initialised memory on a 64-byte boundary (one cache line, one zmm
// register), the unit every kernel loads in.
#ifndef STERNA_BASE_ALIGNED_BUFFER_H_
#define STERNA_BASE_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>

#include "base/check.h"
#include "base/huge_pages.h"

namespace sterna {

inline constexpr size_t kCacheLineBytes = 64;

template <typename T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  AlignedBuffer() = default;
  // `size` elements, all zero.
  explicit AlignedBuffer(size_t size) : size_(size) {
    if (size == 0) return;
    const size_t bytes =
        (size * sizeof(T) + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes;
    if (bytes >= kHugePagesFromBytes) {
      data_ = Owner(static_cast<T*>(AllocateInHugePages(bytes)), Free{bytes});
      return;
    }
    void* allocated = std::aligned_alloc(kCacheLineBytes, bytes);
    STERNA_CHECK(allocated != nullptr);
    std::memset(allocated, 0, bytes);
    data_ = Owner(static_cast<T*>(allocated), Free{0});
  }

  AlignedBuffer(AlignedBuffer&& other) noexcept
      : data_(std::move(other.data_)), size_(std::exchange(other.size_, 0)) {}
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  size_t size_bytes() const { return size_ * sizeof(T); }
  bool empty() const { return size_ == 0; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  // Large buffers are mapped: zero without being touched, so a KV cache that is sized for the worst
  // case costs memory only where it is used.
  static constexpr size_t kHugePagesFromBytes = size_t{256} << 10;

  struct Free {
    size_t huge_page_bytes = 0;  // 0: from aligned_alloc
    void operator()(T* p) const {
      if (huge_page_bytes > 0) {
        FreeInHugePages(p, huge_page_bytes);
      } else {
        std::free(p);
      }
    }
  };
  using Owner = std::unique_ptr<T[], Free>;

  Owner data_;
  size_t size_ = 0;
};

}  // namespace sterna

#endif  // STERNA_BASE_ALIGNED_BUFFER_H_
