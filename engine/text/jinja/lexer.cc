#include "engine/text/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/jinja/text.h"
#include "engine/text/unicode.h"
#include "engine/text/utf8.h"

namespace sterna::jinja {
namespace {

// Longer operators before their beginnings.
constexpr std::array<std::string_view, 25> kOperators = {
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",",
};

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

// \n for \r\n and \r, and without one newline at the end of the template.
std::string NormalizeNewlines(std::string_view source) {
  std::string result;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      result += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      result += source[i];
    }
  }
  if (result.ends_with('\n')) result.pop_back();
  return result;
}

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  StatusOr<std::vector<Token>> Run() {
    while (pos_ < source_.size()) {
      STERNA_RETURN_IF_ERROR(TextAndTag());
    }
    Add(Token::kEnd, "");
    return std::move(tokens_);
  }

 private:
  std::string_view Rest() const { return std::string_view(source_).substr(pos_); }
  bool At(std::string_view text) const { return Rest().starts_with(text); }
  void Add(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), line_});
  }

  // Moves on over `count` bytes, counting lines.
  void Skip(size_t count) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + pos_, source_.begin() + pos_ + count, '\n'));
    pos_ += count;
  }

  void SkipSpace() { Skip(Rest().size() - Strip(Rest(), std::nullopt, true, false).size()); }

  // The text up to the next tag, as the tag's sign and lstrip_blocks leave it, and the tag.
  Status TextAndTag() {
    size_t tag = pos_;
    while ((tag = source_.find('{', tag)) != std::string::npos) {
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    const bool at_line_start = pos_ == 0 || source_[pos_ - 1] == '\n';
    if (tag == std::string::npos) {
      AddText(Rest(), Rest().size());
      return absl::OkStatus();
    }
    std::string_view text = Rest().substr(0, tag - pos_);
    const size_t text_size = text.size();
    const char type = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    if (sign == '-') {
      text = Strip(text, std::nullopt, false, true);
    } else if (sign != '+' && type != '{') {
      const size_t line_begin = text.rfind('\n') + 1;  // 0 where there is none
      const std::string_view indent = text.substr(line_begin);
      const bool blank = Strip(indent, std::nullopt, true, true).empty();
      if (blank && (line_begin > 0 || at_line_start)) text = text.substr(0, line_begin);
    }
    AddText(text, text_size);
    const bool signed_tag = sign == '-' || sign == '+';
    if (type == '#') return Comment();
    if (type == '%' && IsRawBegin()) return Raw();
    Add(type == '{' ? Token::kVariableBegin : Token::kBlockBegin, "");
    Skip(signed_tag ? 3 : 2);
    return TagTokens(type == '{');
  }

  void AddText(std::string_view text, size_t source_bytes) {
    if (!text.empty()) Add(Token::kText, std::string(text));
    Skip(source_bytes);
  }

  // What follows a closing tag: -%} eats all white space, %} one newline, +%} nothing.
  void SkipAfterTag(char sign) {
    if (sign == '-') {
      SkipSpace();
    } else if (sign != '+' && At("\n")) {
      Skip(1);
    }
  }

  Status Comment() {
    const size_t end = source_.find("#}", pos_ + 2);
    if (end == std::string::npos) return LineError(line_, "a comment is not closed by #}");
    const char sign = end > pos_ + 2 ? source_[end - 1] : '\0';
    Skip(end + 2 - pos_);
    SkipAfterTag(sign);
    return absl::OkStatus();
  }

  // Length of "{% raw %}" (or endraw) at `at`; 0: none there. `sign`: that before %}.
  size_t KeywordTag(size_t at, std::string_view keyword, char* sign) const {
    std::string_view rest = std::string_view(source_).substr(at);
    const size_t whole = rest.size();
    if (!rest.starts_with("{%")) return 0;
    rest.remove_prefix(2);
    if (rest.starts_with('-') || rest.starts_with('+')) rest.remove_prefix(1);
    rest = Strip(rest, std::nullopt, true, false);
    if (!rest.starts_with(keyword)) return 0;
    rest = Strip(rest.substr(keyword.size()), std::nullopt, true, false);
    *sign = '\0';
    if (rest.starts_with('-') || rest.starts_with('+')) {
      *sign = rest.front();
      rest.remove_prefix(1);
    }
    return rest.starts_with("%}") ? whole - rest.size() + 2 : 0;
  }

  bool IsRawBegin() const {
    char sign;
    return KeywordTag(pos_, "raw", &sign) > 0;
  }

  Status Raw() {
    const int begin_line = line_;
    char sign = '\0';
    Skip(KeywordTag(pos_, "raw", &sign));
    if (sign == '-') SkipSpace();
    for (size_t end = pos_; (end = source_.find("{%", end)) != std::string::npos; ++end) {
      const size_t length = KeywordTag(end, "endraw", &sign);
      if (length == 0) continue;
      std::string_view text = Rest().substr(0, end - pos_);
      if (source_[end + 2] == '-') text = Strip(text, std::nullopt, false, true);
      AddText(text, end - pos_);
      Skip(length);
      SkipAfterTag(sign);
      return absl::OkStatus();
    }
    return LineError(begin_line, "raw is not closed by endraw");
  }

  Status TagTokens(bool variable) {
    const std::string_view closing = variable ? "}}" : "%}";
    while (true) {
      SkipSpace();
      if (pos_ == source_.size()) {
        return LineError(line_, absl::StrCat("a tag is not closed by ", std::string(closing)));
      }
      if (open_.empty()) {
        const char sign = At("-") || (!variable && At("+")) ? source_[pos_] : '\0';
        if (Rest().substr(sign != '\0' ? 1 : 0).starts_with(closing)) {
          Add(variable ? Token::kVariableEnd : Token::kBlockEnd, "");
          Skip(sign != '\0' ? 3 : 2);
          if (!variable || sign == '-') SkipAfterTag(sign);
          return absl::OkStatus();
        }
      }
      STERNA_RETURN_IF_ERROR(OneToken());
    }
  }

  Status OneToken() {
    const char c = source_[pos_];
    const Utf8Unit unit = ReadUtf8(source_, pos_);
    if (IsDigit(c)) return Number();
    if (c == '_' || (IsUnicodeWord(unit.code_point) && unit.kind == Utf8Unit::kCharacter)) {
      size_t end = pos_;
      while (end < source_.size()) {
        const Utf8Unit next = ReadUtf8(source_, end);
        if (next.kind != Utf8Unit::kCharacter || !IsUnicodeWord(next.code_point)) break;
        end += next.length;
      }
      Add(Token::kName, source_.substr(pos_, end - pos_));
      Skip(end - pos_);
      return absl::OkStatus();
    }
    if (c == '"' || c == '\'') return String();
    for (const std::string_view op : kOperators) {
      if (At(op)) return Operator(op);
    }
    return LineError(line_, absl::StrCat("unexpected character '",
                                         std::string(Rest().substr(0, unit.length)), "'"));
  }

  // Brackets must balance: only outside all of them does a tag end.
  Status Operator(std::string_view op) {
    if (op == "(" || op == "[" || op == "{") {
      open_ += op == "(" ? ')' : op == "[" ? ']' : '}';
    } else if (op == ")" || op == "]" || op == "}") {
      if (open_.empty() || open_.back() != op[0]) {
        return LineError(line_, absl::StrCat("unexpected '", std::string(op), "'"));
      }
      open_.pop_back();
    }
    Add(Token::kOperator, std::string(op));
    Skip(op.size());
    return absl::OkStatus();
  }

  Status Number() {
    std::string digits;
    size_t end = pos_;
    const auto take_digits = [&] {
      while (end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_')) {
        if (source_[end] != '_') digits += source_[end];
        ++end;
      }
    };
    const auto digit_at = [&](size_t at) { return at < source_.size() && IsDigit(source_[at]); };
    take_digits();
    bool is_float = false;
    if (end < source_.size() && source_[end] == '.' && digit_at(end + 1)) {
      is_float = true;
      digits += '.';
      ++end;
      take_digits();
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const bool has_sign =
          end + 1 < source_.size() && (source_[end + 1] == '+' || source_[end + 1] == '-');
      if (digit_at(end + (has_sign ? 2 : 1))) {
        is_float = true;
        digits += source_.substr(end, has_sign ? 2 : 1);
        end += has_sign ? 2 : 1;
        take_digits();
      }
    }
    Add(is_float ? Token::kFloat : Token::kInteger, std::move(digits));
    Skip(end - pos_);
    return absl::OkStatus();
  }

  Status String() {
    const char quote = source_[pos_];
    size_t end = pos_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return LineError(line_, "a string is not closed");
    STERNA_ASSIGN_OR_RETURN(std::string value,
                            Unescape(std::string_view(source_).substr(pos_ + 1, end - pos_ - 1)));
    Add(Token::kString, std::move(value));
    Skip(end + 1 - pos_);
    return absl::OkStatus();
  }

  // Python's escapes. An unknown one stays as it is written.
  StatusOr<std::string> Unescape(std::string_view raw) const {
    static constexpr std::string_view kNames = "abfnrtv\\'\"\n";
    static constexpr std::string_view kValues = "\a\b\f\n\r\t\v\\'\"";
    std::string result;
    for (size_t i = 0; i < raw.size(); ++i) {
      if (raw[i] != '\\') {
        result += raw[i];
        continue;
      }
      const char c = raw[++i];
      const size_t known = kNames.find(c);
      if (known != std::string_view::npos) {
        if (known < kValues.size()) result += kValues[known];  // an escaped newline is nothing
      } else if (c == 'x' || c == 'u' || c == 'U') {
        STERNA_RETURN_IF_ERROR(CodePoint(raw, i + 1, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16, &result));
        i += c == 'x' ? 2 : c == 'u' ? 4 : 8;
      } else if (c >= '0' && c <= '7') {
        size_t length = 1;
        while (length < 3 && i + length < raw.size() && raw[i + length] >= '0' &&
               raw[i + length] <= '7') {
          ++length;
        }
        STERNA_RETURN_IF_ERROR(CodePoint(raw, i, length, 8, &result));
        i += length - 1;
      } else if (c == 'N') {
        return LineError(line_, "the string escape \\N{...} is not supported");
      } else {
        result += '\\';
        result += c;
      }
    }
    return result;
  }

  Status CodePoint(std::string_view raw, size_t begin, size_t length, int base,
                   std::string* out) const {
    const std::string digits(raw.substr(std::min(begin, raw.size()), length));
    const bool valid =
        digits.size() == length && std::all_of(digits.begin(), digits.end(), [](char c) {
          return std::isxdigit(static_cast<unsigned char>(c)) != 0;
        });
    const unsigned long code = valid ? std::stoul(digits, nullptr, base) : 0x110000;
    if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) {
      return LineError(line_, "a string has an escape that is no character: \\" + digits);
    }
    AppendUtf8(static_cast<char32_t>(code), out);
    return absl::OkStatus();
  }

  std::string source_;
  size_t pos_ = 0;
  int line_ = 1;
  std::string open_;  // the closing brackets that are due
  std::vector<Token> tokens_;
};

}  // namespace

Status LineError(int line, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat("chat template, line ", line, ": ", what));
}

StatusOr<std::vector<Token>> Tokenize(std::string_view source) {
  return Lexer(NormalizeNewlines(source)).Run();
}

}  // namespace sterna::jinja
