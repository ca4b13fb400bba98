#include "server/prompt.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/errors.h"

namespace sterna {
namespace {

// What the tokenizer or the template objects to is the client's to mend.
Status AsInvalid(const Status& status, std::string_view param) {
  if (!absl::IsInvalidArgument(status)) return status;
  return MakeError(ErrorLabel::kInvalidRequest,
                   absl::StrCat(std::string(param), ": ", status.message()), param);
}

// Normalisation makes text shorter (NFC to a third), as do tokens that take white space with them.
constexpr int64_t kShrinking = 4;

// Encoding takes time and memory for every byte, so that what could never fit is refused before.
Status CheckLength(const Runtime& runtime, std::string_view text, std::string_view param) {
  const ModelInfo& info = runtime.info();
  const int64_t most = kShrinking * info.longest_token_bytes * info.max_context_tokens;
  if (std::ssize(text) <= most) return absl::OkStatus();
  return MakeError(
      ErrorLabel::kContextLengthExceeded,
      absl::StrCat(std::string(param), " has ", text.size(), " bytes of text; at most ",
                   info.max_context_tokens, " tokens fit, of at most ", info.longest_token_bytes,
                   " bytes each"),
      param);
}

}  // namespace

std::optional<int32_t> AddedBos(const Tokenizer& tokenizer) {
  const StatusOr<std::vector<int32_t>> added =
      tokenizer.Encode("", /*add_special=*/true, /*parse_special=*/false);
  if (!added.ok() || added->empty() || added->front() != tokenizer.bos_id()) return std::nullopt;
  return added->front();
}

StatusOr<std::vector<int32_t>> EncodePrompt(const Runtime& runtime, std::string_view text,
                                            bool add_special, std::string_view param) {
  STERNA_RETURN_IF_ERROR(CheckLength(runtime, text, param));
  // Special tokens in a completion prompt are taken as such: that is how clients that render the
  // template themselves send a conversation.
  StatusOr<std::vector<int32_t>> ids =
      runtime.tokenizer().Encode(text, add_special, /*parse_special=*/true);
  if (!ids.ok()) return AsInvalid(ids.status(), param);
  // A text that begins with BOS has one already.
  if (!add_special || ids->size() < 2 || (*ids)[0] != (*ids)[1]) return ids;
  if (AddedBos(runtime.tokenizer()) == (*ids)[0]) ids->erase(ids->begin());
  return ids;
}

StatusOr<std::vector<int32_t>> EncodeChat(const Runtime& runtime, ChatTemplateInput input,
                                          bool add_special, int64_t now_unix_seconds) {
  const ChatTemplate* chat_template = runtime.chat_template();
  if (chat_template == nullptr) {
    return MakeError(ErrorLabel::kInvalidRequest,
                     "this model has no chat template; use completions", "messages");
  }
  input.now_unix_seconds = now_unix_seconds;
  const StatusOr<std::string> text = chat_template->Render(input);
  if (!text.ok()) return AsInvalid(text.status(), "messages");
  STERNA_RETURN_IF_ERROR(CheckLength(runtime, *text, "messages"));
  StatusOr<std::vector<int32_t>> ids =
      runtime.tokenizer().Encode(*text, add_special, /*parse_special=*/true);
  if (!ids.ok()) return AsInvalid(ids.status(), "messages");
  return ids;
}

}  // namespace sterna
