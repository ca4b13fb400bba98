// Owner of the KV cache's block ids. A block is free or belongs to exactly one BlockTable.
//
// Thread contract: the engine thread alone; num_free may be read anywhere it is serialised with it.
#ifndef STERNA_ENGINE_CACHE_BLOCK_POOL_H_
#define STERNA_ENGINE_CACHE_BLOCK_POOL_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "base/status.h"

namespace sterna {

class BlockPool {
 public:
  // Blocks 0 .. num_blocks-1, all free.
  explicit BlockPool(int64_t num_blocks);
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  int64_t num_blocks() const { return static_cast<int64_t>(in_use_.size()); }
  int64_t num_free() const { return static_cast<int64_t>(free_.size()); }
  int64_t num_used() const { return num_blocks() - num_free(); }

  // A free block, now in use; nothing when there is none.
  std::optional<int32_t> Allocate();
  // Back to the free ones. CHECK-fails for a block that is not in use.
  void Release(int32_t block);

  // Internal error naming the block when the free list and the marks contradict each other.
  Status CheckIntegrity() const;

 private:
  std::vector<int32_t>
      free_;                  // a stack: the block released last, likely still in cache, goes first
  std::vector<bool> in_use_;  // [num_blocks]
};

}  // namespace sterna

#endif  // STERNA_ENGINE_CACHE_BLOCK_POOL_H_
