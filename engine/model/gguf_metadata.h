// The metadata of a GGUF file: named values of thirteen types, arrays of them, and arrays of
// arrays. They are checked when the file is opened and stay in the mapping: a vocabulary of 150,000
// strings takes no memory until somebody asks for it.
// Source: the GGUF specification (ggml, docs/gguf.md).
//
// Use: file.metadata().String("general.architecture") and the like.
// Lifetime: values, and the strings that lookups return, live as long as the file's mapping.
// Thread contract: immutable once read; const access from many threads is fine.
#ifndef STERNA_ENGINE_MODEL_GGUF_METADATA_H_
#define STERNA_ENGINE_MODEL_GGUF_METADATA_H_

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "engine/model/gguf_cursor.h"

namespace sterna {

// As numbered in files.
enum class GgufValueType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};
inline constexpr uint32_t kNumGgufValueTypes = 13;

// One value, whole and well-formed.
struct GgufValue {
  GgufValueType type = GgufValueType::kUint8;
  // Of a scalar its bytes; of a string its text; of an array its elements, one after another as the
  // file has them (a string element with its length, an array element with its type and count).
  std::span<const uint8_t> bytes;
  // Of an array only.
  GgufValueType element_type = GgufValueType::kUint8;
  uint64_t count = 0;

  // "a uint32", "an array of 3 strings", for messages.
  std::string Description() const;
  // The elements of an array, in order; empty when this is no array. 48 bytes each, so for arrays
  // of arrays and other odd ones: GgufMetadata has leaner ways to the common ones.
  std::vector<GgufValue> Elements() const;
};

class GgufMetadata {
 public:
  GgufMetadata() = default;
  // Reads `count` keys and values from where `cursor` stands. DataLoss, with the key, for what is
  // truncated, of an unknown type, nested too deep, no boolean, without a name or there twice.
  // `file` is put in front of the messages of lookups, not of Read's.
  static StatusOr<GgufMetadata> Read(GgufCursor& cursor, uint64_t count, std::string file);

  const std::string& file() const { return file_; }  // as given to Read
  const std::map<std::string_view, GgufValue>& values() const { return values_; }
  // Null when there is no such key.
  const GgufValue* Find(std::string_view key) const;

  // Each is NotFound when there is no such key, and InvalidArgument, with the key, what is wanted
  // and what is there, when the value is of another type or does not fit.
  // Integers are taken from any of the eight integer types: writers differ in the width they use.
  StatusOr<int64_t> Integer(std::string_view key) const;
  StatusOr<double> Float(std::string_view key) const;  // float32 or float64
  StatusOr<bool> Bool(std::string_view key) const;
  StatusOr<std::string_view> String(std::string_view key) const;
  StatusOr<std::vector<int64_t>> Integers(std::string_view key) const;
  StatusOr<std::vector<double>> Floats(std::string_view key) const;
  StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;

 private:
  StatusOr<const GgufValue*> Get(std::string_view key, const char* wanted) const;
  Status WrongType(std::string_view key, const char* wanted, const GgufValue& found) const;
  StatusOr<const GgufValue*> GetArray(std::string_view key, const char* wanted,
                                      bool (*is_wanted)(GgufValueType)) const;

  std::string file_;
  std::map<std::string_view, GgufValue> values_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_GGUF_METADATA_H_
