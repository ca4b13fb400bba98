#include "base/logging.h"

#include <unistd.h>

#include <ctime>
#include <string>

#include "absl/strings/str_format.h"

namespace sterna {

void Log(LogLevel level, std::string_view file, int line, std::string_view message) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm utc{};
  gmtime_r(&now.tv_sec, &utc);
  const size_t slash = file.rfind('/');
  if (slash != std::string_view::npos) file.remove_prefix(slash + 1);
  const std::string text = absl::StrFormat(
      "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %c %s:%d %s\n", utc.tm_year + 1900, utc.tm_mon + 1,
      utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, static_cast<int>(now.tv_nsec / 1000000),
      "IWE"[static_cast<int>(level)], file, line, message);
  // A log that cannot be written has nowhere to be reported.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace sterna
