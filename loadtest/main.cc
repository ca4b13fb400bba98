// sterna-loadtest: see loadtest/options.cc for what it can be told.
#include <signal.h>

#include <atomic>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "loadtest/options.h"
#include "loadtest/report.h"
#include "loadtest/run.h"

namespace sterna {
namespace {

// Turns SIGINT and SIGTERM into a flag while it lives. To be made before any other thread.
class StopSignal {
 public:
  StopSignal() {
    sigemptyset(&signals_);
    sigaddset(&signals_, SIGINT);
    sigaddset(&signals_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
    waiter_ = std::thread([this] {
      const timespec poll{.tv_sec = 0, .tv_nsec = 100'000'000};
      while (!over_.load()) {
        if (sigtimedwait(&signals_, nullptr, &poll) > 0) stopped_.store(true);
      }
    });
  }
  ~StopSignal() {
    over_.store(true);
    waiter_.join();
  }
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  const std::atomic<bool>* stopped() const { return &stopped_; }

 private:
  sigset_t signals_;
  std::atomic<bool> stopped_{false};
  std::atomic<bool> over_{false};
  std::thread waiter_;
};

int Main(const std::vector<std::string>& args) {
  const StatusOr<LoadtestOptions> options = ParseLoadtestOptions(args);
  if (!options.ok()) {
    std::cerr << "sterna-loadtest: " << options.status().message() << "\n";
    return 2;
  }
  if (options->help) {
    std::cout << LoadtestHelp();
    return 0;
  }
  StatusOr<LoadtestResult> result = absl::UnknownError("not run");
  {
    const StopSignal signal;
    result = RunLoadtest(*options, signal.stopped());
  }
  if (!result.ok()) {
    std::cerr << "sterna-loadtest: " << result.status().message() << "\n";
    return 1;
  }
  const Report report = MakeReport(*options, *result);
  // Standard output is the JSON's alone where it was asked for there.
  (options->json == "-" ? std::cerr : std::cout) << ReportAsTable(report);
  if (options->json == "-") {
    std::cout << ReportAsJson(*options, report) << "\n";
  } else if (!options->json.empty()) {
    std::ofstream file(options->json);
    file << ReportAsJson(*options, report) << "\n";
    file.close();
    if (!file) {
      std::cerr << "sterna-loadtest: cannot write --json " << options->json << "\n";
      return 1;
    }
  }
  if (report.succeeded == 0) return 1;
  return options->check_counters && !report.CountersMatch() ? 1 : 0;
}

}  // namespace
}  // namespace sterna

int main(int argc, char** argv) {
  return sterna::Main(std::vector<std::string>(argv + 1, argv + argc));
}
