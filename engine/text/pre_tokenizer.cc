#include "engine/text/pre_tokenizer.h"

#include <utility>

#include "engine/text/byte_level.h"
#include "engine/text/utf8.h"

namespace sterna {
namespace {

using Words = PreTokenizer::Words;

// Calls fn(word) for each word.
template <typename Fn>
void ForEachWord(const Words& words, Fn fn) {
  size_t begin = 0;
  for (const size_t end : words.ends) {
    fn(std::string_view(words.text).substr(begin, end - begin));
    begin = end;
  }
}

Words PrefixSpaces(const Words& words) {
  Words result;
  ForEachWord(words, [&](std::string_view word) {
    if (!word.starts_with(' ')) result.text += ' ';
    result.text += word;
    result.ends.push_back(result.text.size());
  });
  return result;
}

Words MapBytes(const Words& words) {
  Words result;
  result.text.reserve(words.text.size() * 2);
  result.ends.reserve(words.ends.size());
  ForEachWord(words, [&](std::string_view word) {
    for (const char byte : word) {
      AppendUtf8(ByteLevelCharacter(static_cast<uint8_t>(byte)), &result.text);
    }
    result.ends.push_back(result.text.size());
  });
  return result;
}

StatusOr<Words> SplitWords(const Words& words, const SplitRegex& regex,
                           const PreTokenizerStep& step) {
  Words result;
  result.text.reserve(words.text.size());
  std::vector<SplitRegex::Match> matches;
  Status status;
  ForEachWord(words, [&](std::string_view word) {
    const auto keep = [&](size_t begin, size_t end) {
      if (begin == end) return;
      result.text += word.substr(begin, end - begin);
      result.ends.push_back(result.text.size());
    };
    matches.clear();
    if (status.ok()) status = regex.FindAll(word, &matches);
    size_t done = 0;
    for (const SplitRegex::Match& match : matches) {
      if (step.keep_gaps) keep(done, match.begin);
      if (step.keep_matches) keep(match.begin, match.end);
      done = match.end;
    }
    if (step.keep_gaps) keep(done, word.size());
  });
  if (!status.ok()) return status;
  return result;
}

}  // namespace

StatusOr<PreTokenizer> PreTokenizer::Create(const std::vector<PreTokenizerStep>& steps) {
  PreTokenizer result;
  for (const PreTokenizerStep& step : steps) {
    CompiledStep compiled{step, std::nullopt};
    if (step.kind == PreTokenizerStep::kSplit) {
      STERNA_ASSIGN_OR_RETURN(compiled.regex, SplitRegex::Compile(step.regex));
    }
    result.steps_.push_back(std::move(compiled));
  }
  return result;
}

StatusOr<Words> PreTokenizer::Split(std::string_view text) const {
  Words words;
  if (text.empty()) return words;
  words.text = text;
  words.ends.push_back(text.size());
  for (const CompiledStep& compiled : steps_) {
    switch (compiled.step.kind) {
      case PreTokenizerStep::kPrefixSpace:
        words = PrefixSpaces(words);
        break;
      case PreTokenizerStep::kByteMap:
        words = MapBytes(words);
        break;
      case PreTokenizerStep::kSplit: {
        STERNA_ASSIGN_OR_RETURN(words, SplitWords(words, *compiled.regex, compiled.step));
        break;
      }
    }
  }
  return words;
}

}  // namespace sterna
