#include "base/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <new>

#include "base/check.h"
#include "base/numa.h"

namespace sterna {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kSlabBytes = size_t{64} << 20;
// Larger buffers have mappings of their own, so that a slab's end wastes little of its addresses.
constexpr size_t kMostShared = kSlabBytes / 4;
constexpr size_t kAlignment = 64;

constexpr size_t RoundUp(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

// Begins the slab it describes, whose address is a multiple of kSlabBytes.
struct alignas(kAlignment) Slab {
  size_t used = sizeof(Slab);
  size_t buffers = 0;
};

// The slab that new buffers go to, and what all slabs say of themselves.
constinit std::mutex slabs_mutex;
constinit Slab* open_slab = nullptr;

void* Map(size_t bytes, size_t alignment) {
  bytes = RoundUp(bytes, kHugePageBytes);
  const size_t more = bytes + alignment;
  void* mapped = mmap(nullptr, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  STERNA_CHECK(mapped != MAP_FAILED);
  auto* const begin = static_cast<std::byte*>(mapped);
  const size_t before =
      RoundUp(reinterpret_cast<uintptr_t>(begin), alignment) - reinterpret_cast<uintptr_t>(begin);
  std::byte* const aligned = begin + before;
  if (before > 0) munmap(begin, before);
  munmap(aligned + bytes, alignment - before);
  madvise(aligned, bytes, MADV_HUGEPAGE);  // only a hint, so may fail
  SpreadOverUsedNodes(aligned, bytes);
  return aligned;
}

Slab* SlabOf(void* p) {
  auto* const address = static_cast<std::byte*>(p);
  return reinterpret_cast<Slab*>(address - reinterpret_cast<uintptr_t>(address) % kSlabBytes);
}

}  // namespace

void* AllocateInHugePages(size_t bytes) {
  if (bytes > kMostShared) return Map(bytes, kHugePageBytes);
  bytes = RoundUp(bytes, kAlignment);
  const std::lock_guard lock(slabs_mutex);
  if (open_slab == nullptr || open_slab->used + bytes > kSlabBytes) {
    open_slab = new (Map(kSlabBytes, kSlabBytes)) Slab;
  }
  void* const p = reinterpret_cast<std::byte*>(open_slab) + open_slab->used;
  open_slab->used += bytes;
  ++open_slab->buffers;
  return p;
}

void FreeInHugePages(void* p, size_t bytes) {
  if (bytes > kMostShared) {
    munmap(p, RoundUp(bytes, kHugePageBytes));
    return;
  }
  const std::lock_guard lock(slabs_mutex);
  Slab* const slab = SlabOf(p);
  if (--slab->buffers == 0) {
    if (slab == open_slab) open_slab = nullptr;
    munmap(slab, kSlabBytes);
    return;
  }
  // Whole pages: the first and the last have neighbours.
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(p);
  const size_t skipped = RoundUp(address, page) - address;
  if (skipped + page > bytes) return;
  madvise(static_cast<std::byte*>(p) + skipped, (bytes - skipped) / page * page, MADV_DONTNEED);
}

}  // namespace sterna
