// Where tests find their files.
#ifndef STERNA_TESTS_TESTING_PATHS_H_
#define STERNA_TESTS_TESTING_PATHS_H_

#include <string>
#include <string_view>

namespace sterna::testing {

// Absolute path of a file in the source tree, e.g. SourcePath("models/stories").
std::string SourcePath(std::string_view relative);

// Absolute path under the optional reference data; empty when that file is not there, and the test
// should then GTEST_SKIP() << what it could not check.
std::string SharedDataPath(std::string_view relative);

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_PATHS_H_
