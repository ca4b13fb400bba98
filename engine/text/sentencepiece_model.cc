#include "engine/text/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <exception>
#include <utility>

namespace sterna {

struct SentencePieceModel::Impl {
  sentencepiece::SentencePieceProcessor processor;
};

SentencePieceModel::SentencePieceModel(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SentencePieceModel::~SentencePieceModel() = default;

std::unique_ptr<SentencePieceModel> SentencePieceModel::Load(std::string_view serialized,
                                                             std::string* error) {
  auto impl = std::make_unique<Impl>();
  try {
    const auto status = impl->processor.LoadFromSerializedProto(serialized);
    if (!status.ok()) {
      *error = status.error_message();
      return nullptr;
    }
  } catch (const std::exception& exception) {  // of a piece that its index cannot hold
    *error = exception.what();
    return nullptr;
  }
  return std::unique_ptr<SentencePieceModel>(new SentencePieceModel(std::move(impl)));
}

bool SentencePieceModel::Encode(std::string_view text, std::vector<int32_t>* ids,
                                std::string* error) const {
  std::vector<int> pieces;
  const auto status = impl_->processor.Encode(text, &pieces);
  if (!status.ok()) {
    *error = status.error_message();
    return false;
  }
  ids->insert(ids->end(), pieces.begin(), pieces.end());
  return true;
}

int32_t SentencePieceModel::size() const { return impl_->processor.GetPieceSize(); }

std::string SentencePieceModel::Piece(int32_t id) const { return impl_->processor.IdToPiece(id); }

bool SentencePieceModel::IsControlOrUnknown(int32_t id) const {
  return impl_->processor.IsControl(id) || impl_->processor.IsUnknown(id);
}

bool SentencePieceModel::IsByte(int32_t id) const { return impl_->processor.IsByte(id); }

int32_t SentencePieceModel::bos_id() const { return impl_->processor.bos_id(); }

int32_t SentencePieceModel::eos_id() const { return impl_->processor.eos_id(); }

}  // namespace sterna
