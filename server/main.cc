// The `sterna` program: finds the subcommand and hands it the rest of the command line.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/closest_name.h"
#include "server/command.h"

namespace sterna {
namespace {

// In the order `sterna help` shows them.
std::vector<Command> Commands() {
  return {ServeCommand(), GenerateCommand(), InspectCommand(),
          EvalCommand(),  BenchCommand(),    ConvertCommand()};
}

std::string Overview() {
  std::string out = absl::StrCat("Sterna ", STERNA_VERSION,
                                 ": an inference server for ternary language models\n\n"
                                 "usage: sterna COMMAND [--flag value]...\n\n");
  for (const Command& command : Commands()) {
    const std::string name(command.name);
    absl::StrAppend(&out, "  ", name, std::string(name.size() < 10 ? 10 - name.size() : 1, ' '),
                    std::string(command.summary), "\n");
  }
  absl::StrAppend(&out,
                  "  help      Explains a command: sterna help COMMAND; --markdown: all of them.\n"
                  "  version   Prints the version.\n");
  return out;
}

std::string Explain(const Command& command) {
  return absl::StrCat("usage: sterna ", std::string(command.name), " [--flag value]...\n\n",
                      std::string(command.summary), "\n\n", command.describe_flags(false));
}

// docs/flags.md.
std::string AllAsMarkdown() {
  std::string out =
      "# Flags\n\nMade by `sterna help --markdown`; do not edit. Flags are `--name value` or "
      "`--name=value`.\n";
  for (const Command& command : Commands()) {
    absl::StrAppend(&out, "\n## sterna ", std::string(command.name), "\n\n",
                    std::string(command.summary), "\n\n", command.describe_flags(true));
  }
  return out;
}

int UnknownCommand(const std::string& name) {
  std::vector<std::string> names = {"help", "version"};
  for (const Command& command : Commands()) names.emplace_back(command.name);
  const std::string closest = ClosestName(name, names);
  return UsageError(absl::InvalidArgumentError(
      absl::StrCat("unknown command '", name, "'",
                   closest.empty() ? "; sterna help lists them"
                                   : absl::StrCat("; did you mean ", closest, "?"))));
}

int Help(const std::vector<std::string>& args) {
  if (args.empty()) {
    std::fputs(Overview().c_str(), stdout);
    return kExitOk;
  }
  if (args[0] == "--markdown") {
    std::fputs(AllAsMarkdown().c_str(), stdout);
    return kExitOk;
  }
  for (const Command& command : Commands()) {
    if (command.name != args[0]) continue;
    std::fputs(Explain(command).c_str(), stdout);
    return kExitOk;
  }
  return UnknownCommand(args[0]);
}

int Main(std::vector<std::string> args) {
  if (args.empty()) {
    std::fputs(Overview().c_str(), stderr);
    return kExitUsage;
  }
  const std::string name = args[0];
  args.erase(args.begin());
  if (name == "help" || name == "--help" || name == "-h") return Help(args);
  if (name == "version" || name == "--version") {
    std::printf("sterna %s\n", STERNA_VERSION);
    return kExitOk;
  }
  for (const std::string& arg : args) {
    if (arg == "--help" || arg == "-h") return Help({name});
  }
  for (const Command& command : Commands()) {
    if (command.name == name) return command.run(args);
  }
  return UnknownCommand(name);
}

}  // namespace
}  // namespace sterna

int main(int argc, char** argv) { return sterna::Main({argv + 1, argv + argc}); }
