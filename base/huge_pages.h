// Memory for weights, the K/V cache and large activations, in huge pages where the kernel has some.
//
// A kernel that streams through weights takes a TLB miss every 4 KiB; a huge page has 2 MiB, but
// begins on a multiple of that, and most ternary matrices have 0.4 to 5 MB. So buffers share slabs:
// one after another in mappings that many of them fill, where only the ends of a slab, not those of
// every matrix, are in small pages. What nothing touches takes no memory.
//
// Included where code for one instruction set is compiled, as numa.h is.
//
// Thread contract: any thread.
#ifndef STERNA_BASE_HUGE_PAGES_H_
#define STERNA_BASE_HUGE_PAGES_H_

#include <cstddef>

namespace sterna {

// Zeroed memory on a 64-byte boundary, spread over the memory nodes in use (numa.h). Aborts if
// there is none left.
void* AllocateInHugePages(size_t bytes);
// Gives back what AllocateInHugePages(bytes) returned: pages of it at once, addresses when all that
// shared its slab is given back.
void FreeInHugePages(void* p, size_t bytes);

}  // namespace sterna

#endif  // STERNA_BASE_HUGE_PAGES_H_
