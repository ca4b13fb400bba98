// A file that is written under another name and takes its own when it is whole, so that nobody
// finds half a file: a process that dies on the way leaves PATH.partial and what PATH was before.
//
// Use: Create(path), Write what it holds from front to back, Commit. Move-only; destroyed without
// Commit, it deletes what was written. For one thread.
#ifndef STERNA_BASE_OUTPUT_FILE_H_
#define STERNA_BASE_OUTPUT_FILE_H_

#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/status.h"

namespace sterna {

// All errors name the path and the system's reason: NotFound for a directory that is not there,
// PermissionDenied, ResourceExhausted when the disk is full, Internal for what else may be.
class OutputFile {
 public:
  static StatusOr<OutputFile> Create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept = default;
  OutputFile& operator=(OutputFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(file_, other.file_);
    std::swap(bytes_written_, other.bytes_written_);
    return *this;
  }
  ~OutputFile();

  const std::string& path() const { return path_; }
  int64_t bytes_written() const { return bytes_written_; }

  Status Write(std::span<const uint8_t> bytes);
  Status Write(std::string_view text);
  // Puts everything on the disk and gives the file its name, in the place of one that had it.
  Status Commit();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };

  OutputFile(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  std::string PartialPath() const { return path_ + ".partial"; }

  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;  // null once committed, or moved from
  int64_t bytes_written_ = 0;
};

}  // namespace sterna

#endif  // STERNA_BASE_OUTPUT_FILE_H_
