// `sterna-bench`: `sterna bench` alone, for machines that have none of the libraries of the
// transports.
#include <string>
#include <vector>

#include "server/command.h"

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  return sterna::BenchCommand().run(args);
}
