// Writes a GGUF file, version 3: the header at once, then the tensors' bytes as they come, so that
// no more than one of them need be in memory.
// Source: the GGUF specification (ggml, docs/gguf.md); gguf.h draws the file.
//
// Use: Create with everything the header says; Write the bytes of all tensors in the header's
// order, in pieces of any size; Finish. Without Finish no file appears.
// Thread contract: for one thread.
#ifndef STERNA_ENGINE_MODEL_GGUF_WRITER_H_
#define STERNA_ENGINE_MODEL_GGUF_WRITER_H_

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/output_file.h"
#include "base/status.h"
#include "engine/model/gguf.h"
#include "engine/model/gguf_value.h"

namespace sterna {

struct GgufTensorHeader {
  std::string name;
  GgufPacking packing;
  std::vector<int64_t> shape;  // outermost first, 1 to 4 dimensions; whole blocks in the last

  int64_t bytes() const;
};

// Errors are those of OutputFile.
class GgufWriter {
 public:
  static StatusOr<GgufWriter> Create(const std::string& path,
                                     std::span<const GgufKeyValue> metadata,
                                     std::span<const GgufTensorHeader> tensors);

  // The bytes that come next: of one tensor, all of it or a part.
  Status Write(std::span<const uint8_t> bytes);
  // All tensors must be whole.
  Status Finish();

 private:
  GgufWriter(OutputFile file, std::vector<int64_t> tensor_bytes)
      : file_(std::move(file)), tensor_bytes_(std::move(tensor_bytes)) {}

  OutputFile file_;
  std::vector<int64_t> tensor_bytes_;
  size_t tensor_ = 0;    // that is being written
  int64_t written_ = 0;  // bytes of it
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_WRITER_H_
