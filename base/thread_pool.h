// Runs a loop's iterations on a fixed set of threads, the calling thread among them.
//
// Thread contract: one caller at a time (the engine thread). Which thread runs which index is not
// fixed, so an iteration must not depend on it: results are the same for any number of threads.
#ifndef STERNA_BASE_THREAD_POOL_H_
#define STERNA_BASE_THREAD_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace sterna {

class ThreadPool {
 public:
  // `num_threads` >= 1 counts the calling thread: 1 starts no thread at all. The others get `name`
  // (process_threads.h).
  explicit ThreadPool(int num_threads, const char* name = "sterna-pool");
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(i) once for every i in [0, count), count < 2^32, and returns when all have returned.
  void ParallelFor(int64_t count, const std::function<void(int64_t)>& body);

 private:
  void WorkerMain();
  // Takes indices of loop `generation` until none is left, or until another loop has begun.
  void RunIterations(uint32_t generation);
  // Begins the next generation with `count` indices to take, and wakes who sleeps.
  void Publish(uint32_t count);

  // Which loop it is (upper half) and how many of its indices nobody has taken (lower half), in one
  // word: a worker that comes late finds none left, or another generation. Workers spin on it
  // briefly before they sleep, because the gaps between the ops of a step are shorter than a futex
  // wake-up.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  // Of the current loop; they change only when all of its indices are taken and done.
  std::atomic<uint32_t> count_{0};
  std::atomic<const std::function<void(int64_t)>*> body_{nullptr};
  alignas(64) std::atomic<uint32_t> done_{0};

  alignas(64) std::atomic<bool> stop_{false};
  std::atomic<int> sleepers_{0};
  Mutex mutex_;
  CondVar wake_;
  std::vector<std::thread> workers_;  // last: they use everything above
};

}  // namespace sterna

#endif  // STERNA_BASE_THREAD_POOL_H_
