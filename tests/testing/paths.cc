#include "tests/testing/paths.h"

#include <filesystem>

namespace sterna::testing {

std::string SourcePath(std::string_view relative) {
  return std::string(STERNA_SOURCE_DIR "/").append(relative);
}

std::string SharedDataPath(std::string_view relative) {
  std::string path = std::string(STERNA_SHARED_DATA "/").append(relative);
  return std::filesystem::exists(path) ? path : std::string();
}

}  // namespace sterna::testing
