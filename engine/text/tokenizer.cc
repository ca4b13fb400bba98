#include "engine/text/tokenizer.h"

#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mapped_file.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/sentencepiece_tokenizer.h"
#include "engine/text/tokenizer_files.h"
#include "engine/text/utf8.h"
#include "engine/text/vocabulary_tokenizer.h"

namespace sterna {

StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& model_dir) {
  const auto exists = [](const std::string& path) {
    std::error_code error;
    return std::filesystem::exists(path, error);
  };
  const std::string config_path = model_dir + "/tokenizer_config.json";
  TokenizerFiles files;
  files.json_path = model_dir + "/tokenizer.json";
  files.model_path = model_dir + "/tokenizer.model";
  if (exists(config_path)) {
    STERNA_ASSIGN_OR_RETURN(files.config, ReadTokenizerConfig(config_path));
  }
  if (exists(files.json_path)) {
    STERNA_ASSIGN_OR_RETURN(files.json, ReadTokenizerJson(files.json_path));
    if (files.byte_level()) {
      ApplyTokenizerConfig(files.config, &*files.json);
      return files;
    }
  } else if (files.config.added_tokens.empty()) {
    STERNA_RETURN_IF_ERROR(ReadOlderAddedTokens(model_dir, &files.config));
  }
  if (exists(files.model_path)) {
    STERNA_ASSIGN_OR_RETURN(files.model, ReadTextFile(files.model_path));
    return files;
  }
  if (files.json) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.json_path,
                     ": pre_tokenizer has no ByteLevel, so the tokenizer is "
                     "SentencePiece, and that needs ",
                     files.model_path, ", which is missing"));
  }
  return absl::NotFoundError(absl::StrCat(model_dir,
                                          " has neither tokenizer.json nor "
                                          "tokenizer.model; a model needs one of them"));
}

StatusOr<std::unique_ptr<Tokenizer>> CreateTokenizer(const TokenizerFiles& files) {
  if (files.byte_level()) return BpeTokenizer::Create(files.json_path, *files.json, files.config);
  return CreateSentencePieceTokenizer(files.model_path, files.model,
                                      files.json ? &*files.json : nullptr, files.config);
}

StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer(const std::string& model_dir) {
  STERNA_ASSIGN_OR_RETURN(const TokenizerFiles files, ReadTokenizerFiles(model_dir));
  return CreateTokenizer(files);
}

std::string Decode(const Tokenizer& tokenizer, std::span<const int32_t> ids) {
  std::string bytes;
  for (const int32_t id : ids) bytes += tokenizer.TokenBytes(id);
  if (tokenizer.StripsLeadingSpace() && bytes.starts_with(' ')) bytes.erase(0, 1);
  return ReplaceInvalidUtf8(bytes);
}

}  // namespace sterna
