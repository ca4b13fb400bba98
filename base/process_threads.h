// Names for this process's threads, and what processor time they have used by name.
#ifndef STERNA_BASE_PROCESS_THREADS_H_
#define STERNA_BASE_PROCESS_THREADS_H_

#include <cstdint>
#include <map>
#include <string>

namespace sterna {

// What top -H, perf and debuggers show of the calling thread: 15 characters at most. A thread that
// is not named has the name of the one that started it.
void NameThisThread(const char* name);

// Nanoseconds of processor time, user and system, that this process has used. Any thread.
int64_t ProcessCpuNs();

// The same for the living threads of each name (/proc/self/task/*/schedstat); empty where the
// system does not say. Any thread.
std::map<std::string, int64_t> ThreadCpuNs();

}  // namespace sterna

#endif  // STERNA_BASE_PROCESS_THREADS_H_
