#include "engine/model/weight_source.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "base/logging.h"
#include "engine/model/json_text.h"

namespace sterna {

void WarnOfUnused(const std::string& path, std::span<const std::string> names) {
  constexpr size_t kMaxNamed = 5;
  if (names.empty()) return;
  std::vector<std::string> shown;
  for (const std::string& name : names.first(std::min(names.size(), kMaxNamed))) {
    shown.push_back(Shown(name));
  }
  STERNA_LOG(kWarning, path, " has ", names.size(),
             " tensors that the model does not use: ", absl::StrJoin(shown, ", "),
             names.size() > kMaxNamed ? ", ..." : "");
}

}  // namespace sterna
