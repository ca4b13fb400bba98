// The subcommands of the `sterna` program. A new one is a file with a function that returns its
// row, named in Commands() of main.cc.
#ifndef STERNA_SERVER_COMMAND_H_
#define STERNA_SERVER_COMMAND_H_

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/flags.h"

namespace sterna {

// Exit codes: 0 all went well, 1 it did not, 2 the command line was wrong.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

struct Command {
  std::string_view name;
  std::string_view summary;  // one sentence
  // `args`: what follows the command's name. Returns the exit code.
  int (*run)(std::span<const std::string> args);
  // Every flag with its help, by the default or as Markdown.
  std::string (*describe_flags)(bool markdown);
};

Command ServeCommand();
Command GenerateCommand();
Command InspectCommand();
Command EvalCommand();
Command BenchCommand();
Command ConvertCommand();

// Prints the error as "sterna: ..." and returns kExitUsage for a flag's fault, else kExitFailure.
int UsageError(const Status& status);
int Failure(const Status& status);

// For describe_flags.
std::string DescribeFlags(std::span<const Flag> flags, bool markdown);

}  // namespace sterna

#endif  // STERNA_SERVER_COMMAND_H_
