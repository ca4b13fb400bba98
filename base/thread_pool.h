// Runs a loop's iterations on a fixed set of threads, the calling thread among them.
//
// Thread contract: one caller at a time (the engine thread). Which thread runs which index is not
// fixed, so an iteration must not depend on it: results are the same for any number of threads.
#ifndef STERNA_BASE_THREAD_POOL_H_
#define STERNA_BASE_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace sterna {

class ThreadPool {
 public:
  // `num_threads` >= 1 counts the calling thread: 1 starts no thread at all.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i) once for every i in [0, count) and returns when all have returned.
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& body);

 private:
  // One ParallelFor call. Workers hold it alive, so a late one never touches a finished loop.
  struct Loop {
    int64_t count;
    const std::function<void(int64_t)>* body;
    std::atomic<int64_t> next{0};
    std::atomic<int64_t> done{0};
  };

  void WorkerMain();
  static void RunIterations(Loop& loop);

  std::vector<std::thread> workers_;
  // Bumped for every loop; workers spin on it briefly before they sleep, because the gaps between
  // the ops of a step are shorter than a futex wake-up.
  std::atomic<uint64_t> generation_{0};
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  CondVar wake_;
  std::shared_ptr<Loop> loop_ STERNA_GUARDED_BY(mutex_);
};

}  // namespace sterna

#endif  // STERNA_BASE_THREAD_POOL_H_
