// Threads for work that may take long and must hold up neither a connection thread nor the engine:
// parsing, tokenising, rendering templates.
// Thread contract: all methods may be called from any thread.
#ifndef STERNA_SERVER_WORKER_POOL_H_
#define STERNA_SERVER_WORKER_POOL_H_

#include <cstddef>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace sterna {

class WorkerPool {
 public:
  // `max_pending`: tasks that may wait.
  WorkerPool(int num_threads, size_t max_pending);
  ~WorkerPool();  // Stop
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // Runs `task` on one of the threads, soon. False, and nothing happens, when too many wait or
  // after Stop.
  bool Post(std::function<void()> task) STERNA_EXCLUDES(mutex_);

  // Drops what waits, finishes what runs, ends the threads.
  void Stop() STERNA_EXCLUDES(mutex_);

 private:
  void Main() STERNA_EXCLUDES(mutex_);

  const size_t max_pending_;
  Mutex mutex_;
  CondVar wake_;
  std::deque<std::function<void()>> pending_ STERNA_GUARDED_BY(mutex_);
  bool stopped_ STERNA_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace sterna

#endif  // STERNA_SERVER_WORKER_POOL_H_
