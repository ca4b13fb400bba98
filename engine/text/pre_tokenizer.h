// Cuts a text into the words that byte-level BPE merges within, and writes them in the byte
// alphabet (byte_level.h). Thread contract: const after Create; Split may be called from any
// thread.
#ifndef STERNA_ENGINE_TEXT_PRE_TOKENIZER_H_
#define STERNA_ENGINE_TEXT_PRE_TOKENIZER_H_

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/text/split_regex.h"

namespace sterna {

// Regular expressions that files name and do not spell out.
// How GPT-2 cuts text into words.
inline constexpr char kGpt2WordsRegex[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// A digit and a mark of punctuation, as Hugging Face's Digits and Punctuation define them.
inline constexpr char kNumberRegex[] = R"(\p{N})";
inline constexpr char kPunctuationRegex[] = R"([\p{P}!-/:-@\[-`{-~])";

// One step, applied to every word that the steps before it made.
struct PreTokenizerStep {
  enum Kind {
    kPrefixSpace,  // puts a space before a word that does not begin with one
    kSplit,        // cuts at the matches of `regex`, which become words of their own
    kByteMap,      // replaces each byte by its character of the byte alphabet
  };
  Kind kind;
  std::string regex;
  bool keep_matches = true;  // false: matches are dropped
  bool keep_gaps = true;     // false: what lies between matches is dropped

  bool operator==(const PreTokenizerStep&) const = default;
};

class PreTokenizer {
 public:
  // InvalidArgument when a regex does not compile.
  static StatusOr<PreTokenizer> Create(const std::vector<PreTokenizerStep>& steps);

  struct Words {
    std::string text;          // the words, one after the other
    std::vector<size_t> ends;  // where in `text` each ends, ascending
  };
  // `text` must be valid UTF-8.
  StatusOr<Words> Split(std::string_view text) const;

 private:
  struct CompiledStep {
    PreTokenizerStep step;
    std::optional<SplitRegex> regex;
  };
  std::vector<CompiledStep> steps_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_PRE_TOKENIZER_H_
