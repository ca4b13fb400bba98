#include "engine/model/safetensors_writer.h"

#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "nlohmann/json.hpp"

namespace sterna {
namespace {

// Keys stay in the order of the tensors' bytes.
using Json = nlohmann::ordered_json;

const char* TypeName(TensorType type) {
  switch (type) {
    case TensorType::kBf16:
      return "BF16";
    case TensorType::kF16:
      return "F16";
    case TensorType::kF32:
      return "F32";
    case TensorType::kU8:
      return "U8";
    case TensorType::kOther:
      break;
  }
  STERNA_CHECK(false);
  return "";
}

int64_t ElementBytes(TensorType type) {
  if (type == TensorType::kU8) return 1;
  return type == TensorType::kF32 ? 4 : 2;
}

// The length of the header and the header, padded so that the bytes of tensors begin at a multiple
// of 8.
std::string HeaderText(std::span<const SafetensorsHeader> tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  // Some readers will not take a file that does not say what wrote its tensors.
  header["__metadata__"]["format"] = "pt";
  for (const auto& [key, value] : metadata) header["__metadata__"][key] = value;
  int64_t offset = 0;
  for (const SafetensorsHeader& tensor : tensors) {
    const int64_t end = offset + tensor.bytes();
    header[tensor.name] = {
        {"dtype", TypeName(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + text;
}

// The first tensor behind the shard that begins with tensor `begin`.
size_t EndOfShard(std::span<const SafetensorsHeader> tensors, size_t begin, int64_t max_bytes) {
  int64_t bytes = 0;
  size_t end = begin;
  while (end < tensors.size() && (end == begin || bytes + tensors[end].bytes() <= max_bytes)) {
    bytes += tensors[end++].bytes();
  }
  return end;
}

}  // namespace

int64_t SafetensorsHeader::bytes() const {
  int64_t elements = 1;
  for (const int64_t dim : shape) elements *= dim;
  return elements * ElementBytes(type);
}

StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& model_dir, std::vector<SafetensorsHeader> tensors,
    const std::map<std::string, std::string>& metadata, int64_t max_shard_bytes) {
  STERNA_CHECK(!tensors.empty());
  SafetensorsWriter writer(model_dir, std::move(tensors));
  const std::span<const SafetensorsHeader> all = writer.tensors_;
  std::vector<size_t> begins;
  for (size_t i = 0; i < all.size(); i = EndOfShard(all, i, max_shard_bytes)) begins.push_back(i);
  for (size_t i = 0; i < begins.size(); ++i) {
    const std::string name = begins.size() == 1 ? "model.safetensors"
                                                : absl::StrFormat("model-%05d-of-%05d.safetensors",
                                                                  i + 1, begins.size());
    STERNA_ASSIGN_OR_RETURN(OutputFile file,
                            OutputFile::Create(absl::StrCat(model_dir, "/", name)));
    const size_t end = i + 1 < begins.size() ? begins[i + 1] : all.size();
    STERNA_RETURN_IF_ERROR(
        file.Write(HeaderText(all.subspan(begins[i], end - begins[i]), metadata)));
    writer.shards_.push_back({std::move(file), end});
  }
  return writer;
}

Status SafetensorsWriter::Write(std::span<const uint8_t> bytes) {
  STERNA_CHECK(tensor_ < tensors_.size());
  const int64_t all = tensors_[tensor_].bytes();
  written_ += static_cast<int64_t>(bytes.size());
  STERNA_CHECK(written_ <= all);
  STERNA_RETURN_IF_ERROR(shards_[shard_].file.Write(bytes));
  if (written_ < all) return absl::OkStatus();
  written_ = 0;
  ++tensor_;
  if (tensor_ == shards_[shard_].end) ++shard_;
  return absl::OkStatus();
}

Status SafetensorsWriter::WriteIndex() const {
  Json index;
  int64_t total = 0;
  size_t shard = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (i == shards_[shard].end) ++shard;
    total += tensors_[i].bytes();
    index["weight_map"][tensors_[i].name] =
        std::filesystem::path(shards_[shard].file.path()).filename().string();
  }
  index["metadata"]["total_size"] = total;
  STERNA_ASSIGN_OR_RETURN(OutputFile file,
                          OutputFile::Create(model_dir_ + "/model.safetensors.index.json"));
  STERNA_RETURN_IF_ERROR(file.Write(index.dump(2) + "\n"));
  return file.Commit();
}

Status SafetensorsWriter::Finish() {
  STERNA_CHECK(tensor_ == tensors_.size());
  for (Shard& shard : shards_) STERNA_RETURN_IF_ERROR(shard.file.Commit());
  return shards_.size() == 1 ? absl::OkStatus() : WriteIndex();
}

}  // namespace sterna
