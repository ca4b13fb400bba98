#include "base/numa.h"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>

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

  using NodeMask = std::array<unsigned long, 1024 / 64>;

  // The memory policy at `offset` and its nodes, -1 where the kernel does not say.
  int PolicyAt(size_t offset, NodeMask* nodes = nullptr) const {
    int policy = -1;
    NodeMask mask = {};
    const long result = syscall(SYS_get_mempolicy, &policy, mask.data(), 1025,
                                static_cast<char*>(p_) + offset, MPOL_F_ADDR);
    if (nodes != nullptr) *nodes = mask;
    return result == 0 ? policy : -1;
  }

  // The kernel lets policies be set, and nobody has set one.
  bool PoliciesAreFree() const { return PolicyAt(0) == MPOL_DEFAULT && !UsedMemoryNodes().empty(); }

  void* p_;
};

TEST_F(NumaTest, UsedNodesAreKnownAndAscend) {
  if (!std::filesystem::exists("/sys/devices/system/cpu/cpu0/node0")) GTEST_SKIP() << "no nodes";
  if (PolicyAt(0) != MPOL_DEFAULT) GTEST_SKIP() << "somebody set a policy, or nobody may read it";
  const std::vector<int>& nodes = UsedMemoryNodes();
  EXPECT_FALSE(nodes.empty());
  EXPECT_TRUE(std::is_sorted(nodes.begin(), nodes.end()));
  EXPECT_EQ(std::adjacent_find(nodes.begin(), nodes.end()), nodes.end());
}

TEST_F(NumaTest, InterleavedMemoryHasThePolicyAndIsStillZero) {
  if (!PoliciesAreFree()) GTEST_SKIP() << "no memory policies here";
  const int error = InterleaveMemory(p_, kBytes / 2, UsedMemoryNodes());
  if (error == EPERM) GTEST_SKIP() << "mbind is not allowed here";
  ASSERT_EQ(error, 0) << std::strerror(error);
  NodeMask wanted = {}, nodes = {};
  for (const int node : UsedMemoryNodes()) wanted[node / 64] |= 1UL << (node % 64);
  EXPECT_EQ(PolicyAt(0, &nodes), MPOL_INTERLEAVE);
  EXPECT_EQ(nodes, wanted);
  EXPECT_EQ(PolicyAt(kBytes / 2 - 1), MPOL_INTERLEAVE);
  EXPECT_EQ(PolicyAt(kBytes / 2), MPOL_DEFAULT) << "no further than asked for";
  const auto* bytes = static_cast<const char*>(p_);
  EXPECT_TRUE(std::all_of(bytes, bytes + kBytes, [](char c) { return c == 0; }));
}

TEST_F(NumaTest, ANodeThatIsNotThereIsAnError) {
  if (!PoliciesAreFree()) GTEST_SKIP() << "no memory policies here";
  const std::array<int, 1> last = {1023};
  EXPECT_NE(InterleaveMemory(p_, kBytes, last), 0);
  EXPECT_EQ(PolicyAt(0), MPOL_DEFAULT);
}

TEST_F(NumaTest, OneNodeIsLeftAlone) {
  if (UsedMemoryNodes().size() > 1) GTEST_SKIP() << "this machine has several";
  const int before = PolicyAt(0);
  SpreadOverUsedNodes(p_, kBytes);
  EXPECT_EQ(PolicyAt(0), before);
}

}  // namespace
}  // namespace sterna
