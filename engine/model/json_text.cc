#include "engine/model/json_text.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"

namespace sterna {
namespace {

constexpr int kMaxNesting = 32;
constexpr size_t kMaxShownBytes = 60;

// The deepest nesting of brackets outside strings.
int BracketDepth(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

StatusOr<std::string> ReadJsonText(const std::string& path, int64_t max_bytes) {
  STERNA_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  const int64_t size = static_cast<int64_t>(file.bytes().size());
  if (size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", size, " bytes; at most ", max_bytes, " are read"));
  }
  std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  if (const int depth = BracketDepth(text); depth > kMaxNesting) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, " nests ", depth, " levels of brackets; at most ", kMaxNesting, " are read"));
  }
  return text;
}

std::string Shown(std::string_view text) {
  std::string shown = absl::Utf8SafeCHexEscape(std::string(text.substr(0, kMaxShownBytes)));
  if (text.size() > kMaxShownBytes) shown += "...";
  return shown;
}

}  // namespace sterna
