#include "server/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace sterna {
namespace {

TEST(WorkerPool, RunsEverythingPosted) {
  WorkerPool pool(3, 1000);
  std::atomic<int> sum = 0;
  std::promise<void> done;
  for (int i = 1; i <= 100; ++i) {
    ASSERT_TRUE(pool.Post([&, i] {
      if (sum.fetch_add(i) + i == 5050) done.set_value();
    }));
  }
  done.get_future().wait();
  EXPECT_EQ(sum, 5050);
}

TEST(WorkerPool, RefusesPastItsLimitAndAfterStop) {
  WorkerPool pool(1, 2);
  std::promise<void> started;
  std::promise<void> release;
  ASSERT_TRUE(pool.Post([&] {
    started.set_value();
    release.get_future().wait();
  }));
  started.get_future().wait();
  bool ran = false;
  EXPECT_TRUE(pool.Post([&ran] { ran = true; }));
  EXPECT_TRUE(pool.Post([] {}));
  EXPECT_FALSE(pool.Post([] {}));
  release.set_value();
  pool.Stop();
  EXPECT_FALSE(pool.Post([] {}));
  pool.Stop();
  (void)ran;  // whether it ran before Stop is open
}

}  // namespace
}  // namespace sterna
