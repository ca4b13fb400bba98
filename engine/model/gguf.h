// Reads GGUF files, versions 2 and 3, little-endian: a header, metadata, tensor infos, then the
// tensors' bytes. Files are memory-mapped and nothing is copied; everything the header claims is
// checked against the file before it is believed, so that a hostile or broken file costs an error
// message and little memory.
// Source: the GGUF specification (ggml, docs/gguf.md).
//
//   "GGUF" | u32 version | u64 tensors | u64 metadata keys
//   keys:    string name | u32 type | value                          (gguf_metadata.h)
//   tensors: string name | u32 n_dims | u64 dims[n_dims] | u32 type | u64 offset
//   padding to `general.alignment` (32 unless the metadata says otherwise): the data begins
//   data:    each tensor at its offset from there, one after another, each padded to the alignment
//
// Use: GgufCheckpoint::Open(path), then Find each tensor by name; gguf_blocks.h and gguf_ternary.h
// decode them. Views point into the mapping and live as long as the checkpoint (or the file).
// Thread contract: immutable once open; const access from many threads is fine.
#ifndef STERNA_ENGINE_MODEL_GGUF_H_
#define STERNA_ENGINE_MODEL_GGUF_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/mapped_file.h"
#include "base/status.h"
#include "engine/model/gguf_metadata.h"

namespace sterna {

// Tensor types as numbered in files: those that are decoded here. A file may hold others, which the
// container only measures; they are refused where they are needed.
enum class GgufTensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ8_0 = 8,
  kQ6K = 14,
  kBf16 = 30,
  kTq1_0 = 34,
  kTq2_0 = 35,
  kI2s = 36,  // of BitNet's fork of llama.cpp; the main line once had another type of that number
  kQ2_0 = 42,
};

// How the elements of a tensor are packed.
struct GgufPacking {
  GgufTensorType type = GgufTensorType::kF32;
  int64_t block_elements = 1;  // neighbours in a row that are packed together
  int64_t block_bytes = 4;     // of them
};
inline constexpr GgufPacking kPackingF32 = {GgufTensorType::kF32, 1, 4};
inline constexpr GgufPacking kPackingF16 = {GgufTensorType::kF16, 1, 2};
inline constexpr GgufPacking kPackingBf16 = {GgufTensorType::kBf16, 1, 2};
inline constexpr GgufPacking kPackingTq1_0 = {GgufTensorType::kTq1_0, 256, 54};
inline constexpr GgufPacking kPackingTq2_0 = {GgufTensorType::kTq2_0, 256, 66};
// The main line's, and the one that a fork of it has under the same number.
inline constexpr GgufPacking kPackingQ2_0Of64 = {GgufTensorType::kQ2_0, 64, 18};
inline constexpr GgufPacking kPackingQ2_0Of128 = {GgufTensorType::kQ2_0, 128, 34};

// Files give dimensions innermost first: the dims {cols, rows} of a matrix [rows, cols]. All that
// is here is in this project's order, outermost first.
struct GgufTensor {
  std::string name;
  GgufTensorType type = GgufTensorType::kF32;
  const char* type_name = "F32";   // "TQ2_0"
  std::vector<int64_t> shape;      // outermost first, 1 to 4 dimensions of at least 1
  int64_t rows = 0;                // the product of all dimensions but the last of `shape`
  int64_t cols = 0;                // the last one: neighbours in memory
  int64_t block_elements = 0;      // neighbours in a row that are packed together; divides cols
  int64_t block_bytes = 0;         // of them
  std::span<const uint8_t> bytes;  // rows * cols / block_elements * block_bytes (I2_S: 32 more)
  std::string file;                // path, for messages

  std::string ShapeString() const;  // "[640, 2560]"
  // "PATH: tensor 'NAME' ", with which messages about it begin.
  std::string Where() const;
};

// One mapped file and what is in it.
class GgufFile {
 public:
  // DataLoss when the file is truncated, or its header is malformed or contradicts itself or the
  // file's size; Unimplemented for version 1, later versions and big-endian files. Each message
  // names the file and, where there is one, the key or tensor. Errors of MappedFile::Open as they
  // are.
  static StatusOr<GgufFile> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  uint32_t version() const { return version_; }
  int64_t alignment() const { return alignment_; }  // bytes
  const GgufMetadata& metadata() const { return metadata_; }
  const std::map<std::string, GgufTensor, std::less<>>& tensors() const { return tensors_; }
  // Null when there is no such tensor.
  const GgufTensor* Find(std::string_view name) const;
  // Gives the mapping away; tensors' bytes stay valid as long as it lives.
  MappedFile TakeFile() && { return std::move(file_); }

 private:
  explicit GgufFile(MappedFile file) : file_(std::move(file)) {}
  Status Read();

  MappedFile file_;
  uint32_t version_ = 0;
  int64_t alignment_ = 0;
  GgufMetadata metadata_;
  std::map<std::string, GgufTensor, std::less<>> tensors_;
};

// All tensors of a model: those of one file, or of the files NAME-00001-of-0000N.gguf to
// NAME-0000N-of-0000N.gguf that it was split into.
class GgufCheckpoint {
 public:
  // `path`: the file, or the first of them. InvalidArgument when it is another one than the first,
  // or is not named as the first of so many; NotFound when another one is missing; DataLoss when
  // the files do not belong together. Errors of GgufFile::Open for each as they are.
  static StatusOr<GgufCheckpoint> Open(const std::string& path);

  // Of the first file, which has everything but the tensors.
  const GgufMetadata& metadata() const { return files_[0].metadata(); }
  const std::vector<GgufFile>& files() const { return files_; }
  // Null when there is no such tensor.
  const GgufTensor* Find(std::string_view name) const;
  std::vector<std::string> names() const;
  // Gives the mappings away; tensors' bytes stay valid as long as they live.
  std::vector<MappedFile> TakeFiles() &&;

 private:
  GgufCheckpoint() = default;

  std::vector<GgufFile> files_;
  std::map<std::string_view, const GgufTensor*> tensors_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_H_
