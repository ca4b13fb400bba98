#include "server/eval/progress_bar.h"

#include <gtest/gtest.h>

namespace sterna {
namespace {

TEST(ProgressLine, ShowsHowFarAndHowLong) {
  EXPECT_EQ(ProgressLine("windows", 0, 60, 5), "[>                             ] 0/60 windows");
  EXPECT_EQ(ProgressLine("windows", 20, 60, 5),
            "[==========>                   ] 20/60 windows, 10 s left");
  EXPECT_EQ(ProgressLine("windows", 60, 60, 5), "[==============================] 60/60 windows");
  EXPECT_EQ(ProgressLine("prompts", 0, 0, 0), "[==============================] 0/0 prompts");
}

}  // namespace
}  // namespace sterna
