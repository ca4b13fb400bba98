// SIGTERM and SIGINT as something a thread can wait for.
//
// Use: Block before any thread is started, so that all inherit the mask; then make one
// ShutdownSignal. The first signal is delivered to Wait; a second one ends the process at once,
// with exit code 130.
#ifndef STERNA_SERVER_SHUTDOWN_H_
#define STERNA_SERVER_SHUTDOWN_H_

#include <string>
#include <thread>

#include "base/mutex.h"

namespace sterna {

class ShutdownSignal {
 public:
  // Also ignores SIGPIPE: writing to a socket whose reader left is an error, not an end.
  static void Block();

  ShutdownSignal();
  // From here on a second signal waits, blocked, until the process has ended by itself.
  ~ShutdownSignal();
  ShutdownSignal(const ShutdownSignal&) = delete;
  ShutdownSignal& operator=(const ShutdownSignal&) = delete;

  // Blocks until the first signal; its name.
  std::string Wait();

 private:
  void Main();

  Mutex mutex_;
  CondVar arrived_;
  bool awaited_ STERNA_GUARDED_BY(mutex_) = false;
  int signal_ STERNA_GUARDED_BY(mutex_) = 0;
  bool stop_ STERNA_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace sterna

#endif  // STERNA_SERVER_SHUTDOWN_H_
