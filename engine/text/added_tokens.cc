#include "engine/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

namespace sterna {
namespace {

bool StandsAlone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && IsUnicodeWord(ReadUtf8(text, PreviousCharacter(text, begin)).code_point)) {
    return false;
  }
  return end == text.size() || !IsUnicodeWord(ReadUtf8(text, end).code_point);
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i) {
    index_by_id_[tokens_[i].id] = i;
    by_first_byte_[static_cast<uint8_t>(tokens_[i].content.front())].push_back(i);
  }
  for (std::vector<size_t>& candidates : by_first_byte_) {
    std::stable_sort(candidates.begin(), candidates.end(), [this](size_t a, size_t b) {
      return tokens_[a].content.size() > tokens_[b].content.size();
    });
  }
}

const AddedToken* AddedTokens::Find(int32_t id) const {
  const auto it = index_by_id_.find(id);
  return it == index_by_id_.end() ? nullptr : &tokens_[it->second];
}

const AddedToken* AddedTokens::MatchAt(std::string_view text, size_t pos, bool parse_special,
                                       bool normalized) const {
  for (const size_t i : by_first_byte_[static_cast<uint8_t>(text[pos])]) {
    const AddedToken& token = tokens_[i];
    if (token.normalized != normalized || (token.special && !parse_special)) continue;
    if (!text.substr(pos).starts_with(token.content)) continue;
    if (token.single_word && !StandsAlone(text, pos, pos + token.content.size())) continue;
    return &token;
  }
  return nullptr;
}

std::vector<AddedTokens::Piece> AddedTokens::Split(std::string_view text, bool parse_special,
                                                   bool normalized) const {
  std::vector<Piece> pieces;
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    const AddedToken* token = MatchAt(text, pos, parse_special, normalized);
    if (token == nullptr) {
      ++pos;
      continue;
    }
    size_t begin = pos, end = pos + token->content.size();
    while (token->lstrip && begin > done) {
      const size_t previous = PreviousCharacter(text, begin);
      if (!IsUnicodeSpace(ReadUtf8(text, previous).code_point)) break;
      begin = previous;
    }
    while (token->rstrip && end < text.size()) {
      const Utf8Unit unit = ReadUtf8(text, end);
      if (!IsUnicodeSpace(unit.code_point)) break;
      end += unit.length;
    }
    if (begin > done) pieces.push_back({text.substr(done, begin - done), kOrdinaryText});
    pieces.push_back({text.substr(begin, end - begin), token->id});
    pos = done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), kOrdinaryText});
  return pieces;
}

}  // namespace sterna
