#include "engine/text/added_tokens.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

namespace sterna {
namespace {

uint8_t ByteOf(std::string_view text, size_t pos) { return static_cast<uint8_t>(text[pos]); }

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsUnicodeWord(ReadUtf8(text, PreviousCharacter(text, begin)).code_point)) {
    return false;
  }
  return end == text.size() || !IsUnicodeWord(ReadUtf8(text, end).code_point);
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens, bool nfc) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const AddedToken& token = tokens_[i];
    index_by_id_.try_emplace(token.id, i);
    spellings_.push_back(
        {nfc && token.normalized ? NormalizeNfc(token.content) : token.content, i});
  }
  std::stable_sort(spellings_.begin(), spellings_.end(),
                   [](const Spelling& a, const Spelling& b) { return a.text < b.text; });
  const auto same = [](const Spelling& a, const Spelling& b) { return a.text == b.text; };
  spellings_.erase(std::unique(spellings_.begin(), spellings_.end(), same), spellings_.end());
  for (const Spelling& spelling : spellings_) ++first_byte_begin_[ByteOf(spelling.text, 0) + 1];
  std::partial_sum(first_byte_begin_.begin(), first_byte_begin_.end(), first_byte_begin_.begin());
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto it = index_by_id_.find(id);
  return it == index_by_id_.end() ? nullptr : &tokens_[it->second];
}

const AddedTokens::Spelling* AddedTokens::MatchAt(std::string_view text, size_t pos,
                                                  bool parse_special, bool normalized) const {
  const auto counts = [&](const Spelling& spelling) {
    const AddedToken& token = tokens_[spelling.index];
    return token.normalized == normalized && (parse_special || !token.special) &&
           (!token.single_word || StandsAlone(text, pos, pos + spelling.text.size()));
  };
  const uint8_t first = ByteOf(text, pos);
  const Spelling* begin = spellings_.data() + first_byte_begin_[first];
  const Spelling* end = spellings_.data() + first_byte_begin_[first + 1];
  const Spelling* longest = nullptr;
  // The spellings between begin and end agree with the text in `length` bytes.
  for (size_t length = 1; begin != end; ++length) {
    if (begin->text.size() == length) {  // no other is as short
      if (counts(*begin)) longest = begin;
      ++begin;
    }
    if (pos + length == text.size()) break;
    const uint8_t next = ByteOf(text, pos + length);
    begin = std::partition_point(
        begin, end, [&](const Spelling& spelling) { return ByteOf(spelling.text, length) < next; });
    end = std::partition_point(begin, end, [&](const Spelling& spelling) {
      return ByteOf(spelling.text, length) == next;
    });
  }
  return longest;
}

std::vector<AddedTokens::Piece> AddedTokens::Split(std::string_view text, bool parse_special,
                                                   bool normalized) const {
  std::vector<Piece> pieces;
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    const Spelling* match = MatchAt(text, pos, parse_special, normalized);
    if (match == nullptr) {
      ++pos;
      continue;
    }
    const AddedToken& token = tokens_[match->index];
    size_t begin = pos, end = pos + match->text.size();
    pos = end;
    while (token.lstrip && begin > done) {
      const size_t previous = PreviousCharacter(text, begin);
      if (!IsUnicodeSpace(ReadUtf8(text, previous).code_point)) break;
      begin = previous;
    }
    while (token.rstrip && end < text.size()) {
      const Utf8Unit unit = ReadUtf8(text, end);
      if (!IsUnicodeSpace(unit.code_point)) break;
      end += unit.length;
    }
    if (begin > done) pieces.push_back({text.substr(done, begin - done), kOrdinaryText});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), kOrdinaryText});
  return pieces;
}

}  // namespace sterna
