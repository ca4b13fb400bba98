// Finds the first of several stop strings in a text that arrives in pieces, and holds back just so
// much text as might be the beginning of one.
// Thread contract: one per sequence, used by one thread at a time.
#ifndef STERNA_ENGINE_TEXT_STOP_STRINGS_H_
#define STERNA_ENGINE_TEXT_STOP_STRINGS_H_

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sterna {

class StopStringMatcher {
 public:
  // `stops`: non-empty strings. With `include_stop` the matched string itself is part of the text.
  explicit StopStringMatcher(std::vector<std::string> stops, bool include_stop = false);

  struct Result {
    std::string text;                 // safe to send now
    std::optional<std::string> stop;  // the string that matched; generation ends, nothing follows
  };
  // The match that ends first wins; among those that end together, the longest (it starts first).
  Result Append(std::string_view piece);

  // What was held back, when generation ended for another reason.
  std::string Finish();

 private:
  std::vector<std::string> stops_;
  bool include_stop_;
  std::string held_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_STOP_STRINGS_H_
