// How many threads load, check and make weights. Fixed at compile time but for the machine's cores.
#ifndef STERNA_ENGINE_MODEL_LOAD_THREADS_H_
#define STERNA_ENGINE_MODEL_LOAD_THREADS_H_

#include <algorithm>
#include <thread>

namespace sterna {

// More than eight gain nothing: files and memory do not answer faster.
inline int NumLoadThreads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 8);
}

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_LOAD_THREADS_H_
