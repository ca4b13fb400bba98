#include "engine/cache/block_pool.h"

#include <gtest/gtest.h>

#include <set>

#include "engine/cache/block_table.h"

namespace sterna {
namespace {

TEST(BlockPoolTest, HandsOutEveryBlockOnceAndTakesThemBack) {
  BlockPool pool(5);
  std::set<int32_t> blocks;
  for (int i = 0; i < 5; ++i) blocks.insert(*pool.Allocate());
  EXPECT_EQ(blocks.size(), 5u);
  EXPECT_EQ(pool.Allocate(), std::nullopt);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
  for (const int32_t block : blocks) pool.Release(block);
  EXPECT_EQ(pool.num_free(), 5);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

TEST(BlockPoolDeathTest, ReleasingTwiceIsAProgrammersMistake) {
  BlockPool pool(2);
  const int32_t block = *pool.Allocate();
  pool.Release(block);
  EXPECT_DEATH(pool.Release(block), "check failed");
  EXPECT_DEATH(pool.Release(99), "check failed");
}

TEST(BlockTableTest, GrowsByWholeBlocksOrNotAtAll) {
  BlockPool pool(3);
  BlockTable table(&pool);
  ASSERT_TRUE(table.Reserve(1));
  EXPECT_EQ(table.blocks().size(), 1u);
  ASSERT_TRUE(table.Reserve(kKvBlockTokens));
  EXPECT_EQ(table.blocks().size(), 1u);
  ASSERT_TRUE(table.Reserve(kKvBlockTokens + 1));
  EXPECT_EQ(table.blocks().size(), 2u);
  EXPECT_FALSE(table.Reserve(3 * kKvBlockTokens + 1));
  EXPECT_EQ(table.blocks().size(), 2u) << "a refused Reserve must leave the table as it was";
  EXPECT_EQ(pool.num_free(), 1);
}

TEST(BlockTableTest, SlotsFollowTheBlocks) {
  BlockPool pool(8);
  BlockTable other(&pool);
  BlockTable table(&pool);
  ASSERT_TRUE(table.Reserve(kKvBlockTokens));
  ASSERT_TRUE(
      other.Reserve(1));  // so that the table's second block is not the neighbour of the first
  ASSERT_TRUE(table.Reserve(2 * kKvBlockTokens));
  EXPECT_NE(table.blocks()[1], table.blocks()[0] + 1);
  EXPECT_EQ(table.Slot(3), table.blocks()[0] * kKvBlockTokens + 3);
  EXPECT_EQ(table.Slot(kKvBlockTokens + 5), table.blocks()[1] * kKvBlockTokens + 5);
}

TEST(BlockTableTest, ReturnsItsBlocksWhenClearedMovedFromAndDestroyed) {
  BlockPool pool(4);
  {
    BlockTable table(&pool);
    ASSERT_TRUE(table.Reserve(3 * kKvBlockTokens));
    BlockTable moved = std::move(table);
    EXPECT_EQ(moved.blocks().size(), 3u);
    EXPECT_EQ(pool.num_used(), 3);
    moved.Clear();
    EXPECT_EQ(pool.num_used(), 0);
    ASSERT_TRUE(moved.Reserve(1));
  }
  EXPECT_EQ(pool.num_used(), 0);
  EXPECT_TRUE(pool.CheckIntegrity().ok());
}

}  // namespace
}  // namespace sterna
