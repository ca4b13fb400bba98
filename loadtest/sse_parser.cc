#include "loadtest/sse_parser.h"

namespace sterna {

void SseParser::Feed(std::string_view bytes) {
  for (const char c : bytes) {
    // Lines end in CR LF, LF or CR.
    const bool second_half = after_cr_ && c == '\n';
    after_cr_ = c == '\r';
    if (second_half) continue;
    if (c != '\n' && c != '\r') {
      line_ += c;
      continue;
    }
    Line(line_);
    line_.clear();
  }
}

void SseParser::Line(std::string_view line) {
  if (line.empty()) {
    if (has_data_) on_data_(data_);
    data_.clear();
    has_data_ = false;
    return;
  }
  // Comments and the fields event, id and retry carry nothing here.
  constexpr std::string_view kField = "data";
  if (!line.starts_with(kField)) return;
  line.remove_prefix(kField.size());
  if (!line.empty() && line[0] != ':') return;
  if (line.starts_with(": ")) {
    line.remove_prefix(2);
  } else if (line.starts_with(':')) {
    line.remove_prefix(1);
  }
  if (has_data_) data_ += '\n';
  data_.append(line);
  has_data_ = true;
}

}  // namespace sterna
