#include "engine/text/sentencepiece_proto.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

static_assert(std::endian::native == std::endian::little, "floats are copied as they lie");

// Field numbers, by message.
enum ModelField : uint32_t { kPieces = 1, kTrainer = 2, kNormalizer = 3 };
enum PieceField : uint32_t { kText = 1, kScore = 2, kType = 3 };
enum TrainerField : uint32_t { kModelType = 3, kSpaceIsSuffix = 24, kByteFallback = 35 };
enum NormalizerField : uint32_t {
  kCharsmap = 2,
  kAddDummyPrefix = 3,
  kRemoveExtraWhitespace = 4,
  kEscapeWhitespace = 5,
};

// How a field's value is stored: the low three bits of its tag.
enum WireType : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void AppendVarint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}

void AppendTag(uint32_t field, WireType type, std::string* out) {
  AppendVarint(field << 3 | type, out);
}

void AppendInteger(uint32_t field, uint64_t value, std::string* out) {
  AppendTag(field, kVarint, out);
  AppendVarint(value, out);
}

void AppendBytes(uint32_t field, std::string_view bytes, std::string* out) {
  AppendTag(field, kBytes, out);
  AppendVarint(bytes.size(), out);
  out->append(bytes);
}

void AppendFloat(uint32_t field, float value, std::string* out) {
  AppendTag(field, kFixed32, out);
  char bytes[sizeof(value)];
  std::memcpy(bytes, &value, sizeof(value));
  out->append(bytes, sizeof(value));
}

struct Field {
  uint32_t number = 0;
  WireType type = kVarint;
  uint64_t integer = 0;    // of a varint
  std::string_view bytes;  // of the others

  bool Is(uint32_t wanted, WireType wanted_type) const {
    return number == wanted && type == wanted_type;
  }
};

// Walks over the fields of one message, which lies at `base` in the whole.
class FieldReader {
 public:
  FieldReader(std::string_view message, size_t base) : message_(message), base_(base) {}

  bool done() const { return position_ == message_.size(); }
  // Where the bytes of `field`, read last, begin in the whole.
  size_t BaseOf(const Field& field) const { return base_ + position_ - field.bytes.size(); }

  StatusOr<Field> Next() {
    STERNA_ASSIGN_OR_RETURN(const uint64_t tag, Varint());
    Field field;
    field.number = static_cast<uint32_t>(tag >> 3);
    field.type = static_cast<WireType>(tag & 7);
    uint64_t size = 0;
    switch (field.type) {
      case kVarint: {
        STERNA_ASSIGN_OR_RETURN(field.integer, Varint());
        return field;
      }
      case kFixed64:
        size = 8;
        break;
      case kFixed32:
        size = 4;
        break;
      case kBytes: {
        STERNA_ASSIGN_OR_RETURN(size, Varint());
        break;
      }
      default:
        return Error(absl::StrCat("wire type ", static_cast<uint32_t>(field.type),
                                  ", which protocol buffers do not have"));
    }
    if (size > message_.size() - position_) return Error("a field that goes beyond the end");
    field.bytes = message_.substr(position_, size);
    position_ += size;
    return field;
  }

 private:
  StatusOr<uint64_t> Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (done()) return Error("a number that goes beyond the end");
      const auto byte = static_cast<uint8_t>(message_[position_++]);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return Error("a number of more than ten bytes");
  }

  Status Error(const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat("byte ", base_ + position_, " has ", what));
  }

  std::string_view message_;
  size_t base_;
  size_t position_ = 0;
};

// Calls take(field) for each field of `message`; of fields that are there twice the last counts.
template <typename Fn>
Status ForEachField(std::string_view message, size_t base, Fn take) {
  FieldReader reader(message, base);
  while (!reader.done()) {
    STERNA_ASSIGN_OR_RETURN(const Field field, reader.Next());
    STERNA_RETURN_IF_ERROR(take(field, reader.BaseOf(field)));
  }
  return absl::OkStatus();
}

Status ParsePiece(std::string_view message, size_t base, SentencePieceProto* model) {
  SentencePieceProto::Piece piece;
  STERNA_RETURN_IF_ERROR(ForEachField(message, base, [&](const Field& field, size_t) -> Status {
    if (field.Is(kText, kBytes)) piece.text = field.bytes;
    if (field.Is(kScore, kFixed32)) std::memcpy(&piece.score, field.bytes.data(), sizeof(float));
    if (field.Is(kType, kVarint)) {
      if (field.integer < 1 || field.integer > static_cast<uint64_t>(PieceType::kByte)) {
        return absl::InvalidArgumentError(absl::StrCat("piece ", model->pieces.size(), " has type ",
                                                       field.integer, "; the types are 1 to 6"));
      }
      piece.type = static_cast<PieceType>(field.integer);
    }
    return absl::OkStatus();
  }));
  model->pieces.push_back(std::move(piece));
  return absl::OkStatus();
}

