// DrawnTokens (kernels/sampling.h) made known, for ops that are never given any.
#ifndef STERNA_TESTS_TESTING_DRAWN_TOKENS_H_
#define STERNA_TESTS_TESTING_DRAWN_TOKENS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sampling.h"

namespace sterna::testing {

inline int32_t KnownToken(int32_t id, std::span<const int32_t> drawn) {
  return IsDrawnToken(id) ? drawn[static_cast<size_t>(RowOfDrawnToken(id))] : id;
}

// Each token once.
inline std::vector<TokenCount> KnownCounts(std::span<const TokenCount> counts,
                                           std::span<const int32_t> drawn) {
  std::vector<TokenCount> known(counts.begin(), counts.end());
  if (known.empty() || !IsDrawnToken(known.back().token)) return known;
  const TokenCount last = {KnownToken(known.back().token, drawn), known.back().in_output};
  known.pop_back();
  const auto own = std::ranges::find(known, last.token, &TokenCount::token);
  if (own == known.end()) {
    known.push_back(last);
  } else {
    own->in_output += last.in_output;
  }
  return known;
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_DRAWN_TOKENS_H_
