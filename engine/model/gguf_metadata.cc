#include "engine/model/gguf_metadata.h"

#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/model/json_text.h"

namespace sterna {
namespace {

// Known files nest one level at most. The bound keeps the reader's own recursion harmless.
constexpr int kMaxArrayDepth = 8;
constexpr uint64_t kMaxKeyBytes = 65535;  // the format's own limit

struct TypeInfo {
  const char* name;
  uint64_t bytes;      // of a value; 0 where they differ
  uint64_t min_bytes;  // the fewest that a value can have in a file
};
constexpr TypeInfo kTypes[] = {
    {"uint8", 1, 1},  {"int8", 1, 1},    {"uint16", 2, 2},  {"int16", 2, 2},  {"uint32", 4, 4},
    {"int32", 4, 4},  {"float32", 4, 4}, {"bool", 1, 1},    {"string", 0, 8}, {"array", 0, 12},
    {"uint64", 8, 8}, {"int64", 8, 8},   {"float64", 8, 8},
};
static_assert(std::size(kTypes) == kNumGgufValueTypes);

const TypeInfo& InfoOf(GgufValueType type) { return kTypes[static_cast<uint32_t>(type)]; }

template <typename T>
T Load(std::span<const uint8_t> bytes) {
  STERNA_CHECK(bytes.size() == sizeof(T));
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

bool IsInteger(GgufValueType type) {
  return type <= GgufValueType::kInt32 || type == GgufValueType::kUint64 ||
         type == GgufValueType::kInt64;
}

bool IsFloat(GgufValueType type) {
  return type == GgufValueType::kFloat32 || type == GgufValueType::kFloat64;
}

bool IsString(GgufValueType type) { return type == GgufValueType::kString; }

// Nullopt for what int64_t cannot hold.
std::optional<int64_t> LoadInteger(GgufValueType type, std::span<const uint8_t> bytes) {
  switch (type) {
    case GgufValueType::kUint8:
      return Load<uint8_t>(bytes);
    case GgufValueType::kInt8:
      return Load<int8_t>(bytes);
    case GgufValueType::kUint16:
      return Load<uint16_t>(bytes);
    case GgufValueType::kInt16:
      return Load<int16_t>(bytes);
    case GgufValueType::kUint32:
      return Load<uint32_t>(bytes);
    case GgufValueType::kInt32:
      return Load<int32_t>(bytes);
    case GgufValueType::kInt64:
      return Load<int64_t>(bytes);
    default: {
      STERNA_CHECK(type == GgufValueType::kUint64);
      const auto value = Load<uint64_t>(bytes);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
  }
}

double LoadFloat(GgufValueType type, std::span<const uint8_t> bytes) {
  return type == GgufValueType::kFloat32 ? Load<float>(bytes) : Load<double>(bytes);
}

StatusOr<GgufValueType> ReadType(GgufCursor& cursor, const std::string& what) {
  STERNA_ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
  if (type >= kNumGgufValueTypes) {
    return absl::DataLossError(absl::StrCat(what, " has value type ", type,
                                            ", but the GGUF format knows 0 to ",
                                            kNumGgufValueTypes - 1));
  }
  return static_cast<GgufValueType>(type);
}

Status CheckBools(std::span<const uint8_t> bytes, const std::string& what) {
  for (const uint8_t byte : bytes) {
    if (byte > 1) {
      return absl::DataLossError(
          absl::StrCat(what, " is a bool of value ", byte, ", where the format has 0 or 1"));
    }
  }
  return absl::OkStatus();
}

// A value of `type` from where `cursor` stands, checked to its last byte. An array is walked over
// and not copied: `bytes` of the result is what was walked.
StatusOr<GgufValue> ReadValue(GgufCursor& cursor, GgufValueType type, const std::string& what,
                              int depth) {
  GgufValue value{.type = type, .bytes = {}};
  if (type == GgufValueType::kString) {
    STERNA_ASSIGN_OR_RETURN(const std::string_view text, cursor.ReadString(what));
    value.bytes = {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
    return value;
  }
  if (type != GgufValueType::kArray) {
    STERNA_ASSIGN_OR_RETURN(value.bytes, cursor.Take(InfoOf(type).bytes, what));
    if (type == GgufValueType::kBool) STERNA_RETURN_IF_ERROR(CheckBools(value.bytes, what));
    return value;
  }
  if (depth == kMaxArrayDepth) {
    return absl::DataLossError(absl::StrCat(what, " nests arrays more than ", kMaxArrayDepth,
                                            " deep, which no model's metadata does"));
  }
  STERNA_ASSIGN_OR_RETURN(value.element_type, ReadType(cursor, what));
  STERNA_ASSIGN_OR_RETURN(value.count, cursor.Read<uint64_t>(what));
  const TypeInfo& element = InfoOf(value.element_type);
  if (value.count > cursor.remaining() / element.min_bytes) {
    return absl::DataLossError(absl::StrCat(
        what, " is an array of ", value.count, " ", element.name, " values, but the file has only ",
        cursor.remaining(), " bytes left: it is truncated or corrupt"));
  }
  if (element.bytes != 0) {
    STERNA_ASSIGN_OR_RETURN(value.bytes, cursor.Take(value.count * element.bytes, what));
    if (value.element_type == GgufValueType::kBool) {
      STERNA_RETURN_IF_ERROR(CheckBools(value.bytes, what));
    }
    return value;
  }
  GgufCursor behind = cursor;
  const uint64_t begin = cursor.position();
  for (uint64_t i = 0; i < value.count; ++i) {
    STERNA_RETURN_IF_ERROR(ReadValue(cursor, value.element_type, what, depth + 1).status());
  }
  STERNA_ASSIGN_OR_RETURN(value.bytes, behind.Take(cursor.position() - begin, what));
  return value;
}

}  // namespace

std::string GgufValue::Description() const {
  if (type == GgufValueType::kArray) {
    return absl::StrCat("an array of ", count, " ", InfoOf(element_type).name, " values");
  }
  return absl::StrCat(type == GgufValueType::kInt8 || type == GgufValueType::kInt16 ||
                              type == GgufValueType::kInt32 || type == GgufValueType::kInt64
                          ? "an "
                          : "a ",
                      InfoOf(type).name);
}

std::vector<GgufValue> GgufValue::Elements() const {
  std::vector<GgufValue> elements;
  if (type != GgufValueType::kArray) return elements;
  GgufCursor cursor(bytes);
  for (uint64_t i = 0; i < count; ++i) {
    StatusOr<GgufValue> element = ReadValue(cursor, element_type, "element", 0);
    STERNA_CHECK(element.ok());  // it was when the file was read
    elements.push_back(*element);
  }
  return elements;
}

StatusOr<GgufMetadata> GgufMetadata::Read(GgufCursor& cursor, uint64_t count, std::string file) {
  GgufMetadata metadata;
  metadata.file_ = std::move(file);
  for (uint64_t i = 0; i < count; ++i) {
    STERNA_ASSIGN_OR_RETURN(const std::string_view key,
                            cursor.ReadString(absl::StrCat("the name of metadata key ", i)));
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return absl::DataLossError(absl::StrCat("metadata key ", i, " has a name of ", key.size(),
                                              " bytes; the format allows 1 to ", kMaxKeyBytes));
    }
    const std::string what = absl::StrCat("metadata '", Shown(key), "'");
    STERNA_ASSIGN_OR_RETURN(const GgufValueType type, ReadType(cursor, what));
    STERNA_ASSIGN_OR_RETURN(const GgufValue value, ReadValue(cursor, type, what, 0));
    if (!metadata.values_.emplace(key, value).second) {
      return absl::DataLossError(absl::StrCat(what, " appears twice"));
    }
  }
  return metadata;
}

const GgufValue* GgufMetadata::Find(std::string_view key) const {
  const auto it = values_.find(key);
  return it == values_.end() ? nullptr : &it->second;
}

StatusOr<const GgufValue*> GgufMetadata::Get(std::string_view key, const char* wanted) const {
  const GgufValue* value = Find(key);
  if (value != nullptr) return value;
  return absl::NotFoundError(
      absl::StrCat(file_, ": there is no metadata '", Shown(key), "', which should be ", wanted));
}

Status GgufMetadata::WrongType(std::string_view key, const char* wanted,
                               const GgufValue& found) const {
  return absl::InvalidArgumentError(absl::StrCat(file_, ": metadata '", Shown(key), "' is ",
                                                 found.Description(), ", but should be ", wanted));
}

StatusOr<const GgufValue*> GgufMetadata::GetArray(std::string_view key, const char* wanted,
                                                  bool (*is_wanted)(GgufValueType)) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, wanted));
  if (value->type != GgufValueType::kArray || !is_wanted(value->element_type)) {
    return WrongType(key, wanted, *value);
  }
  return value;
}

