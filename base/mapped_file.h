// A whole file mapped read-only into memory. Move-only; unmapped when destroyed.
#ifndef STERNA_BASE_MAPPED_FILE_H_
#define STERNA_BASE_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace sterna {

class MappedFile {
 public:
  // NotFound, PermissionDenied or Internal with the path and the system's reason; InvalidArgument
  // for what is no regular file, without waiting for whoever writes to a pipe.
  static StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)),
        data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile();

  const std::string& path() const { return path_; }
  std::span<const uint8_t> bytes() const { return {data_, size_}; }

  // Gives back the memory of the pages that `bytes`, of any mapped file, touch; they are read again
  // from the file, or from the system's cache of it, when they are next looked at. Who copies a
  // large file calls this as it goes along, or the process holds both for a while. Any thread.
  static void Forget(std::span<const uint8_t> bytes);

 private:
  MappedFile(std::string path, const uint8_t* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  std::string path_;
  const uint8_t* data_;  // null for an empty file
  size_t size_;
};

// Forgets the rows of a matrix in a mapped file, a few megabytes at a time, while they are read:
// what is resident of it then does not grow with it, or with the threads that read one each. Thread
// contract: immutable; any thread may call.
class RowForgetter {
 public:
  // `bytes`: `rows` rows of as many bytes each. Row i goes with those of its step, i / step_rows.
  RowForgetter(std::span<const uint8_t> bytes, int64_t rows, int64_t step_rows);
  // As many rows at once as a few megabytes hold.
  RowForgetter(std::span<const uint8_t> bytes, int64_t rows);

  // `row` has been read, and so have the rows of its step that are before it.
  void AfterRow(int64_t row) const;

 private:
  std::span<const uint8_t> bytes_;
  int64_t rows_;
  int64_t step_rows_;
};

// Those of `files` that hold any of `addresses`; the others are unmapped.
std::vector<MappedFile> KeepHolding(std::vector<MappedFile> files,
                                    const std::set<const void*>& addresses);

// The whole file as a string, for small text files; errors as MappedFile::Open.
StatusOr<std::string> ReadTextFile(const std::string& path);

}  // namespace sterna

#endif  // STERNA_BASE_MAPPED_FILE_H_
