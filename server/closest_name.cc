#include "server/closest_name.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace sterna {
namespace {

// Levenshtein distance.
size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

// Longer names are nobody's typing error, and the distance takes quadratic time.
constexpr size_t kMaxNameBytes = 64;

}  // namespace

std::string ClosestName(std::string_view name, std::span<const std::string> names) {
  if (name.size() > kMaxNameBytes) return "";
  std::string closest;
  size_t smallest = name.size() / 2 + 1;
  for (const std::string& candidate : names) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < smallest) {
      smallest = distance;
      closest = candidate;
    }
  }
  return closest;
}

}  // namespace sterna
