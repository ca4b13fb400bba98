// Server-sent events out of a byte stream that arrives in pieces of any size.
#ifndef STERNA_LOADTEST_SSE_PARSER_H_
#define STERNA_LOADTEST_SSE_PARSER_H_

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace sterna {

class SseParser {
 public:
  // `on_data` gets the data of each event: its data lines, joined by newlines.
  explicit SseParser(std::function<void(std::string_view data)> on_data)
      : on_data_(std::move(on_data)) {}

  void Feed(std::string_view bytes);

 private:
  void Line(std::string_view line);

  std::function<void(std::string_view)> on_data_;
  std::string line_;  // of which the end has not come
  std::string data_;  // of the event that has not ended
  bool has_data_ = false;
  bool after_cr_ = false;  // a line feed that follows belongs to the same line end
};

}  // namespace sterna

#endif  // STERNA_LOADTEST_SSE_PARSER_H_
