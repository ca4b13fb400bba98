#include "server/shutdown.h"

#include <unistd.h>

#include <csignal>

#include "base/check.h"
#include "base/logging.h"

namespace sterna {
namespace {

constexpr int kExitAtOnce = 130;
// Wakes the thread when it is to end; nobody else sends it.
constexpr int kStopSignal = SIGUSR2;

sigset_t SignalSet() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigaddset(&set, kStopSignal);
  return set;
}

}  // namespace

void ShutdownSignal::Block() {
  const sigset_t set = SignalSet();
  STERNA_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  std::signal(SIGPIPE, SIG_IGN);
}

ShutdownSignal::ShutdownSignal() : thread_([this] { Main(); }) {}

ShutdownSignal::~ShutdownSignal() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
  }
  pthread_kill(thread_.native_handle(), kStopSignal);
  thread_.join();
}

void ShutdownSignal::Main() {
  const sigset_t set = SignalSet();
  while (true) {
    int signal = 0;
    if (sigwait(&set, &signal) != 0) continue;
    MutexLock lock(mutex_);
    if (signal == kStopSignal) {
      if (stop_) return;
      continue;
    }
    if (!awaited_) {
      STERNA_LOG(kInfo, "told to stop before there was anything to finish");
      _exit(0);
    }
    if (signal_ != 0) {
      STERNA_LOG(kWarning, "second signal: ending at once");
      _exit(kExitAtOnce);
    }
    signal_ = signal;
    arrived_.NotifyAll();
  }
}

std::string ShutdownSignal::Wait() {
  MutexLock lock(mutex_);
  awaited_ = true;
  while (signal_ == 0) arrived_.Wait(mutex_);
  return signal_ == SIGTERM ? "SIGTERM" : "SIGINT";
}

}  // namespace sterna
