#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <vector>

namespace sterna {
namespace {

TEST(ThreadPoolTest, RunsEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.num_threads(), threads);
    for (const int64_t count : {0, 1, 2, 7, 1000}) {
      std::vector<std::atomic<int>> runs(count);
      pool.ParallelFor(count, [&](int64_t i) { runs[i].fetch_add(1); });
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(runs[i].load(), 1) << i << " of " << count;
    }
  }
}

TEST(ThreadPoolTest, ManyShortLoopsInARow) {
  ThreadPool pool(4);
  std::vector<int64_t> sums(16);
  for (int round = 0; round < 2000; ++round) {
    pool.ParallelFor(16, [&](int64_t i) { sums[i] += i; });
  }
  for (int64_t i = 0; i < 16; ++i) EXPECT_EQ(sums[i], 2000 * i);
}

// Late workers of one loop must not touch the next, which is of another length and body.
TEST(ThreadPoolTest, LoopsOfChangingLengthDoNotMix) {
  ThreadPool pool(4);
  for (int64_t round = 0; round < 20000; ++round) {
    const int64_t count = 2 + round % 5;
    std::vector<std::atomic<int64_t>> seen(count);
    pool.ParallelFor(count, [&](int64_t i) { seen[i].fetch_add(round + 1); });
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(seen[i].load(), round + 1) << i;
  }
}

TEST(ThreadPoolTest, WorkersThatSleepWakeForTheNextLoop) {
  ThreadPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    std::atomic<int> sum = 0;
    pool.ParallelFor(100, [&](int64_t) { sum.fetch_add(1); });
    EXPECT_EQ(sum.load(), 100);
  }
}

// A worker that is still busy with the last loop, or waking for it, must notice that the pool ends.
// A worker once missed it about once in 50,000 pools, which this would find by chance.
TEST(ThreadPoolTest, EndsRightAfterALoop) {
  for (int round = 0; round < 5000; ++round) {
    ThreadPool pool(2 + round % 3);
    std::atomic<int> sum = 0;
    for (int loop = 0; loop < round % 4; ++loop) {
      pool.ParallelFor(3, [&](int64_t) { sum.fetch_add(1); });
    }
    EXPECT_EQ(sum.load(), 3 * (round % 4));
  }
}

}  // namespace
}  // namespace sterna
