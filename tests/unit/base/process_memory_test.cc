#include "base/process_memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace sterna {
namespace {

TEST(ProcessMemoryTest, PeakGrowsWithWhatIsTouchedAndStays) {
  constexpr int64_t kBytes = int64_t{256} << 20;
  const int64_t before = PeakResidentBytes();
  EXPECT_GT(before, 0);
  {
    const std::vector<char> touched(kBytes, 1);
    EXPECT_GE(PeakResidentBytes(), kBytes) << touched[kBytes / 2];
  }
  EXPECT_GE(PeakResidentBytes(), kBytes);
}

}  // namespace
}  // namespace sterna
