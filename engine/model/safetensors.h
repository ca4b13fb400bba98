// Reads safetensors files: a little-endian u64 header length, a JSON header that gives every
// tensor's type, shape and byte range, then the bytes. Files are memory-mapped and nothing is
// copied; everything the header claims is checked against the file before a byte is handed out.
//
// Use: SafetensorsCheckpoint::Open(model_dir), then Find each tensor by name. Views point into the
// mapping and live as long as the SafetensorsCheckpoint or the MappedFile taken from it.
// Thread contract: immutable once open; const access from many threads is fine.
#ifndef STERNA_ENGINE_MODEL_SAFETENSORS_H_
#define STERNA_ENGINE_MODEL_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "base/status.h"

namespace sterna {

// Of a file, and of all files of a checkpoint. Bounds what a header takes in memory.
inline constexpr size_t kMaxTensors = 65'536;

// The element types this project computes with. kOther is a type that nothing here reads, whether
// or not it is known: such a tensor may be in a file, and is refused where it is needed.
enum class TensorType { kBf16, kF16, kF32, kU8, kOther };

struct TensorView {
  TensorType type = TensorType::kOther;
  std::string type_name;           // as the header says, made printable: "BF16"
  std::vector<int64_t> shape;      // empty for a scalar
  std::span<const uint8_t> bytes;  // row-major, little-endian, of any alignment
  std::string file;                // path, for messages

  int64_t num_elements() const;
  std::string ShapeString() const;  // "[640, 2560]"
};

// One mapped file and the tensors in it.
class SafetensorsFile {
 public:
  // DataLoss when the file is truncated, or its header is malformed or contradicts itself or the
  // file's size; each message names the file and, where there is one, the tensor. Errors of
  // MappedFile::Open as they are.
  static StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const std::map<std::string, TensorView, std::less<>>& tensors() const { return tensors_; }
  // Null when there is no such tensor.
  const TensorView* Find(std::string_view name) const;
  // Gives the mapping away; views stay valid as long as it lives.
  MappedFile TakeFile() && { return std::move(file_); }

 private:
  explicit SafetensorsFile(MappedFile file) : file_(std::move(file)) {}

  MappedFile file_;
  std::map<std::string, TensorView, std::less<>> tensors_;
};

// All tensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names.
class SafetensorsCheckpoint {
 public:
  // NotFound when the directory has neither, or lacks a shard; InvalidArgument for an index that is
  // malformed or names files outside the directory; DataLoss when a shard lacks a tensor that the
  // index puts there, or is itself corrupt.
  static StatusOr<SafetensorsCheckpoint> Open(const std::string& model_dir);

  // Null when there is no such tensor.
  const TensorView* Find(std::string_view name) const;
  std::vector<std::string> names() const;
  // What messages call this checkpoint: the path of the file or of the index.
  const std::string& path() const { return path_; }
  // Gives the mappings away; views stay valid as long as they live.
  std::vector<MappedFile> TakeFiles() &&;

 private:
  SafetensorsCheckpoint() = default;

  std::string path_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const TensorView*, std::less<>> tensors_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_SAFETENSORS_H_
