#include "engine/cache/block_pool.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace sterna {

BlockPool::BlockPool(int64_t num_blocks) : in_use_(num_blocks, false) {
  free_.reserve(num_blocks);
  for (int64_t block = num_blocks - 1; block >= 0; --block) {
    free_.push_back(static_cast<int32_t>(block));
  }
}

std::optional<int32_t> BlockPool::Allocate() {
  if (free_.empty()) return std::nullopt;
  const int32_t block = free_.back();
  free_.pop_back();
  in_use_[block] = true;
  return block;
}

void BlockPool::Release(int32_t block) {
  STERNA_CHECK(block >= 0 && block < num_blocks() && in_use_[block]);
  in_use_[block] = false;
  free_.push_back(block);
}

Status BlockPool::CheckIntegrity() const {
  std::vector<bool> listed(in_use_.size(), false);
  for (const int32_t block : free_) {
    if (block < 0 || block >= num_blocks()) {
      return absl::InternalError(
          absl::StrCat("free list holds block ", block, " of ", num_blocks()));
    }
    if (listed[block]) return absl::InternalError(absl::StrCat("block ", block, " is free twice"));
    if (in_use_[block]) {
      return absl::InternalError(absl::StrCat("block ", block, " is both free and in use"));
    }
    listed[block] = true;
  }
  for (int64_t block = 0; block < num_blocks(); ++block) {
    if (!listed[block] && !in_use_[block]) {
      return absl::InternalError(
          absl::StrCat("block ", block, " is lost: neither free nor in use"));
    }
  }
  return absl::OkStatus();
}

}  // namespace sterna
