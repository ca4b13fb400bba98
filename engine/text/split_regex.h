// A compiled regular expression that finds all its matches in a text (PCRE2, Unicode classes, JIT).
// Thread contract: const after Compile; FindAll may be called from any thread. Move-only.
#ifndef STERNA_ENGINE_TEXT_SPLIT_REGEX_H_
#define STERNA_ENGINE_TEXT_SPLIT_REGEX_H_

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sterna {

class SplitRegex {
 public:
  // InvalidArgument with the position and reason when `pattern` does not compile.
  static StatusOr<SplitRegex> Compile(const std::string& pattern);

  struct Match {
    size_t begin, end;  // byte offsets, begin < end
  };
  // Appends the non-empty matches in `text`, left to right. `text` must be valid UTF-8.
  Status FindAll(std::string_view text, std::vector<Match>* matches) const;

 private:
  struct CodeDeleter {
    void operator()(void* code) const;
  };
  explicit SplitRegex(void* code) : code_(code) {}

  std::unique_ptr<void, CodeDeleter> code_;  // pcre2_code, whose header stays in the .cc
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_SPLIT_REGEX_H_
