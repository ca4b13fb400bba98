// Where memory lies on machines with several memory nodes (NUMA).
//
// Whatever part of the work a thread takes, it takes from all of the weights and all of the cache,
// so with threads on two sockets half of it is remote wherever it lies; spread evenly, it is at
// least read over both sockets' memory channels at once.
//
// This is included where code for one instruction set is compiled (kernel_table.h): no Status,
// whose header would bring a static initialiser along.
//
// Thread contract: any thread.
#ifndef STERNA_BASE_NUMA_H_
#define STERNA_BASE_NUMA_H_

#include <cstddef>
#include <span>
#include <vector>

namespace sterna {

// The nodes of the processors this process may run on, as far as it may have memory there, in
// ascending order, as of the first call. Empty where the kernel has no nodes, and where somebody
// (numactl, say) gave the process a memory policy, which then stands.
const std::vector<int>& UsedMemoryNodes();

// Lets the pages of `bytes` bytes from `p`, which begins a page, go to `nodes` in turn when they
// are first touched. Returns 0 or an error number: EPERM in a container whose system calls are
// filtered, without CAP_SYS_NICE.
int InterleaveMemory(void* p, size_t bytes, std::span<const int> nodes);

// InterleaveMemory over UsedMemoryNodes where there are several. A hint: a refusal is logged, once.
void SpreadOverUsedNodes(void* p, size_t bytes);

}  // namespace sterna

#endif  // STERNA_BASE_NUMA_H_
