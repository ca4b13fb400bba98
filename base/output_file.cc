#include "base/output_file.h"

#include <unistd.h>

#include <cerrno>

#include "base/check.h"

namespace sterna {
namespace {

Status SystemError(const std::string& path, int error) {
  return absl::ErrnoToStatus(error, absl::StrCat("cannot write ", path));
}

}  // namespace

StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  OutputFile output(path, nullptr);
  output.file_.reset(std::fopen(output.PartialPath().c_str(), "wbe"));
  if (output.file_ == nullptr) return SystemError(path, errno);
  return output;
}

OutputFile::~OutputFile() {
  if (file_ != nullptr) std::remove(PartialPath().c_str());
}

Status OutputFile::Write(std::span<const uint8_t> bytes) {
  STERNA_CHECK(file_ != nullptr);
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) {
    return SystemError(path_, errno);
  }
  bytes_written_ += static_cast<int64_t>(bytes.size());
  return absl::OkStatus();
}

Status OutputFile::Write(std::string_view text) {
  return Write({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

Status OutputFile::Commit() {
  STERNA_CHECK(file_ != nullptr);
  const std::string partial = PartialPath();
  if (std::fflush(file_.get()) != 0 || fsync(fileno(file_.get())) != 0 ||
      std::rename(partial.c_str(), path_.c_str()) != 0) {
    return SystemError(path_, errno);
  }
  file_.reset();
  return absl::OkStatus();
}

}  // namespace sterna
