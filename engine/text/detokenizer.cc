#include "engine/text/detokenizer.h"

#include "engine/text/utf8.h"

namespace sterna {

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer* tokenizer, bool continues_text)
    : tokenizer_(tokenizer),
      strip_next_space_(!continues_text && tokenizer->StripsLeadingSpace()) {}

std::string IncrementalDetokenizer::Append(int32_t token) {
  std::string bytes = tokenizer_->TokenBytes(token);
  if (bytes.empty()) return bytes;
  if (strip_next_space_) {
    strip_next_space_ = false;
    if (bytes.front() == ' ') bytes.erase(0, 1);
  }
  held_ += bytes;
  return TakeCompleteText(&held_);
}

std::string IncrementalDetokenizer::Finish() {
  std::string text = ReplaceInvalidUtf8(held_);
  held_.clear();
  return text;
}

}  // namespace sterna
