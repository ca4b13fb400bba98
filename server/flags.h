// Command-line flags from one table: a row names the flag, the field it sets, its range and what it
// is for, and the row drives parsing, --help and docs/flags.md alike.
//
// Use: a command's options are a plain struct whose initialisers are the defaults; a function
// returns the rows bound to one instance of it.
#ifndef STERNA_SERVER_FLAGS_H_
#define STERNA_SERVER_FLAGS_H_

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/status.h"

namespace sterna {

struct Flag {
  std::string_view name;                                       // without the dashes
  std::variant<bool*, int64_t*, double*, std::string*> value;  // holds the default when bound
  std::string help;  // one or two sentences; units where there are any
  double min = -std::numeric_limits<double>::infinity();  // numbers: both ends are allowed
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices = {};  // strings: nothing else is allowed; empty: anything is
};

// Sets the fields from "--name value" or "--name=value" (a boolean also from "--name" alone). The
// error names the flag, the value and what would be right; `args` holds no program or command name.
Status ParseFlags(std::span<const std::string> args, std::span<const Flag> flags);

// For --help: a flag a paragraph, with type, range and default.
std::string FlagsAsText(std::span<const Flag> flags);
// For docs/flags.md: a table.
std::string FlagsAsMarkdown(std::span<const Flag> flags);

}  // namespace sterna

#endif  // STERNA_SERVER_FLAGS_H_
