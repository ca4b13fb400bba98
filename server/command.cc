#include "server/command.h"

#include <cstdio>

namespace sterna {

namespace {

void PrintError(const Status& status) {
  std::fprintf(stderr, "sterna: %s\n", std::string(status.message()).c_str());
}

}  // namespace

int UsageError(const Status& status) {
  PrintError(status);
  return kExitUsage;
}

int Failure(const Status& status) {
  PrintError(status);
  return kExitFailure;
}

std::string DescribeFlags(std::span<const Flag> flags, bool markdown) {
  return markdown ? FlagsAsMarkdown(flags) : FlagsAsText(flags);
}

}  // namespace sterna
