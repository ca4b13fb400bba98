#include "base/thread_pool.h"

#include <limits>
#include <string>

#include "base/check.h"
#include "base/process_threads.h"

namespace sterna {
namespace {

// About 20 to 50 microseconds: longer than the gap between two ops, far shorter than a time slice.
constexpr int kSpins = 2000;

inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

uint32_t GenerationOf(uint64_t ticket) { return static_cast<uint32_t>(ticket >> 32); }
uint32_t LeftOf(uint64_t ticket) { return static_cast<uint32_t>(ticket); }

}  // namespace

ThreadPool::ThreadPool(int num_threads, const char* name) {
  STERNA_CHECK(num_threads >= 1);
  for (int i = 1; i < num_threads; ++i) {
    workers_.emplace_back([this, name = std::string(name)] {
      NameThisThread(name.c_str());
      WorkerMain();
    });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  Publish(0);
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::Publish(uint32_t count) {
  const uint32_t generation = GenerationOf(ticket_.load()) + 1;
  ticket_.store(static_cast<uint64_t>(generation) << 32 | count);
  // Sequentially consistent like the store above and WorkerMain's two: either the sleeper sees the
  // new generation, or this sees the sleeper.
  if (sleepers_.load() == 0) return;
  MutexLock lock(mutex_);
  wake_.NotifyAll();
}

void ThreadPool::RunIterations(uint32_t generation) {
  uint64_t ticket = ticket_.load();
  while (GenerationOf(ticket) == generation && LeftOf(ticket) > 0) {
    // Read before the index is taken: that it was still there proves that they are this loop's.
    const uint32_t count = count_.load(std::memory_order_relaxed);
    const auto* body = body_.load(std::memory_order_relaxed);
    const uint32_t index = count - LeftOf(ticket);
    if (!ticket_.compare_exchange_weak(ticket, ticket - 1)) continue;
    (*body)(index);
    done_.fetch_add(1);
    ticket = ticket_.load();
  }
}

void ThreadPool::ParallelFor(int64_t count, const std::function<void(int64_t)>& body) {
  if (count <= 0) return;
  STERNA_CHECK(count < std::numeric_limits<uint32_t>::max());
  if (workers_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  count_.store(static_cast<uint32_t>(count), std::memory_order_relaxed);
  body_.store(&body, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  Publish(static_cast<uint32_t>(count));
  RunIterations(GenerationOf(ticket_.load()));
  // Every index is taken; wait for those still running elsewhere. Yielding matters when there are
  // more threads than cores.
  for (int spins = 0; done_.load() != static_cast<uint32_t>(count); ++spins) {
    if (spins < kSpins) {
      CpuRelax();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::WorkerMain() {
  uint32_t seen = 0;
  const auto nothing_new = [&] { return GenerationOf(ticket_.load()) == seen; };
  while (true) {
    for (int spins = 0; spins < kSpins && nothing_new(); ++spins) CpuRelax();
    if (nothing_new()) {
      MutexLock lock(mutex_);
      sleepers_.fetch_add(1);
      while (nothing_new()) wake_.Wait(mutex_);
      sleepers_.fetch_sub(1);
    }
    // In this order: the destructor stops first and publishes then, so who has seen its generation
    // sees that it stopped, and does not sleep on.
    seen = GenerationOf(ticket_.load());
    if (stop_.load()) return;
    RunIterations(seen);
  }
}

}  // namespace sterna
