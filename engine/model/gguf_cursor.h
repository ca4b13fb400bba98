// Walks over the header of a GGUF file. Nothing is read, and nothing is allocated, before the file
// is known to hold it. For the GGUF readers of this folder alone.
// Source: the GGUF specification (ggml, docs/gguf.md).
//
// Lifetime: what it returns points into the bytes it was given.
// Thread contract: none; one thread.
#ifndef STERNA_ENGINE_MODEL_GGUF_CURSOR_H_
#define STERNA_ENGINE_MODEL_GGUF_CURSOR_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace sterna {

class GgufCursor {
 public:
  static_assert(std::endian::native == std::endian::little, "GGUF's numbers are read as they lie");

  // `bytes`: the whole file, so that positions in messages are positions in the file.
  explicit GgufCursor(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  // The next `size` bytes. `what` they are is for the message of the DataLoss error that a file
  // which ends before them gets; the caller puts the file's name in front.
  StatusOr<std::span<const uint8_t>> Take(uint64_t size, const std::string& what) {
    if (size > remaining()) {
      return absl::DataLossError(absl::StrCat(what, " takes ", size, " bytes at byte ", position_,
                                              ", but the file has ", bytes_.size(),
                                              " bytes: it is truncated or corrupt"));
    }
    const auto taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
  }

  template <typename T>
  StatusOr<T> Read(const std::string& what) {
    STERNA_ASSIGN_OR_RETURN(const auto bytes, Take(sizeof(T), what));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  // A string: its length as u64, then its bytes, without a terminator.
  StatusOr<std::string_view> ReadString(const std::string& what) {
    STERNA_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    STERNA_ASSIGN_OR_RETURN(const auto bytes, Take(length, what));
    return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const uint8_t> bytes_;
  uint64_t position_ = 0;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_CURSOR_H_
