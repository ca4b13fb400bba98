#include "engine/model/gguf_writer.h"

#include <array>
#include <string_view>
#include <type_traits>

#include "base/check.h"

namespace sterna {
namespace {

constexpr uint32_t kVersion = 3;
constexpr int64_t kAlignment = 32;  // the format's default, so that no key need say it

template <typename T>
void Append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendText(std::string& out, std::string_view text) {
  Append<uint64_t>(out, text.size());
  out.append(text);
}

template <typename T>
constexpr GgufValueType TypeOf() {
  if constexpr (std::is_same_v<T, uint32_t>) return GgufValueType::kUint32;
  if constexpr (std::is_same_v<T, int32_t>) return GgufValueType::kInt32;
  if constexpr (std::is_same_v<T, float>) return GgufValueType::kFloat32;
  if constexpr (std::is_same_v<T, bool>) return GgufValueType::kBool;
  if constexpr (std::is_same_v<T, std::string>) return GgufValueType::kString;
}

template <typename T>
void AppendElement(std::string& out, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    AppendText(out, value);
  } else {
    Append(out, value);
  }
}

// The type of a value, and the value.
template <typename T>
void AppendValue(std::string& out, const T& value) {
  Append(out, TypeOf<T>());
  AppendElement(out, value);
}

template <typename T>
void AppendValue(std::string& out, const std::vector<T>& array) {
  Append(out, GgufValueType::kArray);
  Append(out, TypeOf<T>());
  Append<uint64_t>(out, array.size());
  for (const T& value : array) AppendElement(out, value);
}

int64_t Padded(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::string HeaderText(std::span<const GgufKeyValue> metadata,
                       std::span<const GgufTensorHeader> tensors) {
  std::string out = "GGUF";
  Append(out, kVersion);
  Append<uint64_t>(out, tensors.size());
  Append<uint64_t>(out, metadata.size());
  for (const auto& [key, value] : metadata) {
    AppendText(out, key);
    std::visit([&out](const auto& v) { AppendValue(out, v); }, value);
  }
  int64_t offset = 0;
  for (const GgufTensorHeader& tensor : tensors) {
    AppendText(out, tensor.name);
    Append<uint32_t>(out, static_cast<uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) {
      Append<uint64_t>(out, static_cast<uint64_t>(*dim));
    }
    Append(out, tensor.packing.type);
    Append<uint64_t>(out, static_cast<uint64_t>(offset));
    offset += Padded(tensor.bytes());
  }
  return out.append(static_cast<size_t>(Padded(static_cast<int64_t>(out.size()))) - out.size(),
                    '\0');
}

}  // namespace

int64_t GgufTensorHeader::bytes() const {
  STERNA_CHECK(!shape.empty() && shape.size() <= 4 && shape.back() % packing.block_elements == 0);
  int64_t elements = 1;
  for (const int64_t dim : shape) elements *= dim;
  return elements / packing.block_elements * packing.block_bytes;
}

StatusOr<GgufWriter> GgufWriter::Create(const std::string& path,
                                        std::span<const GgufKeyValue> metadata,
                                        std::span<const GgufTensorHeader> tensors) {
  STERNA_ASSIGN_OR_RETURN(OutputFile file, OutputFile::Create(path));
  STERNA_RETURN_IF_ERROR(file.Write(HeaderText(metadata, tensors)));
  std::vector<int64_t> tensor_bytes;
  for (const GgufTensorHeader& tensor : tensors) tensor_bytes.push_back(tensor.bytes());
  return GgufWriter(std::move(file), std::move(tensor_bytes));
}

Status GgufWriter::Write(std::span<const uint8_t> bytes) {
  STERNA_CHECK(tensor_ < tensor_bytes_.size());
  const int64_t all = tensor_bytes_[tensor_];
  written_ += static_cast<int64_t>(bytes.size());
  STERNA_CHECK(written_ <= all);
  STERNA_RETURN_IF_ERROR(file_.Write(bytes));
  if (written_ < all) return absl::OkStatus();
  ++tensor_;
  written_ = 0;
  constexpr std::array<uint8_t, kAlignment> kZeros{};
  return file_.Write(std::span(kZeros).first(static_cast<size_t>(Padded(all) - all)));
}

Status GgufWriter::Finish() {
  STERNA_CHECK(tensor_ == tensor_bytes_.size());
  return file_.Commit();
}

}  // namespace sterna
