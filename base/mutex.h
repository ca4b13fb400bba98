// std::mutex with clang's thread-safety annotations. absl::Mutex is avoided because Debian's build
// of it makes ThreadSanitizer report races that are not there.
#ifndef STERNA_BASE_MUTEX_H_
#define STERNA_BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define STERNA_ANNOTATE_(x) __attribute__((x))
#else
#define STERNA_ANNOTATE_(x)
#endif
#define STERNA_GUARDED_BY(mutex) STERNA_ANNOTATE_(guarded_by(mutex))
#define STERNA_REQUIRES(mutex) STERNA_ANNOTATE_(requires_capability(mutex))
#define STERNA_EXCLUDES(...) STERNA_ANNOTATE_(locks_excluded(__VA_ARGS__))

namespace sterna {

class STERNA_ANNOTATE_(capability("mutex")) Mutex {
 public:
  void Lock() STERNA_ANNOTATE_(acquire_capability()) { mutex_.lock(); }
  void Unlock() STERNA_ANNOTATE_(release_capability()) { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class STERNA_ANNOTATE_(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) STERNA_ANNOTATE_(acquire_capability(mutex)) : mutex_(mutex) {
    mutex_.Lock();
  }
  ~MutexLock() STERNA_ANNOTATE_(release_capability()) { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits release `mutex`, which the caller holds, and hold it again when they return. As with every
// condition variable, wake-ups may be spurious: call in a loop over the condition.
class CondVar {
 public:
  void Wait(Mutex& mutex) STERNA_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // Returns false when `timeout` passed without a wake-up.
  bool WaitFor(Mutex& mutex, std::chrono::nanoseconds timeout) STERNA_REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    // wait_until on the system clock would be steered by clock changes; wait_for is not.
    const bool woken = condition_.wait_for(lock, timeout) == std::cv_status::no_timeout;
    lock.release();
    return woken;
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace sterna

#endif  // STERNA_BASE_MUTEX_H_
