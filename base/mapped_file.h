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
  // NotFound, PermissionDenied or Internal with the path and the system's reason.
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

// Those of `files` that hold any of `addresses`; the others are unmapped.
std::vector<MappedFile> KeepHolding(std::vector<MappedFile> files,
                                    const std::set<const void*>& addresses);

// The whole file as a string, for small text files; errors as MappedFile::Open.
StatusOr<std::string> ReadTextFile(const std::string& path);

}  // namespace sterna

#endif  // STERNA_BASE_MAPPED_FILE_H_
