#include "tests/testing/paths.h"

#include <cstdlib>
#include <filesystem>

namespace sterna::testing {

std::string SourcePath(std::string_view relative) {
  // Where a test runs on another machine than the one it was built on.
  const char* const elsewhere = std::getenv("STERNA_SOURCE_DIR");
  return std::string(elsewhere != nullptr ? elsewhere : STERNA_SOURCE_DIR)
      .append("/")
      .append(relative);
}

std::string SharedDataPath(std::string_view relative) {
  std::string path = std::string(STERNA_SHARED_DATA "/").append(relative);
  return std::filesystem::exists(path) ? path : std::string();
}

}  // namespace sterna::testing
