// A corpus of broken checkpoints: good ones of every family and container, each with one fault.
// broken_checkpoints_test.cc has to find them all.
#ifndef STERNA_TESTS_UNIT_ENGINE_BROKEN_CHECKPOINTS_H_
#define STERNA_TESTS_UNIT_ENGINE_BROKEN_CHECKPOINTS_H_

#include <functional>
#include <string>
#include <vector>

#include "engine/model/lint.h"
#include "tests/testing/gguf_model.h"
#include "tests/testing/temp_dir.h"
#include "tests/unit/engine/model/checkpoint_testing.h"

namespace sterna::testing {

struct Fault {
  std::string name;
  // kError: the checkpoint is refused; kWarning: it loads, and is warned about.
  LintFinding::Severity severity;
  std::vector<std::string> messages;  // all in one finding
  // Makes the checkpoint in `dir` and returns what to open.
  std::function<std::string(const TempDir& dir)> make;
};

std::vector<Fault> SafetensorsFaults();
std::vector<Fault> GgufFaults();

// What the faults are done to.
std::vector<Fault> GoodSafetensors();
std::vector<Fault> GoodGguf();

}  // namespace sterna::testing

#endif  // STERNA_TESTS_UNIT_ENGINE_BROKEN_CHECKPOINTS_H_