StatusOr<int64_t> GgufMetadata::Integer(std::string_view key) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "an integer"));
  if (!IsInteger(value->type)) return WrongType(key, "an integer", *value);
  const std::optional<int64_t> integer = LoadInteger(value->type, value->bytes);
  if (!integer.has_value()) return WrongType(key, "an integer below 2^63", *value);
  return *integer;
}

StatusOr<double> GgufMetadata::Float(std::string_view key) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "a float"));
  if (!IsFloat(value->type)) return WrongType(key, "a float", *value);
  return LoadFloat(value->type, value->bytes);
}

StatusOr<bool> GgufMetadata::Bool(std::string_view key) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "a bool"));
  if (value->type != GgufValueType::kBool) return WrongType(key, "a bool", *value);
  return value->bytes[0] != 0;
}

StatusOr<std::string_view> GgufMetadata::String(std::string_view key) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, Get(key, "a string"));
  if (value->type != GgufValueType::kString) return WrongType(key, "a string", *value);
  return std::string_view(reinterpret_cast<const char*>(value->bytes.data()), value->bytes.size());
}

StatusOr<std::vector<int64_t>> GgufMetadata::Integers(std::string_view key) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, GetArray(key, "an array of integers", IsInteger));
  const uint64_t bytes = InfoOf(value->element_type).bytes;
  std::vector<int64_t> integers(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto integer = LoadInteger(value->element_type, value->bytes.subspan(i * bytes, bytes));
    if (!integer.has_value()) return WrongType(key, "an array of integers below 2^63", *value);
    integers[i] = *integer;
  }
  return integers;
}

StatusOr<std::vector<double>> GgufMetadata::Floats(std::string_view key) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, GetArray(key, "an array of floats", IsFloat));
  const uint64_t bytes = InfoOf(value->element_type).bytes;
  std::vector<double> floats(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    floats[i] = LoadFloat(value->element_type, value->bytes.subspan(i * bytes, bytes));
  }
  return floats;
}

StatusOr<std::vector<std::string_view>> GgufMetadata::Strings(std::string_view key) const {
  STERNA_ASSIGN_OR_RETURN(const GgufValue* value, GetArray(key, "an array of strings", IsString));
  std::vector<std::string_view> strings;
  strings.reserve(value->count);
  GgufCursor cursor(value->bytes);
  for (uint64_t i = 0; i < value->count; ++i) {
    StatusOr<std::string_view> text = cursor.ReadString("element");
    STERNA_CHECK(text.ok());  // it was when the file was read
    strings.push_back(*text);
  }
  return strings;
}

}  // namespace sterna
