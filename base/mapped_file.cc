#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <functional>

#include "absl/strings/str_cat.h"

namespace sterna {

StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* data = nullptr;
  if (size > 0) {
    data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) {
      const int error = errno;
      close(fd);
      return absl::ErrnoToStatus(error, absl::StrCat("cannot map ", path));
    }
  }
  close(fd);
  return MappedFile(path, static_cast<const uint8_t*>(data), size);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
}

void MappedFile::Forget(std::span<const uint8_t> bytes) {
  if (bytes.empty()) return;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t in_page = reinterpret_cast<uintptr_t>(bytes.data()) % page;
  // Whole pages: that neighbours are forgotten too costs them a fault at most. Failing costs
  // memory.
  madvise(const_cast<uint8_t*>(bytes.data()) - in_page, in_page + bytes.size(), MADV_DONTNEED);
}

std::vector<MappedFile> KeepHolding(std::vector<MappedFile> files,
                                    const std::set<const void*>& addresses) {
  std::erase_if(files, [&](const MappedFile& file) {
    const auto* begin = file.bytes().data();
    const auto next = addresses.lower_bound(begin);
    return next == addresses.end() || !std::less<>()(*next, begin + file.bytes().size());
  });
  return files;
}

StatusOr<std::string> ReadTextFile(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path));
  return std::string(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
}

}  // namespace sterna
