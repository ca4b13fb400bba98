// Writes the safetensors files of a model directory: model.safetensors, or, where that would be
// more than a shard may have, model-00001-of-0000N.safetensors and so on with
// model.safetensors.index.json. Headers are written at once, then tensors' bytes as they come, so
// that no more than one of them need be in memory.
// Source: the safetensors format (huggingface/safetensors, README.md); the index as Transformers
// writes it.
//
// Use: Create with all tensors; Write the bytes of each in that order, in pieces of any size;
// Finish. Without Finish none of the files appears.
// Thread contract: for one thread.
#ifndef STERNA_ENGINE_MODEL_SAFETENSORS_WRITER_H_
#define STERNA_ENGINE_MODEL_SAFETENSORS_WRITER_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/output_file.h"
#include "base/status.h"
#include "engine/model/safetensors.h"

namespace sterna {

struct SafetensorsHeader {
  std::string name;
  TensorType type = TensorType::kF32;  // not kOther
  std::vector<int64_t> shape;

  int64_t bytes() const;
};

// What Transformers' own default was until files of 50 GB became usual; hosts and older file
// systems take it.
inline constexpr int64_t kMaxShardBytes = 5'000'000'000;

// Errors are those of OutputFile.
class SafetensorsWriter {
 public:
  // Into the directory `model_dir`, which exists. `metadata`: text for people, in the header of
  // every file. A tensor larger than `max_shard_bytes` has a shard of its own.
  static StatusOr<SafetensorsWriter> Create(const std::string& model_dir,
                                            std::vector<SafetensorsHeader> tensors,
                                            const std::map<std::string, std::string>& metadata,
                                            int64_t max_shard_bytes = kMaxShardBytes);

  // The bytes that come next: of one tensor, all of it or a part.
  Status Write(std::span<const uint8_t> bytes);
  // All tensors must be whole.
  Status Finish();

 private:
  struct Shard {
    OutputFile file;
    size_t end;  // the first tensor that is of a later one
  };

  SafetensorsWriter(std::string model_dir, std::vector<SafetensorsHeader> tensors)
      : model_dir_(std::move(model_dir)), tensors_(std::move(tensors)) {}
  Status WriteIndex() const;

  std::string model_dir_;
  std::vector<SafetensorsHeader> tensors_;
  std::vector<Shard> shards_;
  size_t shard_ = 0;     // that is being written
  size_t tensor_ = 0;    // that is being written
  int64_t written_ = 0;  // bytes of it
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_SAFETENSORS_WRITER_H_
