#include "base/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace sterna {
namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kHugePage = 2 * kMiB;

struct Buffer {
  explicit Buffer(size_t bytes)
      : bytes(bytes), p(static_cast<uint8_t*>(AllocateInHugePages(bytes))) {}
  Buffer(const Buffer&) = delete;
  ~Buffer() { FreeInHugePages(p, bytes); }

  bool IsAll(uint8_t value) const {
    return std::all_of(p, p + bytes, [value](uint8_t byte) { return byte == value; });
  }
  size_t address() const { return reinterpret_cast<uintptr_t>(p); }

  size_t bytes;
  uint8_t* p;
};

// Pages of `bytes` bytes from `p` on, rounded down to a page, that are in memory.
size_t ResidentPages(uint8_t* p, size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  uint8_t* const begin = p - reinterpret_cast<uintptr_t>(p) % page;
  std::vector<unsigned char> pages((bytes + page - 1) / page);
  EXPECT_EQ(mincore(begin, bytes, pages.data()), 0);
  return static_cast<size_t>(
      std::count_if(pages.begin(), pages.end(), [](unsigned char in) { return (in & 1) != 0; }));
}

TEST(HugePagesTest, EverySizeIsZeroAlignedAndItsOwn) {
  const std::vector<size_t> sizes = {1,        64,        100,           4096,
                                     kMiB + 1, 16 * kMiB, 16 * kMiB + 1, 70 * kMiB};
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (const size_t size : sizes) {
    const Buffer& buffer = *buffers.emplace_back(std::make_unique<Buffer>(size));
    EXPECT_EQ(buffer.address() % 64, 0u) << size;
    EXPECT_TRUE(buffer.IsAll(0)) << size;
    std::memset(buffer.p, static_cast<int>(buffers.size()), size);
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_TRUE(buffers[i]->IsAll(static_cast<uint8_t>(i + 1))) << buffers[i]->bytes;
  }
}

// What the slabs are for: 1.6 MB, which no huge page of their own would hold, lie side by side.
TEST(HugePagesTest, SmallOnesAreNeighboursAndLargeOnesBeginAHugePage) {
  const Buffer a(1638400), b(1638400), large(20 * kMiB);
  EXPECT_EQ(b.address(), a.address() + a.bytes);
  EXPECT_EQ(large.address() % kHugePage, 0u);
}

TEST(HugePagesTest, AFullSlabIsFollowedByAnother) {
  std::vector<std::unique_ptr<Buffer>> buffers;
  for (int i = 0; i < 10; ++i) buffers.push_back(std::make_unique<Buffer>(15 * kMiB));
  for (const auto& buffer : buffers) std::memset(buffer->p, 1, buffer->bytes);
  buffers.erase(buffers.begin(), buffers.begin() + 8);
  for (const auto& buffer : buffers) EXPECT_TRUE(buffer->IsAll(1));
}

TEST(HugePagesTest, PagesAreGivenBackWhileNeighboursStay) {
  const Buffer before(3000);
  auto middle = std::make_unique<Buffer>(8 * kMiB);
  const Buffer after(3000);
  std::memset(before.p, 1, before.bytes);
  std::memset(middle->p, 2, middle->bytes);
  std::memset(after.p, 3, after.bytes);
  uint8_t* const p = middle->p;
  const size_t all = ResidentPages(p, 8 * kMiB);
  middle.reset();
  EXPECT_GE(all, 8 * kMiB / static_cast<size_t>(sysconf(_SC_PAGESIZE)));
  EXPECT_LE(ResidentPages(p, 8 * kMiB), 2u);  // those that the neighbours are in, too
  EXPECT_TRUE(before.IsAll(1));
  EXPECT_TRUE(after.IsAll(3));
}

TEST(HugePagesTest, AddressesAreGivenBackWithTheLastBuffer) {
  uint8_t* p = nullptr;
  {
    const Buffer alone(kMiB);
    p = alone.p;
  }
  unsigned char page = 0;
  uint8_t* const begin = p - reinterpret_cast<uintptr_t>(p) % 4096;
  EXPECT_EQ(mincore(begin, 1, &page), -1) << "still mapped";
  // And what comes next does not go to the slab that is gone.
  const Buffer next(kMiB);
  EXPECT_TRUE(next.IsAll(0));
}

TEST(HugePagesTest, ThreadsDoNotGetTheSameMemory) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&wrong, thread] {
      for (int round = 0; round < 50; ++round) {
        const Buffer a(300000 + static_cast<size_t>(round)), b(700000);
        if (!a.IsAll(0) || !b.IsAll(0)) ++wrong;
        std::memset(a.p, thread + 1, a.bytes);
        std::memset(b.p, thread + 11, b.bytes);
        if (!a.IsAll(static_cast<uint8_t>(thread + 1))) ++wrong;
        if (!b.IsAll(static_cast<uint8_t>(thread + 11))) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace sterna
