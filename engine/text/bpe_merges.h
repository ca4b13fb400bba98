// The merge rules of a byte-pair encoding, applied to one word at a time.
// Thread contract: const after the rules are added.
#ifndef STERNA_ENGINE_TEXT_BPE_MERGES_H_
#define STERNA_ENGINE_TEXT_BPE_MERGES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace sterna {

class BpeMerges {
 public:
  void Reserve(size_t count);

  // Tokens `left` and `right` side by side become `merged`. Rules added earlier come first; a pair
  // added again keeps its first place.
  void Add(int32_t left, int32_t right, int32_t merged);

  // Applies the rules to the tokens of one word: always the first rule that fits anywhere, at its
  // leftmost place. O(n log n).
  void Apply(std::vector<int32_t>* word) const;

 private:
  struct Rule {
    int32_t left, right, merged;
  };
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }

  std::vector<Rule> rules_;  // by rank
  absl::flat_hash_map<uint64_t, uint32_t> rank_of_pair_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_BPE_MERGES_H_
