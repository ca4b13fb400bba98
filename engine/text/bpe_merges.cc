#include "engine/text/bpe_merges.h"

#include <functional>
#include <queue>
#include <utility>

namespace sterna {
namespace {

constexpr int32_t kGone = -1;  // the token of a place that was merged into the one before it

// The word as a doubly linked list over its original places.
struct Place {
  int32_t token;
  uint32_t previous, next;  // the word's length: none
};

// A possible merge: the rule's rank above, its left place below, so that the smallest number is the
// merge to do first. It is out of date when the tokens there are no longer the rule's.
using Candidate = uint64_t;
Candidate MakeCandidate(uint32_t rank, uint32_t left) {
  return static_cast<uint64_t>(rank) << 32 | left;
}

}  // namespace

void BpeMerges::Reserve(size_t count) {
  rules_.reserve(count);
  rank_of_pair_.reserve(count);
}

void BpeMerges::Add(int32_t left, int32_t right, int32_t merged) {
  const auto rank = static_cast<uint32_t>(rules_.size());
  if (rank_of_pair_.try_emplace(Key(left, right), rank).second) {
    rules_.push_back({left, right, merged});
  }
}

void BpeMerges::Apply(std::vector<int32_t>* word) const {
  const auto none = static_cast<uint32_t>(word->size());
  if (none < 2) return;
  std::vector<Place> places(none);
  for (uint32_t i = 0; i < none; ++i) places[i] = {(*word)[i], i == 0 ? none : i - 1, i + 1};

  std::vector<Candidate> candidates;
  const auto consider = [&](uint32_t left, uint32_t right, auto push) {
    if (left == none || right == none) return;
    const auto found = rank_of_pair_.find(Key(places[left].token, places[right].token));
    if (found != rank_of_pair_.end()) push(MakeCandidate(found->second, left));
  };
  for (uint32_t i = 0; i + 1 < none; ++i) {
    consider(i, i + 1, [&](Candidate candidate) { candidates.push_back(candidate); });
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(
      std::greater<>(), std::move(candidates));
  const auto push = [&](Candidate candidate) { queue.push(candidate); };
  while (!queue.empty()) {
    const Rule& rule = rules_[queue.top() >> 32];
    const auto left_place = static_cast<uint32_t>(queue.top());
    queue.pop();
    Place& left = places[left_place];
    if (left.token != rule.left || left.next == none || places[left.next].token != rule.right) {
      continue;
    }
    Place& right = places[left.next];
    left.token = rule.merged;
    left.next = right.next;
    right.token = kGone;
    if (left.next != none) places[left.next].previous = left_place;
    consider(left.previous, left_place, push);
    consider(left_place, left.next, push);
  }
  word->clear();
  for (const Place& place : places) {
    if (place.token != kGone) word->push_back(place.token);
  }
}

}  // namespace sterna
