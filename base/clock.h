// Monotonic time as an interface, so that tests decide what time it is.
// Thread contract: NowNs may be called from any thread.
#ifndef STERNA_BASE_CLOCK_H_
#define STERNA_BASE_CLOCK_H_

#include <atomic>
#include <cstdint>

namespace sterna {

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds since an arbitrary fixed point; never decreases.
  virtual int64_t NowNs() const = 0;

  // The process-wide steady clock; lives for ever.
  static const Clock& Steady();
};

// A clock that stands still until told otherwise.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(int64_t now_ns = 0) : now_ns_(now_ns) {}
  int64_t NowNs() const override { return now_ns_.load(); }
  void AdvanceNs(int64_t ns) { now_ns_.fetch_add(ns); }

 private:
  std::atomic<int64_t> now_ns_;
};

}  // namespace sterna

#endif  // STERNA_BASE_CLOCK_H_
