// One line per event on stderr: "2026-11-22T10:00:00.123Z I server.cc:42 message".
// Thread contract: Log may be called from any thread; a line is written with one write(2).
#ifndef STERNA_BASE_LOGGING_H_
#define STERNA_BASE_LOGGING_H_

#include <string_view>

#include "absl/strings/str_cat.h"

namespace sterna {

enum class LogLevel { kInfo, kWarning, kError };

void Log(LogLevel level, std::string_view file, int line, std::string_view message);

}  // namespace sterna

// STERNA_LOG(kInfo, "loaded ", n, " tensors"): the arguments are those of absl::StrCat.
#define STERNA_LOG(level, ...) \
  ::sterna::Log(::sterna::LogLevel::level, __FILE__, __LINE__, ::absl::StrCat(__VA_ARGS__))

#endif  // STERNA_BASE_LOGGING_H_
