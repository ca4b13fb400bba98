#include "server/eval/perplexity.h"

#include <algorithm>

#include "base/check.h"

namespace sterna {

int64_t WindowTokens(const WindowOptions& options) {
  return options.context - (options.bos.has_value() ? 1 : 0);
}

TextWindows::TextWindows(std::span<const int32_t> text, const WindowOptions& options)
    : text_(text),
      most_(WindowTokens(options)),
      stride_(options.stride > 0 ? options.stride : most_),
      bos_(options.bos) {
  STERNA_CHECK(most_ >= 1 && stride_ <= most_);
}

int64_t TextWindows::End(int64_t index) const {
  return std::min(index * stride_ + most_, std::ssize(text_));
}

int64_t TextWindows::size() const {
  if (text_.empty()) return 0;
  return 1 + (std::ssize(text_) - End(0) + stride_ - 1) / stride_;
}

ScoringPrompt TextWindows::operator[](int64_t index) const {
  const int64_t begin = index * stride_;
  const int64_t scored = index == 0 ? 0 : End(index - 1);
  ScoringPrompt window;
  if (bos_.has_value()) window.tokens.push_back(*bos_);
  window.first_scored = std::max<int64_t>(std::ssize(window.tokens) + scored - begin, 1);
  window.tokens.insert(window.tokens.end(), text_.begin() + begin, text_.begin() + End(index));
  return window;
}

}  // namespace sterna
