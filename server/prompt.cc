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

}  // namespace

StatusOr<std::vector<int32_t>> EncodePrompt(const Runtime& runtime, std::string_view text,
                                            bool add_special, std::string_view param) {
  // Special tokens in a completion prompt are taken as such: that is how clients that render the
  // template themselves send a conversation.
  StatusOr<std::vector<int32_t>> ids =
      runtime.tokenizer().Encode(text, add_special, /*parse_special=*/true);
  if (!ids.ok()) return AsInvalid(ids.status(), param);
  // A text that begins with BOS has one already.
  const std::optional<int32_t> bos = runtime.tokenizer().bos_id();
  if (add_special && ids->size() >= 2 && (*ids)[0] == bos && (*ids)[1] == bos) {
    ids->erase(ids->begin());
  }
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
  StatusOr<std::vector<int32_t>> ids =
      runtime.tokenizer().Encode(*text, add_special, /*parse_special=*/true);
  if (!ids.ok()) return AsInvalid(ids.status(), "messages");
  return ids;
}

}  // namespace sterna
