#include "engine/text/split_regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "engine/text/utf8.h"

namespace sterna {
namespace {

// A run of a million spaces is one match: the limits must let it pass. JIT gives up at its stack's
// end, then a larger stack, and after that the interpreter, whose memory is the heap, takes over.
constexpr size_t kJitStackStartBytes = 64 << 10;
constexpr size_t kJitStackMaxBytes = 8 << 20;
constexpr uint32_t kMatchLimit = 1'000'000'000;
constexpr uint32_t kHeapLimitKib = 1 << 20;

// The White_Space property as a class's inside. PCRE2's \s also holds U+180E, which tokenizers'
// other regex engines take for no space since Unicode 6.3.
constexpr std::string_view kSpaces =
    R"(\t-\r\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// `pattern` with \s, and \S outside classes, meaning exactly that property.
std::string WithUnicodeSpaces(std::string_view pattern) {
  std::string result;
  bool in_class = false;
  size_t class_begin = 0;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's' || (escaped == 'S' && !in_class)) {
        if (!in_class) result += escaped == 's' ? "[" : "[^";
        result += kSpaces;
        if (!in_class) result += ']';
      } else {
        result += {c, escaped};
      }
      continue;
    }
    if (c == '[' && !in_class) {
      in_class = true;
      class_begin = i + (pattern.substr(i + 1).starts_with('^') ? 1 : 0);
    } else if (c == ']' && i > class_begin + 1) {  // a ] that comes first is an ordinary member
      in_class = false;
    }
    result += c;
  }
  return result;
}

// What the searches of one call need. It costs little to make, as a call may be for a word of one
// character: the first searches run on the thread's own stack, as JIT does by itself.
class MatchState {
 public:
  explicit MatchState(const pcre2_code* code)
      : code_(code),
        data_(pcre2_match_data_create_from_pattern(code, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    STERNA_CHECK(data_ != nullptr && context_ != nullptr);
    pcre2_set_match_limit(context_, kMatchLimit);
    pcre2_set_heap_limit(context_, kHeapLimitKib);
  }
  ~MatchState() {
    pcre2_jit_stack_free(jit_stack_);
    pcre2_match_context_free(context_);
    pcre2_match_data_free(data_);
  }
  MatchState(const MatchState&) = delete;
  MatchState& operator=(const MatchState&) = delete;

  // The answer of pcre2_match for `text` from `pos` on.
  int Find(std::string_view text, size_t pos) {
    int rc = Match(text, pos, 0);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && jit_stack_ == nullptr) {
      jit_stack_ = pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr);
      if (jit_stack_ != nullptr) {
        pcre2_jit_stack_assign(context_, nullptr, jit_stack_);
        rc = Match(text, pos, 0);
      }
    }
    return rc == PCRE2_ERROR_JIT_STACKLIMIT ? Match(text, pos, PCRE2_NO_JIT) : rc;
  }
  // Where the last match begins and ends.
  const PCRE2_SIZE* found() const { return pcre2_get_ovector_pointer(data_); }

 private:
  int Match(std::string_view text, size_t pos, uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos,
                       PCRE2_NO_UTF_CHECK | options, data_, context_);
  }

  const pcre2_code* code_;
  pcre2_match_data* data_;
  pcre2_match_context* context_;
  pcre2_jit_stack* jit_stack_ = nullptr;  // made when a search needs it
};

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  const int length = pcre2_get_error_message(code, buffer, sizeof(buffer));
  if (length < 0) return absl::StrCat("PCRE2 error ", code);
  return std::string(reinterpret_cast<const char*>(buffer), length);
}

}  // namespace

void SplitRegex::CodeDeleter::operator()(void* code) const {
  pcre2_code_free(static_cast<pcre2_code*>(code));
}

StatusOr<SplitRegex> SplitRegex::Compile(const std::string& pattern) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::string translated = WithUnicodeSpaces(pattern);
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP, &error, &offset, nullptr);
  if (code == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("regular expression does not compile: ", ErrorText(error), " at byte ", offset,
                     " of \"", translated, "\""));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it pcre2_match interprets: slower, same
  return SplitRegex(code);
}

Status SplitRegex::FindAll(std::string_view text, std::vector<Match>* matches) const {
  MatchState state(static_cast<const pcre2_code*>(code_.get()));
  const PCRE2_SIZE* found = state.found();
  for (size_t pos = 0; pos < text.size();) {
    const int rc = state.Find(text, pos);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("cannot split the text into words: ", ErrorText(rc), " at byte ", pos));
    }
    if (found[0] < found[1]) {
      matches->push_back({found[0], found[1]});
      pos = found[1];
    } else {  // an empty match splits nothing: look on from the next character
      pos = found[1] < text.size() ? found[1] + ReadUtf8(text, found[1]).length : text.size();
    }
  }
  return absl::OkStatus();
}

}  // namespace sterna
