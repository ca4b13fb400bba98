#include "engine/text/stop_strings.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace sterna {

StopStringMatcher::StopStringMatcher(std::vector<std::string> stops, bool include_stop)
    : stops_(std::move(stops)), include_stop_(include_stop) {
  for (const std::string& stop : stops_) STERNA_CHECK(!stop.empty());
  // Longest first, so that the first stop found to end somewhere is the longest that does.
  std::stable_sort(stops_.begin(), stops_.end(),
                   [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
}

StopStringMatcher::Result StopStringMatcher::Append(std::string_view piece) {
  // What is held back was searched before: a match ends within the new piece.
  const size_t searched = held_.size();
  held_ += piece;
  const std::string_view text = held_;
  for (size_t end = searched + 1; end <= text.size(); ++end) {
    for (const std::string& stop : stops_) {
      if (!text.substr(0, end).ends_with(stop)) continue;
      Result result{held_.substr(0, include_stop_ ? end : end - stop.size()), stop};
      held_.clear();
      return result;
    }
  }
  // Keep the longest end of the text that is the beginning of a stop string.
  size_t keep = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, text.size()); n > keep; --n) {
      if (text.ends_with(std::string_view(stop).substr(0, n))) keep = n;
    }
  }
  Result result{held_.substr(0, held_.size() - keep), std::nullopt};
  held_.erase(0, held_.size() - keep);
  return result;
}

std::string StopStringMatcher::Finish() { return std::exchange(held_, std::string()); }

}  // namespace sterna
