#include "engine/checkpoint_lint.h"

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/model/load_threads.h"
#include "engine/model/model_files.h"
#include "engine/text/model_text.h"

namespace sterna {
namespace {

using enum LintFinding::Severity;

constexpr char kTokenizer[] = "tokenizer";
constexpr char kChatTemplate[] = "chat template";

// Embeddings are padded, to multiples of 1024 at the most, or have room for some tokens more.
constexpr int64_t kMostUnusedRows = 1024;
constexpr int64_t kMostUnusedShare = 10;  // one in so many

void LintTokenizer(const ModelConfig& config, const Tokenizer& tokenizer, LintReport& report) {
  const int64_t unused = config.vocab_size - tokenizer.vocab_size();
  if (unused > kMostUnusedRows && unused > config.vocab_size / kMostUnusedShare) {
    report.Add("vocabulary", kWarning, kTokenizer,
               absl::StrCat("has ", tokenizer.vocab_size(), " tokens, but the model's vocabulary ",
                            config.vocab_size, "; they should be about as many: it may be the ",
                            "tokenizer of another model"));
  }
  if (config.eos_token_ids.empty()) {
    report.Add("no end", kWarning, kTokenizer,
               "nothing says which token ends a text (eos_token_id), so that texts end at their "
               "token limit alone");
  }
  for (const int32_t id : config.eos_token_ids) {
    if (!tokenizer.IdToToken(id).empty()) continue;
    report.Add("end", kWarning, kTokenizer,
               absl::StrCat("has no token ", id, ", which eos_token_id says ends a text; it must ",
                            "be one of its tokens"));
  }
}

// "<|word|>" as templates spell special tokens; nothing that an expression puts together.
std::set<std::string> SpecialTokensIn(std::string_view text) {
  std::set<std::string> found;
  for (size_t begin = text.find("<|"); begin != std::string_view::npos;
       begin = text.find("<|", begin + 1)) {
    size_t end = begin + 2;
    while (end < text.size() && (absl::ascii_isalnum(static_cast<unsigned char>(text[end])) ||
                                 text[end] == '_' || text[end] == '-')) {
      ++end;
    }
    if (end > begin + 2 && text.substr(end).starts_with("|>")) {
      found.emplace(text.substr(begin, end + 2 - begin));
    }
  }
  return found;
}

void LintChatTemplate(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                      LintReport& report) {
  const std::string& source = chat_template.source();
  for (const std::string& token : SpecialTokensIn(source)) {
    if (tokenizer.TokenToId(token)) continue;
    report.Add("special token", kWarning, kChatTemplate,
               absl::StrCat("writes '", token, "', which is no token of the tokenizer: the model ",
                            "sees its letters; it may be the template of another model"));
  }
  if (absl::StrContains(source, "bos_token") && !tokenizer.bos_id()) {
    report.Add("no beginning", kWarning, kChatTemplate,
               "writes bos_token, but the tokenizer has none");
  }
}

void AddFailure(const char* kind, const std::string& what, const Status& status,
                LintReport& report) {
  report.Add(kind, kError, what, std::string(status.message()));
}

}  // namespace

Status CheckVocabulary(const Tokenizer& tokenizer, const ModelConfig& config,
                       const std::string& model) {
  if (tokenizer.vocab_size() <= config.vocab_size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      model, ": the tokenizer has ", tokenizer.vocab_size(),
      " tokens, but the model's vocab_size is ", config.vocab_size, "; it must be no smaller"));
}

std::vector<LintFinding> LintLoaded(const Checkpoint& checkpoint, TensorNames names,
                                    const Tokenizer* tokenizer, const ChatTemplate* chat_template) {
  LintReport report;
  if (tokenizer != nullptr) {
    LintTokenizer(checkpoint.config, *tokenizer, report);
    if (chat_template != nullptr) LintChatTemplate(*chat_template, *tokenizer, report);
  }
  ThreadPool pool(NumLoadThreads());
  LintWeights(checkpoint, names, pool, report);
  return std::move(report).Findings();
}

std::vector<LintFinding> LintModel(const std::string& model, const LoadOptions& options) {
  LintReport failures;
  const StatusOr<ModelFiles> files = ModelFiles::Open(model);
  if (!files.ok()) {
    AddFailure("files", model, files.status(), failures);
    return std::move(failures).Findings();
  }
  const StatusOr<Checkpoint> checkpoint = LoadCheckpoint(*files, options);
  if (!checkpoint.ok()) AddFailure("load", "checkpoint", checkpoint.status(), failures);
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat_template;
  StatusOr<std::unique_ptr<Tokenizer>> loaded = LoadTokenizer(*files);
  if (!loaded.ok()) {
    AddFailure("tokenizer", kTokenizer, loaded.status(), failures);
  } else {
    tokenizer = *std::move(loaded);
  }
  StatusOr<ChatTemplate> compiled = LoadChatTemplate(*files);
  if (compiled.ok()) {
    chat_template = *std::move(compiled);
  } else if (!absl::IsNotFound(compiled.status())) {
    AddFailure("template", kChatTemplate, compiled.status(), failures);
  }
  if (checkpoint.ok() && tokenizer != nullptr) {
    const Status fits = CheckVocabulary(*tokenizer, checkpoint->config, files->path());
    if (!fits.ok()) AddFailure("vocabulary", kTokenizer, fits, failures);
  }
  std::vector<LintFinding> findings = std::move(failures).Findings();
  if (!checkpoint.ok()) return findings;
  const TensorNames names =
      files->gguf() != nullptr ? TensorNames::kGguf : TensorNames::kHuggingFace;
  const std::vector<LintFinding> others =
      LintLoaded(*checkpoint, names, tokenizer.get(), chat_template ? &*chat_template : nullptr);
  findings.insert(findings.end(), others.begin(), others.end());
  return findings;
}

}  // namespace sterna
