// A SentencePiece model as plain data, and its bytes: what tokenizer.model holds. The library
// publishes no classes for the message, and Sterna's engine links no protobuf, so the few fields
// that matter are read and written here by hand; all others are passed over.
// Source: sentencepiece_model.proto (google/sentencepiece).
//
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_SENTENCEPIECE_PROTO_H_
#define STERNA_ENGINE_TEXT_SENTENCEPIECE_PROTO_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"

namespace sterna {

// As numbered in tokenizer.model, and in GGUF's `tokenizer.ggml.token_type`.
enum class PieceType : int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Defaults are the message's own.
struct SentencePieceProto {
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;  // by id

  static constexpr int32_t kUnigram = 1, kBpe = 2;
  int32_t model_type = kUnigram;
  bool byte_fallback = false;
  bool space_is_suffix = false;  // treat_whitespace_as_suffix

  std::string charsmap;  // precompiled; empty: text stays as it is
  bool add_dummy_prefix = true;
  bool remove_extra_whitespace = true;
  bool escape_whitespace = true;
};

std::string SerializeSentencePiece(const SentencePieceProto& model);

// InvalidArgument with the position when `serialized` is no such message, or a piece has a type
// that is not one of the above.
StatusOr<SentencePieceProto> ParseSentencePiece(std::string_view serialized);

// Whether the library can walk `charsmap` without leaving it: it follows what is there unchecked.
//   u32 size of the trie | the trie, a double array of u32 units | texts, each ended by a zero byte
// Unit i, with label c: its child for byte b is unit i ^ offset ^ b, the value below it, an offset
// into the texts, is in unit i ^ offset. Source: darts-clone and SentencePiece's normalizer.cc.
// InvalidArgument when a step or a value leads outside, or the sizes do not fit.
Status CheckCharsmap(std::string_view charsmap);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_SENTENCEPIECE_PROTO_H_
