#include "base/numa.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "gtest/gtest.h"

namespace sterna {
namespace {

constexpr size_t kBytes = size_t{4} << 20;

class NumaTest : public ::testing::Test {
 protected:
  NumaTest() {
    p_ = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(p_, MAP_FAILED);
  }
  ~NumaTest() override { munmap(p_, kBytes); }

  // The memory policy at `offset`, -1 where the kernel does not say.
  int PolicyAt(size_t offset) const {
    int policy = -1;
    const long result = syscall(SYS_get_mempolicy, &policy, nullptr, 0,
                                static_cast<char*>(p_) + offset, MPOL_F_ADDR);
    return result == 0 ? policy : -1;
  }

  void* p_;
};

TEST_F(NumaTest, UsedNodesAreKnownAndAscend) {
  if (PolicyAt(0) < 0) GTEST_SKIP() << "get_mempolicy is not allowed here";
  const std::vector<int>& nodes = UsedMemoryNodes();
  EXPECT_FALSE(nodes.empty());
  EXPECT_TRUE(std::is_sorted(nodes.begin(), nodes.end()));
  EXPECT_EQ(std::adjacent_find(nodes.begin(), nodes.end()), nodes.end());
}

TEST_F(NumaTest, InterleavedMemoryHasThePolicyAndIsStillZero) {
  if (PolicyAt(0) < 0 || UsedMemoryNodes().empty()) GTEST_SKIP() << "no memory policies here";
  EXPECT_EQ(PolicyAt(0), MPOL_DEFAULT);
  const Status status = InterleaveMemory(p_, kBytes / 2, UsedMemoryNodes());
  if (absl::IsPermissionDenied(status)) GTEST_SKIP() << status;
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(PolicyAt(0), MPOL_INTERLEAVE);
  EXPECT_EQ(PolicyAt(kBytes / 2 - 1), MPOL_INTERLEAVE);
  EXPECT_EQ(PolicyAt(kBytes / 2), MPOL_DEFAULT) << "no further than asked for";
  const auto* bytes = static_cast<const char*>(p_);
  EXPECT_TRUE(std::all_of(bytes, bytes + kBytes, [](char c) { return c == 0; }));
}

TEST_F(NumaTest, ANodeThatIsNotThereIsAnError) {
  if (PolicyAt(0) < 0) GTEST_SKIP() << "no memory policies here";
  const std::array<int, 1> last = {1023};
  const Status status = InterleaveMemory(p_, kBytes, last);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(PolicyAt(0), MPOL_DEFAULT);
}

TEST_F(NumaTest, OneNodeIsLeftAlone) {
  if (UsedMemoryNodes().size() > 1) GTEST_SKIP() << "this machine has several";
  SpreadOverUsedNodes(p_, kBytes);
  EXPECT_LE(PolicyAt(0), MPOL_DEFAULT);  // -1 where it cannot be read
}

}  // namespace
}  // namespace sterna
