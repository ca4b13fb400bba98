#include "server/eval/perplexity.h"

#include <algorithm>

#include "base/check.h"

namespace sterna {

int64_t WindowTokens(const WindowOptions& options) {
  return options.context - (options.bos.has_value() ? 1 : 0);
}

std::vector<ScoringPrompt> CutWindows(std::span<const int32_t> text, const WindowOptions& options) {
  const int64_t most = WindowTokens(options);
  const int64_t stride = options.stride > 0 ? options.stride : most;
  STERNA_CHECK(most >= 1 && stride <= most);
  const auto size = std::ssize(text);
  const int64_t before = options.bos.has_value() ? 1 : 0;
  std::vector<ScoringPrompt> windows;
  int64_t scored = 0;  // tokens of the text
  for (int64_t begin = 0; scored < size; begin += stride) {
    const int64_t end = std::min(begin + most, size);
    ScoringPrompt& window = windows.emplace_back();
    if (options.bos.has_value()) window.tokens.push_back(*options.bos);
    window.tokens.insert(window.tokens.end(), text.begin() + begin, text.begin() + end);
    window.first_scored = std::max<int64_t>(before + scored - begin, 1);
    scored = end;
  }
  return windows;
}

}  // namespace sterna
