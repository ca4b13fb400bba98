#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

// Large enough for the calls not to count, small enough for a thread to hold.
constexpr int64_t kBytesForgottenAtOnce = 4 << 20;

}  // namespace

StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // Opening a pipe waits for its writer otherwise; regular files know no difference.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
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

RowForgetter::RowForgetter(std::span<const uint8_t> bytes, int64_t rows, int64_t step_rows)
    : bytes_(bytes), rows_(rows), step_rows_(step_rows) {}

RowForgetter::RowForgetter(std::span<const uint8_t> bytes, int64_t rows)
    : RowForgetter(bytes, rows,
                   std::max<int64_t>(1, kBytesForgottenAtOnce * rows /
                                            std::max<int64_t>(1, std::ssize(bytes)))) {}

void RowForgetter::AfterRow(int64_t row) const {
  const bool last = row + 1 == rows_;
  if ((row + 1) % step_rows_ != 0 && !last) return;
  // The step before goes once more: the kernel maps pages around the one that is asked for.
  const int64_t first = std::max<int64_t>(0, row / step_rows_ - 1) * step_rows_;
  const auto row_bytes = bytes_.size() / static_cast<size_t>(rows_);
  const auto begin = static_cast<size_t>(first) * row_bytes;
  const auto end = last ? bytes_.size() : static_cast<size_t>(row + 1) * row_bytes;
  MappedFile::Forget(bytes_.subspan(begin, end - begin));
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
