// The blocks of one sequence, in order of position. Move-only; returns its blocks to the pool when
// cleared or destroyed. Thread contract: the engine thread alone.
#ifndef STERNA_ENGINE_CACHE_BLOCK_TABLE_H_
#define STERNA_ENGINE_CACHE_BLOCK_TABLE_H_

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/cache/block_pool.h"
#include "kernels/tensor.h"

namespace sterna {

class BlockTable {
 public:
  // `pool` must outlive the table.
  explicit BlockTable(BlockPool* pool) : pool_(pool) {}
  BlockTable(BlockTable&& other) noexcept
      : pool_(other.pool_), blocks_(std::exchange(other.blocks_, {})) {}
  BlockTable& operator=(BlockTable&&) = delete;
  ~BlockTable() { Clear(); }

  // Blocks that `num_tokens` tokens take.
  static int64_t BlocksFor(int64_t num_tokens) {
    return (num_tokens + kKvBlockTokens - 1) / kKvBlockTokens;
  }

  // Makes room for `num_tokens` tokens in all. False, and nothing changed, when the pool has too
  // few free blocks.
  bool Reserve(int64_t num_tokens) {
    const int64_t missing = BlocksFor(num_tokens) - static_cast<int64_t>(blocks_.size());
    if (missing > pool_->num_free()) return false;
    for (int64_t i = 0; i < missing; ++i) blocks_.push_back(*pool_->Allocate());
    return true;
  }

  void Clear() {
    for (const int32_t block : blocks_) pool_->Release(block);
    blocks_.clear();
  }

  std::span<const int32_t> blocks() const { return blocks_; }
  // The slot of the token at `position`, which must be reserved.
  int32_t Slot(int64_t position) const {
    return static_cast<int32_t>(blocks_[position / kKvBlockTokens] * kKvBlockTokens +
                                position % kKvBlockTokens);
  }

 private:
  BlockPool* pool_;
  std::vector<int32_t> blocks_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_CACHE_BLOCK_TABLE_H_
