// A directory that is deleted with all it holds when the object goes.
#ifndef STERNA_TESTS_TESTING_TEMP_DIR_H_
#define STERNA_TESTS_TESTING_TEMP_DIR_H_

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "base/check.h"

namespace sterna::testing {

class TempDir {
 public:
  TempDir() : path_((std::filesystem::temp_directory_path() / "sterna_test_XXXXXX").string()) {
    STERNA_CHECK(mkdtemp(path_.data()) != nullptr);
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }

  // Writes `contents` to the file `name` in the directory and returns its path.
  std::string Write(const std::string& name, std::string_view contents) const {
    const std::string path = path_ + "/" + name;
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(contents.data(), static_cast<std::streamsize>(contents.size()));
    STERNA_CHECK(file.good());
    return path;
  }

 private:
  std::string path_;
};

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_TEMP_DIR_H_
