#include "server/worker_pool.h"

#include <utility>

#include "base/check.h"
#include "base/process_threads.h"

namespace sterna {

WorkerPool::WorkerPool(int num_threads, size_t max_pending) : max_pending_(max_pending) {
  STERNA_CHECK(num_threads >= 1);
  for (int i = 0; i < num_threads; ++i) {
    threads_.emplace_back([this] {
      NameThisThread("sterna-worker");
      Main();
    });
  }
}

WorkerPool::~WorkerPool() { Stop(); }

bool WorkerPool::Post(std::function<void()> task) {
  {
    MutexLock lock(mutex_);
    if (stopped_ || pending_.size() >= max_pending_) return false;
    pending_.push_back(std::move(task));
  }
  wake_.NotifyOne();
  return true;
}

void WorkerPool::Stop() {
  std::deque<std::function<void()>> dropped;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    dropped.swap(pending_);
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void WorkerPool::Main() {
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(mutex_);
      while (!stopped_ && pending_.empty()) wake_.Wait(mutex_);
      if (stopped_) return;
      task = std::move(pending_.front());
      pending_.pop_front();
    }
    task();
  }
}

}  // namespace sterna
