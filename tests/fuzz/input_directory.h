// The directory that a fuzzer lays its input out in, for readers that take paths. Its files lie in
// memory and are opened once: writing one costs no more than copying its bytes.
//
// Use: one static InputDirectory for each fuzzer; Write what the input has, then call the reader.
// Thread contract: one thread.
#ifndef STERNA_TESTS_FUZZ_INPUT_DIRECTORY_H_
#define STERNA_TESTS_FUZZ_INPUT_DIRECTORY_H_

#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "base/check.h"
#include "tests/testing/temp_dir.h"

namespace sterna::testing {

class InputDirectory {
 public:
  InputDirectory() = default;
  ~InputDirectory() {
    for (const auto& [name, descriptor] : files_) close(descriptor);
  }
  InputDirectory(const InputDirectory&) = delete;
  InputDirectory& operator=(const InputDirectory&) = delete;

  const std::string& path() const { return directory_.path(); }

  // Gives the file `name` these bytes, whatever it had before, and returns its path.
  std::string Write(const std::string& name, std::string_view bytes) {
    const std::string path = directory_.path() + "/" + name;
    auto [file, is_new] = files_.try_emplace(name, -1);
    if (is_new) {
      file->second = memfd_create(name.c_str(), 0);
      STERNA_CHECK(file->second >= 0);
      std::filesystem::create_symlink("/proc/self/fd/" + std::to_string(file->second), path);
    }
    STERNA_CHECK(ftruncate(file->second, 0) == 0);
    STERNA_CHECK(pwrite(file->second, bytes.data(), bytes.size(), 0) ==
                 static_cast<ssize_t>(bytes.size()));
    return path;
  }

 private:
  TempDir directory_;
  std::map<std::string, int> files_;  // descriptors by name
};

}  // namespace sterna::testing

#endif  // STERNA_TESTS_FUZZ_INPUT_DIRECTORY_H_
