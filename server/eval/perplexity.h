// Windows over a text, for perplexity.
//
// Windows advance by `stride` tokens of the text and hold as many of them as fit beside BOS; the
// last ends where the text does. Each token is scored once, in the first window that holds it,
// given BOS and all before it there: all of the first window's, and of every other the last
// `stride`, fewer where the text ends. Without BOS the first token of a window has nothing before
// it and is scored in none that begins with it. Perplexity is exp(-mean log-likelihood) over the
// tokens that are scored.
#ifndef STERNA_SERVER_EVAL_PERPLEXITY_H_
#define STERNA_SERVER_EVAL_PERPLEXITY_H_

#include <cstdint>
#include <optional>
#include <span>

#include "server/eval/scoring.h"

namespace sterna {

struct WindowOptions {
  int64_t context;  // tokens of a window, BOS included; at least 2
  int64_t stride;   // 1 to the text's tokens in a window; 0: as many
  std::optional<int32_t> bos;
};

// The text's tokens in a full window.
int64_t WindowTokens(const WindowOptions& options);

// The windows, each made when it is asked for: together, with a small stride, they are many times
// the text. `text` must outlive them.
class TextWindows {
 public:
  TextWindows(std::span<const int32_t> text, const WindowOptions& options);
  int64_t size() const;
  ScoringPrompt operator[](int64_t index) const;

 private:
  // Where the tokens of the text that window `index` holds end.
  int64_t End(int64_t index) const;

  std::span<const int32_t> text_;
  int64_t most_;  // of its tokens in a window
  int64_t stride_;
  std::optional<int32_t> bos_;
};

}  // namespace sterna

#endif  // STERNA_SERVER_EVAL_PERPLEXITY_H_
