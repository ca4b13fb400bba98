// What the operating system says of this process's memory.
#ifndef STERNA_BASE_PROCESS_MEMORY_H_
#define STERNA_BASE_PROCESS_MEMORY_H_

#include <cstdint>

namespace sterna {

// The most bytes that were resident at once since this program began, pages of mapped files
// included (VmHWM of proc(5)); 0 where the system does not say. Any thread.
int64_t PeakResidentBytes();

}  // namespace sterna

#endif  // STERNA_BASE_PROCESS_MEMORY_H_
