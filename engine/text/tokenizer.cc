#include "engine/text/tokenizer.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/text/tokenizer_files.h"
#include "engine/text/utf8.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace sterna {

StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  const auto exists = [](const std::string& path) {
    std::error_code error;
    return std::filesystem::exists(path, error);
  };
  const std::string config_path = model_dir + "/tokenizer_config.json";
  const std::string json_path = model_dir + "/tokenizer.json";
  const std::string model_path = model_dir + "/tokenizer.model";

  TokenizerConfig config;
  if (exists(config_path)) {
    STERNA_ASSIGN_OR_RETURN(config, ReadTokenizerConfig(config_path));
  }
  std::optional<TokenizerJson> json;
  if (exists(json_path)) {
    STERNA_ASSIGN_OR_RETURN(json, ReadTokenizerJson(json_path));
    if (json->byte_level) {
      ApplyTokenizerConfig(config, &*json);
      return BpeTokenizer::Create(json_path, *json, config);
    }
  }
  if (exists(model_path)) {
    return CreateSentencePieceTokenizer(model_path, json ? &*json : nullptr, config);
  }
  if (json) {
    return absl::InvalidArgumentError(
        absl::StrCat(json_path,
                     ": pre_tokenizer has no ByteLevel, so the tokenizer is "
                     "SentencePiece, and that needs ",
                     model_path, ", which is missing"));
  }
  return absl::NotFoundError(absl::StrCat(model_dir,
                                          " has neither tokenizer.json nor "
                                          "tokenizer.model; a model needs one of them"));
}

std::string Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  std::string bytes;
  for (const int32_t id : ids) bytes += tokenizer.TokenBytes(id);
  if (tokenizer.StripsLeadingSpace() && bytes.starts_with(' ')) bytes.erase(0, 1);
  return ReplaceInvalidUtf8(bytes);
}

}  // namespace sterna
