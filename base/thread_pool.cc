#include "base/thread_pool.h"

#include <memory>

#include "base/check.h"

namespace sterna {
namespace {

// About 20 to 50 microseconds: longer than the gap between two ops, far shorter than a time slice.
constexpr int kSpins = 2000;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  STERNA_CHECK(num_threads >= 1);
  for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { WorkerMain(); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(mutex_);
    stop_.store(true);
    generation_.fetch_add(1);
  }
  wake_.NotifyAll();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunIterations(Loop& loop) {
  int64_t i;
  while ((i = loop.next.fetch_add(1)) < loop.count) {
    (*loop.body)(i);
    loop.done.fetch_add(1);
  }
}

void ThreadPool::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 0) return;
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  auto loop = std::make_shared<Loop>();
  loop->count = count;
  loop->body = &body;
  {
    MutexLock lock(mutex_);
    loop_ = loop;
    generation_.fetch_add(1);
  }
  wake_.NotifyAll();
  RunIterations(*loop);
  // Every index is taken; wait for those still running elsewhere. Yielding matters when there are
  // more threads than cores.
  for (int spins = 0; loop->done.load() != count; ++spins) {
    if (spins < kSpins) {
      CpuRelax();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::WorkerMain() {
  uint64_t seen = 0;
  while (true) {
    for (int spins = 0; spins < kSpins && generation_.load() == seen; ++spins) CpuRelax();
    std::shared_ptr<Loop> loop;
    {
      MutexLock lock(mutex_);
      while (generation_.load() == seen) wake_.Wait(mutex_);
      seen = generation_.load();
      loop = loop_;
    }
    if (stop_.load()) return;
    if (loop != nullptr) RunIterations(*loop);
  }
}

}  // namespace sterna