Status ParseTrainer(std::string_view message, size_t base, SentencePieceProto* model) {
  return ForEachField(message, base, [&](const Field& field, size_t) {
    if (field.Is(kModelType, kVarint)) model->model_type = static_cast<int32_t>(field.integer);
    if (field.Is(kByteFallback, kVarint)) model->byte_fallback = field.integer != 0;
    if (field.Is(kSpaceIsSuffix, kVarint)) model->space_is_suffix = field.integer != 0;
    return absl::OkStatus();
  });
}

Status ParseNormalizer(std::string_view message, size_t base, SentencePieceProto* model) {
  return ForEachField(message, base, [&](const Field& field, size_t) {
    if (field.Is(kCharsmap, kBytes)) model->charsmap = field.bytes;
    if (field.Is(kAddDummyPrefix, kVarint)) model->add_dummy_prefix = field.integer != 0;
    if (field.Is(kRemoveExtraWhitespace, kVarint)) {
      model->remove_extra_whitespace = field.integer != 0;
    }
    if (field.Is(kEscapeWhitespace, kVarint)) model->escape_whitespace = field.integer != 0;
    return absl::OkStatus();
  });
}

}  // namespace

std::string SerializeSentencePiece(const SentencePieceProto& model) {
  std::string out, part;
  for (const SentencePieceProto::Piece& piece : model.pieces) {
    part.clear();
    AppendBytes(kText, piece.text, &part);
    AppendFloat(kScore, piece.score, &part);
    AppendInteger(kType, static_cast<uint64_t>(piece.type), &part);
    AppendBytes(kPieces, part, &out);
  }
  part.clear();
  AppendInteger(kModelType, static_cast<uint64_t>(model.model_type), &part);
  AppendInteger(kSpaceIsSuffix, model.space_is_suffix ? 1 : 0, &part);
  AppendInteger(kByteFallback, model.byte_fallback ? 1 : 0, &part);
  AppendBytes(kTrainer, part, &out);
  part.clear();
  AppendBytes(kCharsmap, model.charsmap, &part);
  AppendInteger(kAddDummyPrefix, model.add_dummy_prefix ? 1 : 0, &part);
  AppendInteger(kRemoveExtraWhitespace, model.remove_extra_whitespace ? 1 : 0, &part);
  AppendInteger(kEscapeWhitespace, model.escape_whitespace ? 1 : 0, &part);
  AppendBytes(kNormalizer, part, &out);
  return out;
}

StatusOr<SentencePieceProto> ParseSentencePiece(std::string_view serialized) {
  SentencePieceProto model;
  STERNA_RETURN_IF_ERROR(ForEachField(serialized, 0, [&](const Field& field, size_t base) {
    if (field.Is(kPieces, kBytes)) return ParsePiece(field.bytes, base, &model);
    if (field.Is(kTrainer, kBytes)) return ParseTrainer(field.bytes, base, &model);
    if (field.Is(kNormalizer, kBytes)) return ParseNormalizer(field.bytes, base, &model);
    return absl::OkStatus();
  }));
  return model;
}

Status CheckCharsmap(std::string_view charsmap) {
  if (charsmap.empty()) return absl::OkStatus();
  const auto word_at = [&](size_t byte) {
    uint32_t word;
    std::memcpy(&word, charsmap.data() + byte, sizeof(word));
    return word;
  };
  const auto unit_at = [&](size_t i) { return word_at(sizeof(uint32_t) * (1 + i)); };
  const uint32_t trie_bytes = charsmap.size() < 8 ? 0 : word_at(0);
  if (trie_bytes == 0 || trie_bytes % sizeof(uint32_t) != 0 || trie_bytes > charsmap.size() - 5 ||
      charsmap.back() != '\0') {
    return absl::InvalidArgumentError(
        absl::StrCat("its character map has ", charsmap.size(), " bytes, which do not hold a trie ",
                     "of ", trie_bytes, " bytes and texts that end with a zero"));
  }
  const size_t num_units = trie_bytes / sizeof(uint32_t);
  const size_t text_bytes = charsmap.size() - sizeof(uint32_t) - trie_bytes;
  constexpr uint32_t kIsValue = 1U << 31, kHasValue = 1U << 8, kIsFar = 1U << 9;
  for (size_t i = 0; i < num_units; ++i) {
    const uint32_t unit = unit_at(i);
    if ((unit & kIsValue) != 0 && i != 0) continue;  // no step leads on from a value
    const size_t base = i ^ (static_cast<size_t>(unit >> 10) << ((unit & kIsFar) != 0 ? 8 : 0));
    if ((base | 0xFF) >= num_units ||
        ((unit & kHasValue) != 0 && (unit_at(base) & ~kIsValue) >= text_bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("its character map leads outside of itself at unit ", i, " of ", num_units));
    }
  }
  return absl::OkStatus();
}

}  // namespace sterna
