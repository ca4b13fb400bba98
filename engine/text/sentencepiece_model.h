// A loaded SentencePiece model, behind types of the standard library alone: SentencePiece's header
// declares absl::string_view itself and cannot share a file with Abseil's. So no Status here;
// errors are texts.
//
// Thread contract: const after Load; every method may be called from any thread.
#ifndef STERNA_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_
#define STERNA_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace sterna {

class SentencePieceModel {
 public:
  // `serialized`: the bytes of a tokenizer.model. Null with a reason in `error` when they are none.
  static std::unique_ptr<SentencePieceModel> Load(std::string_view serialized, std::string* error);
  ~SentencePieceModel();

  // Appends the ids of `text`; false with a reason in `error` on failure.
  bool Encode(std::string_view text, std::vector<int32_t>* ids, std::string* error) const;

  int32_t size() const;
  std::string Piece(int32_t id) const;
  bool IsControlOrUnknown(int32_t id) const;
  bool IsByte(int32_t id) const;  // "<0x0A>" and the like
  int32_t bos_id() const;         // -1: none
  int32_t eos_id() const;         // -1: none

 private:
  struct Impl;
  explicit SentencePieceModel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_
