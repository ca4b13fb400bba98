// The tokens a checkpoint adds beside its vocabulary ("<|eot_id|>", "<tool_call>"): found in a text
// as whole spellings before anything else is done with it.
//
// Thread contract: const after construction.
#ifndef STERNA_ENGINE_TEXT_ADDED_TOKENS_H_
#define STERNA_ENGINE_TEXT_ADDED_TOKENS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace sterna {

struct AddedToken {
  int32_t id;
  std::string content;       // never empty
  bool special = false;      // a control token: invisible, parsed only where asked for
  bool single_word = false;  // matches only where no word character touches it
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool normalized = false;   // looked for in the normalised text
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // With `nfc`, text is brought to normalisation form C before it is searched for the normalised
  // tokens, so these are too. Of entries with the same content the first counts.
  AddedTokens(std::vector<AddedToken> tokens, bool nfc);

  static constexpr int32_t kOrdinaryText = -1;
  struct Piece {
    std::string_view text;  // a part of the input
    int32_t id;             // the token it spells, or kOrdinaryText
  };
  // Cuts `text` (valid UTF-8) at the tokens whose `normalized` flag is as given: at each place the
  // longest spelling. Special tokens count only with `parse_special`. Pieces are never empty. Takes
  // time in proportion to the text times the longest spelling, however many tokens there are.
  std::vector<Piece> Split(std::string_view text, bool parse_special, bool normalized) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }
  // Null when `id` is no added token.
  const AddedToken* Find(int32_t id) const;

 private:
  struct Spelling {
    std::string text;  // what is looked for
    size_t index;      // of the token
  };

  const Spelling* MatchAt(std::string_view text, size_t pos, bool parse_special,
                          bool normalized) const;

  std::vector<AddedToken> tokens_;
  std::unordered_map<int32_t, size_t> index_by_id_;
  // Sorted by `text`, each there once. Those that begin with byte b are at [first_byte_begin_[b],
  // first_byte_begin_[b + 1]).
  std::vector<Spelling> spellings_;
  std::array<size_t, 257> first_byte_begin_ = {};
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_ADDED_TOKENS_H_
