// The two tables of filters, by what they work on.
// Thread contract: pure functions.
#ifndef STERNA_ENGINE_TEXT_JINJA_FILTERS_H_
#define STERNA_ENGINE_TEXT_JINJA_FILTERS_H_

#include <functional>
#include <map>
#include <string>

#include "base/status.h"
#include "engine/text/jinja/environment.h"

namespace sterna::jinja {

using Filter = StatusOr<Value> (*)(Runtime*, const Value&, const Arguments&);
using FilterTable = std::map<std::string, Filter, std::less<>>;

const FilterTable& ScalarFilters();    // texts and numbers
const FilterTable& SequenceFilters();  // lists and dicts

// An argument that is an integer, or `otherwise` when absent.
StatusOr<int64_t> IntegerArgument(const Arguments& arguments, size_t index, const std::string& name,
                                  int64_t otherwise);
// The truth of an argument, or `otherwise` when absent.
bool FlagArgument(const Arguments& arguments, size_t index, const std::string& name,
                  bool otherwise);

}  // namespace sterna::jinja

#endif  // STERNA_ENGINE_TEXT_JINJA_FILTERS_H_
