#include "engine/model/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/model/gguf_cursor.h"
#include "engine/model/gguf_tensor_types.h"
#include "engine/model/json_text.h"

namespace sterna {
namespace {

constexpr char kMagic[] = "GGUF";
constexpr uint64_t kMagicBytes = sizeof(kMagic) - 1;
constexpr int64_t kDefaultAlignment = 32;
constexpr char kAlignmentKey[] = "general.alignment";
constexpr char kArchitectureKey[] = "general.architecture";
constexpr uint32_t kMaxRank = 4;
constexpr uint64_t kMaxNameBytes = 64;  // the format's own limit
// Of tensors and of keys, where models have hundreds: bounds the memory that a header takes.
constexpr uint64_t kMaxCount = 65'536;
// The fewest bytes that one of them can have: what bounds their number by the file's size.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorInfoBytes = 8 + 1 + 4 + 8 + 4 + 8;

struct Header {
  uint32_t version;
  uint64_t num_tensors;
  uint64_t num_keys;
};

Status CheckCount(uint64_t count, uint64_t min_bytes, const std::string& what,
                  const GgufCursor& cursor) {
  if (count > cursor.remaining() / min_bytes) {
    return absl::DataLossError(
        absl::StrCat("its header says it has ", count, " ", what, ", which take at least ",
                     min_bytes, " bytes each, but the file has only ", cursor.remaining(),
                     " bytes left: it is truncated or corrupt"));
  }
  if (count > kMaxCount) {
    return absl::DataLossError(absl::StrCat("its header says it has ", count, " ", what,
                                            ", where at most ", kMaxCount, " are read"));
  }
  return absl::OkStatus();
}

StatusOr<Header> ReadHeader(GgufCursor& cursor) {
  STERNA_ASSIGN_OR_RETURN(const auto magic, cursor.Take(kMagicBytes, "the magic 'GGUF'"));
  const std::string_view begins(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (begins != kMagic) {
    return absl::DataLossError(absl::StrCat("it begins with '", Shown(begins), "' instead of '",
                                            kMagic, "': it is not a GGUF file"));
  }
  Header header{};
  STERNA_ASSIGN_OR_RETURN(header.version, cursor.Read<uint32_t>("the version"));
  if (header.version != 0 && (header.version & 0xffff) == 0) {
    return absl::UnimplementedError(
        "it is a big-endian GGUF file; only little-endian ones, which nearly all are, are read");
  }
  if (header.version != 2 && header.version != 3) {
    return absl::UnimplementedError(
        absl::StrCat("it is GGUF of version ", header.version, "; versions 2 and 3 are read",
                     header.version == 1 ? ": convert the model again with current tools" : ""));
  }
  STERNA_ASSIGN_OR_RETURN(header.num_tensors, cursor.Read<uint64_t>("the number of tensors"));
  STERNA_ASSIGN_OR_RETURN(header.num_keys, cursor.Read<uint64_t>("the number of metadata keys"));
  STERNA_RETURN_IF_ERROR(CheckCount(header.num_keys, kMinKeyBytes, "metadata keys", cursor));
  STERNA_RETURN_IF_ERROR(CheckCount(header.num_tensors, kMinTensorInfoBytes, "tensors", cursor));
  return header;
}

StatusOr<int64_t> ReadAlignment(const GgufMetadata& metadata) {
  const GgufValue* value = metadata.Find(kAlignmentKey);
  if (value == nullptr) return kDefaultAlignment;
  uint32_t alignment = 0;
  if (value->type == GgufValueType::kUint32) std::memcpy(&alignment, value->bytes.data(), 4);
  if (!std::has_single_bit(alignment)) {
    return absl::DataLossError(absl::StrCat(
        "metadata '", kAlignmentKey, "' is ", value->Description(),
        value->type == GgufValueType::kUint32 ? absl::StrCat(" of value ", alignment) : "",
        ", but must be a uint32 that is a power of two"));
  }
  return alignment;
}

// Where a tensor of the file begins, from the begin of the data section.
struct Placed {
  GgufTensor* tensor;
  uint64_t offset;
};

// The dimensions, innermost first, of the tensor info that `cursor` stands in.
Status ReadShape(GgufCursor& cursor, const std::string& what, GgufTensor& tensor) {
  STERNA_ASSIGN_OR_RETURN(const uint32_t rank, cursor.Read<uint32_t>(what));
  if (rank < 1 || rank > kMaxRank) {
    return absl::DataLossError(
        absl::StrCat(what, " has ", rank, " dimensions; 1 to ", kMaxRank, " are possible"));
  }
  int64_t elements = 1;
  for (uint32_t i = 0; i < rank; ++i) {
    STERNA_ASSIGN_OR_RETURN(const uint64_t dim, cursor.Read<uint64_t>(what));
    if (dim == 0 || __builtin_mul_overflow(elements, dim, &elements)) {
      return absl::DataLossError(absl::StrCat(what, " has an absurd dimension ", dim,
                                              ": each is at least 1 and their product below 2^63"));
    }
    tensor.shape.push_back(static_cast<int64_t>(dim));
  }
  tensor.cols = tensor.shape[0];
  tensor.rows = elements / tensor.cols;
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  return absl::OkStatus();
}

// Whether the types may be as BitNet's fork of llama.cpp numbers them: so its architectures begin.
bool IsBitNets(const GgufMetadata& metadata) {
  const auto architecture = metadata.String(kArchitectureKey);
  return architecture.ok() && architecture->starts_with("bitnet");
}

Status SetType(uint32_t number, bool bitnets, const std::string& what, GgufTensor& tensor) {
  if (number == kBitNetTl1 || (number == kBitNetTl2 && bitnets)) {
    return absl::UnimplementedError(absl::StrCat(
        what, " has type ", number, ", which is ", number == kBitNetTl1 ? "TL1" : "TL2",
        " of BitNet's fork of llama.cpp, packed for one build's kernels in a way that the file ",
        "does not tell: use the model's file of type I2_S, which its setup_env.py makes with ",
        "'-q i2_s'"));
  }
  const GgufTypeInfo* type = FindGgufType(number);
  if (type == nullptr) {
    return absl::DataLossError(
        absl::StrCat(what, " has type ", number, ", which is no type of the GGUF format"));
  }
  tensor.type = static_cast<GgufTensorType>(number);
  tensor.type_name = type->name;
  tensor.block_elements = type->block_elements;
  tensor.block_bytes = type->block_bytes;
  const bool runs_on = tensor.type == GgufTensorType::kI2s;
  const int64_t packed_together = runs_on ? tensor.rows * tensor.cols : tensor.cols;
  if (packed_together % type->block_elements != 0) {
    return absl::DataLossError(absl::StrCat(
        what, " has type ", type->name, " and shape ", tensor.ShapeString(), ", but its ",
        runs_on ? "elements" : "columns", " must be a multiple of ", type->block_elements));
  }
  return absl::OkStatus();
}

// Reads what the header says of tensor `index` into `tensor`, and returns its offset.
StatusOr<uint64_t> ReadTensorInfo(GgufCursor& cursor, uint64_t index, int64_t alignment,
                                  bool bitnets, GgufTensor& tensor) {
  STERNA_ASSIGN_OR_RETURN(const std::string_view name,
                          cursor.ReadString(absl::StrCat("the name of tensor ", index)));
  if (name.empty() || name.size() > kMaxNameBytes) {
    return absl::DataLossError(absl::StrCat("tensor ", index, " has a name of ", name.size(),
                                            " bytes; the format allows 1 to ", kMaxNameBytes));
  }
  const std::string what = absl::StrCat("tensor '", Shown(name), "'");
  tensor.name = std::string(name);
  STERNA_RETURN_IF_ERROR(ReadShape(cursor, what, tensor));
  STERNA_ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
  STERNA_RETURN_IF_ERROR(SetType(type, bitnets, what, tensor));
  STERNA_ASSIGN_OR_RETURN(const uint64_t offset, cursor.Read<uint64_t>(what));
  if (offset % static_cast<uint64_t>(alignment) != 0) {
    return absl::DataLossError(absl::StrCat(what, " begins at byte ", offset,
                                            " of the data, which is no multiple of the file's ",
                                            "alignment of ", alignment, " bytes"));
  }
  return offset;
}

// Bytes that `tensor` takes when `block_elements` of it take `block_bytes`; nullopt when that
// overflows.
std::optional<uint64_t> TensorBytes(const GgufTensor& tensor, int64_t block_elements,
                                    int64_t block_bytes) {
  int64_t bytes = 0;
  const int64_t blocks = tensor.rows * tensor.cols / block_elements;
  if (__builtin_mul_overflow(blocks, block_bytes, &bytes)) return std::nullopt;
  const int64_t tail = tensor.type == GgufTensorType::kI2s ? kI2sTailBytes : 0;
  if (__builtin_add_overflow(bytes, tail, &bytes)) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

uint64_t RoundUpTo(uint64_t bytes, int64_t alignment) {
  const auto mask = static_cast<uint64_t>(alignment) - 1;
  return (bytes + mask) & ~mask;
}

// Bytes from the begin of `tensors`[i], in order of offsets, to that of the next, or to the end.
uint64_t Space(const std::vector<Placed>& tensors, size_t i, uint64_t data_bytes) {
  return (i + 1 < tensors.size() ? tensors[i + 1].offset : data_bytes) - tensors[i].offset;
}

// Whether `bytes` and their padding fill `space`; the file may end before the padding does.
bool Fills(std::optional<uint64_t> bytes, uint64_t space, bool last, int64_t alignment) {
  if (!bytes.has_value() || *bytes > space) return false;
  const uint64_t padded = RoundUpTo(*bytes, alignment);
  return last ? space <= padded : space == padded;
}

// Two layouts go by the number of Q2_0, with groups of 64 and of 128, and no field tells which. The
// space that the tensors have does, unless all are tiny: then it is the main line's, of 64. The
// last tensor is asked where the others do not tell: what follows it may be wrong.
void ChooseQ2_0Groups(const std::vector<Placed>& tensors, uint64_t data_bytes, int64_t alignment) {
  bool fits_64 = true;
  bool fits_128 = true;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& tensor = *tensors[i].tensor;
    if (tensor.type != GgufTensorType::kQ2_0) continue;
    const uint64_t space = Space(tensors, i, data_bytes);
    const bool last = i + 1 == tensors.size();
    if (last && fits_64 != fits_128) break;
    fits_64 = fits_64 && Fills(TensorBytes(tensor, tensor.block_elements, tensor.block_bytes),
                               space, last, alignment);
    fits_128 = fits_128 && tensor.cols % kForkQ2_0GroupElements == 0 &&
               Fills(TensorBytes(tensor, kForkQ2_0GroupElements, kForkQ2_0GroupBytes), space, last,
                     alignment);
  }
  if (fits_64 || !fits_128) return;
  for (const Placed& placed : tensors) {
    if (placed.tensor->type != GgufTensorType::kQ2_0) continue;
    placed.tensor->block_elements = kForkQ2_0GroupElements;
    placed.tensor->block_bytes = kForkQ2_0GroupBytes;
  }
}

// What is wrong with a tensor that takes `bytes` and has `space` to `next`, or to the end of the
// file when that is null.
Status WrongSpace(const GgufTensor& tensor, std::optional<uint64_t> bytes, uint64_t space,
                  const GgufTensor* next) {
  const bool too_small = !bytes.has_value() || *bytes > space;
  const std::string group =
      tensor.type == GgufTensorType::kQ2_0
          ? absl::StrCat(" (in groups of ", tensor.block_elements, ", and no other fits either)")
          : "";
  return absl::DataLossError(absl::StrCat(
      "tensor '", Shown(tensor.name), "' has type ", tensor.type_name, " and shape ",
      tensor.ShapeString(), ", which takes ", bytes ? absl::StrCat(*bytes) : "more than 2^63",
      " bytes", group, ", but has ", space, " bytes to ",
      next == nullptr ? "the end of the file" : absl::StrCat("tensor '", Shown(next->name), "'"),
      !too_small        ? ": there are bytes of no tensor in between"
      : next == nullptr ? ": the file is truncated or corrupt"
                        : ": they overlap"));
}

// Gives every tensor its bytes. In order of their offsets, tensors follow one another, padded to
// the alignment, to the end of the file.
Status PlaceTensors(std::vector<Placed>& tensors, std::span<const uint8_t> data,
                    int64_t alignment) {
  if (tensors.empty()) return absl::OkStatus();
  std::stable_sort(tensors.begin(), tensors.end(),
                   [](const Placed& a, const Placed& b) { return a.offset < b.offset; });
  const Placed& first = tensors.front();
  if (first.offset != 0) {
    return absl::DataLossError(absl::StrCat("tensor '", Shown(first.tensor->name),
                                            "' is the first of the data, but begins at byte ",
                                            first.offset, " instead of 0"));
  }
  const Placed& end = tensors.back();
  if (end.offset > data.size()) {
    return absl::DataLossError(absl::StrCat(
        "tensor '", Shown(end.tensor->name), "' begins at byte ", end.offset,
        " of a data section of ", data.size(), " bytes: the file is truncated or corrupt"));
  }
  ChooseQ2_0Groups(tensors, data.size(), alignment);
  for (size_t i = 0; i < tensors.size(); ++i) {
    GgufTensor& tensor = *tensors[i].tensor;
    const bool last = i + 1 == tensors.size();
    const uint64_t space = Space(tensors, i, data.size());
    const auto bytes = TensorBytes(tensor, tensor.block_elements, tensor.block_bytes);
    if (!Fills(bytes, space, last, alignment)) {
      return WrongSpace(tensor, bytes, space, last ? nullptr : tensors[i + 1].tensor);
    }
    tensor.bytes = data.subspan(tensors[i].offset, *bytes);
  }
  return absl::OkStatus();
}

}  // namespace

std::string GgufTensor::ShapeString() const {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

std::string GgufTensor::Where() const {
  return absl::StrCat(file, ": tensor '", Shown(name), "' ");
}

StatusOr<GgufFile> GgufFile::Open(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  GgufFile file(std::move(mapped));
  STERNA_RETURN_IF_ERROR(Annotate(file.Read(), path));
  return file;
}

Status GgufFile::Read() {
  const std::span<const uint8_t> bytes = file_.bytes();
  GgufCursor cursor(bytes);
  STERNA_ASSIGN_OR_RETURN(const Header header, ReadHeader(cursor));
  version_ = header.version;
  STERNA_ASSIGN_OR_RETURN(metadata_, GgufMetadata::Read(cursor, header.num_keys, path()));
  STERNA_ASSIGN_OR_RETURN(alignment_, ReadAlignment(metadata_));
  const bool bitnets = IsBitNets(metadata_);
  std::vector<Placed> placed;
  for (uint64_t i = 0; i < header.num_tensors; ++i) {
    GgufTensor tensor;
    tensor.file = path();
    STERNA_ASSIGN_OR_RETURN(const uint64_t offset,
                            ReadTensorInfo(cursor, i, alignment_, bitnets, tensor));
    const std::string name = tensor.name;
    const auto [it, is_new] = tensors_.emplace(name, std::move(tensor));
    if (!is_new) {
      return absl::DataLossError(absl::StrCat("tensor '", Shown(name), "' appears twice"));
    }
    placed.push_back({&it->second, offset});
  }
  // A file without tensors (a vocabulary) may end before the data section would begin.
  const uint64_t begin = std::min<uint64_t>(RoundUpTo(cursor.position(), alignment_), bytes.size());
  return PlaceTensors(placed, bytes.subspan(begin), alignment_);
}

const GgufTensor* GgufFile::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace sterna
