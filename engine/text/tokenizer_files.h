// What tokenizer.json and tokenizer_config.json say, as plain data: read and checked here, turned
// into tokenizers elsewhere.
//
// Errors are InvalidArgument and name the file and the field (NotFound for a missing file).
#ifndef STERNA_ENGINE_TEXT_TOKENIZER_FILES_H_
#define STERNA_ENGINE_TEXT_TOKENIZER_FILES_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "engine/text/added_tokens.h"
#include "engine/text/pre_tokenizer.h"

namespace sterna {

// Where a SentencePiece-style tokenizer puts a space before the text.
enum class DummyPrefix {
  kModel,  // as tokenizer.model says
  kNever,
  kFirst,         // at the beginning of the text
  kEverySegment,  // there and after every special token
};

// tokenizer.json
struct TokenizerJson {
  std::vector<std::pair<std::string, int32_t>> vocab;  // spelling, id
  std::string vocab_name = "model.vocab";              // what messages call it
  std::vector<AddedToken> added_tokens;
  // What the post-processor puts around a text.
  std::vector<int32_t> prefix_ids, suffix_ids;

  // Whether this is byte-level BPE; the first group below is then filled, else the second, for
  // which the pieces themselves come from tokenizer.model.
  bool byte_level = false;

  bool nfc = false;
  std::vector<PreTokenizerStep> pre_tokenizer;
  std::vector<std::pair<std::string, std::string>> merges;
  std::string merges_name = "model.merges";  // what messages call them
  bool ignore_merges = false;                // a word that is a token stays whole

  DummyPrefix dummy_prefix = DummyPrefix::kNever;
  // Whether the prefix is left out before a text that begins with a space.
  bool prefix_unless_space = false;
  bool uses_charsmap = false;             // SentencePiece's own normalisation
  bool removes_extra_whitespace = false;  // at both ends and within runs
};
StatusOr<TokenizerJson> ReadTokenizerJson(const std::string& path);

// tokenizer_config.json; absent fields are empty.
struct TokenizerConfig {
  // These count where there is no tokenizer.json.
  std::optional<bool> add_bos_token, add_eos_token;
  std::optional<bool> add_prefix_space;  // false: no space in front of a text
  // A space after every special token too. Absent means true, as in Transformers 4, with which the
  // published files were made.
  std::optional<bool> legacy;

  std::string bos_token, eos_token, unk_token, pad_token;
  std::vector<AddedToken> added_tokens;  // added_tokens_decoder
  std::optional<std::string> chat_template;

  std::vector<std::string> other_special_tokens;  // from ReadOlderAddedTokens
};
StatusOr<TokenizerConfig> ReadTokenizerConfig(const std::string& path);

// What older directories say in files of their own, added to `config`: added_tokens.json
// ({content: id}) gives the added tokens, special_tokens_map.json names those that are special.
// Either may be missing. For a directory without tokenizer.json and without added_tokens_decoder.
Status ReadOlderAddedTokens(const std::string& model_dir, TokenizerConfig* config);

// All tokenizer files of a Hugging Face directory.
struct TokenizerFiles {
  TokenizerConfig config;
  std::string json_path, model_path;
  // One of the two is there. With byte-level BPE `config` has been applied to `json`
  // (vocabulary_tokenizer.h) and `model` is empty: there `json` says all. Else `model`, the bytes
  // of tokenizer.model, is there.
  std::optional<TokenizerJson> json;
  std::string model;

  bool byte_level() const { return json && json->byte_level; }
};
// NotFound when the directory has neither; else errors as above.
StatusOr<TokenizerFiles> ReadTokenizerFiles(const std::string& model_dir);

}  // namespace sterna

#endif  // STERNA_ENGINE_TEXT_TOKENIZER_FILES_H_
