// Guesses what somebody who misspelt a name meant, for error messages.
#ifndef STERNA_SERVER_CLOSEST_NAME_H_
#define STERNA_SERVER_CLOSEST_NAME_H_

#include <span>
#include <string>
#include <string_view>

namespace sterna {

// The entry of `names` with the smallest edit distance to `name`; empty when nothing is near (more
// than half of the letters would have to change).
std::string ClosestName(std::string_view name, std::span<const std::string> names);

}  // namespace sterna

#endif  // STERNA_SERVER_CLOSEST_NAME_H_
