#include "base/process_threads.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <thread>

#include "base/thread_pool.h"

namespace sterna {
namespace {

int64_t CpuNsOf(const char* name) {
  const std::map<std::string, int64_t> by_name = ThreadCpuNs();
  const auto found = by_name.find(name);
  return found == by_name.end() ? 0 : found->second;
}

TEST(ProcessThreadsTest, TimeIsCountedByName) {
  if (ThreadCpuNs().empty()) GTEST_SKIP() << "no schedstat here";
  constexpr int64_t kBusyNs = 20'000'000;
  std::atomic<bool> stop = false;
  std::thread idle([&] {
    NameThisThread("test-idle");
    while (!stop) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  });
  const int64_t process_ns = ProcessCpuNs();
  std::thread busy([&] {
    NameThisThread("test-busy");
    while (!stop) {
    }
  });
  while (CpuNsOf("test-busy") < kBusyNs) {
  }
  EXPECT_LT(CpuNsOf("test-idle"), CpuNsOf("test-busy"));
  EXPECT_GE(ProcessCpuNs() - process_ns, kBusyNs);
  stop = true;
  busy.join();
  idle.join();
  EXPECT_EQ(CpuNsOf("test-busy"), 0) << "it has ended";
}

TEST(ProcessThreadsTest, ThreadsOfAPoolHaveItsName) {
  if (ThreadCpuNs().empty()) GTEST_SKIP() << "no schedstat here";
  ThreadPool pool(3, "test-pool");
  while (ThreadCpuNs().count("test-pool") == 0) std::this_thread::yield();
}

}  // namespace
}  // namespace sterna
