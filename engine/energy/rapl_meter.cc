#include "engine/energy/rapl_meter.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace sterna {
namespace {

namespace fs = std::filesystem;

// Attributes in sysfs are one short line each; they cannot be mapped, and pretend to have 4096
// bytes.
StatusOr<std::string> ReadWord(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  char buffer[128];
  const ssize_t size = read(fd, buffer, sizeof(buffer));
  const int error = errno;
  close(fd);
  if (size < 0) return absl::ErrnoToStatus(error, absl::StrCat("cannot read ", path));
  const std::string text(buffer, static_cast<size_t>(size));
  return std::string(absl::StripAsciiWhitespace(text));
}

StatusOr<int64_t> ReadCount(const std::string& path) {
  STERNA_ASSIGN_OR_RETURN(const std::string word, ReadWord(path));
  int64_t value = 0;
  if (!absl::SimpleAtoi(word, &value) || value < 0) {
    return absl::DataLossError(
        absl::StrCat(path, ": '", word, "' is not a count of microjoules (an integer >= 0)"));
  }
  return value;
}

std::vector<std::string> SubdirectoriesStartingWith(const std::string& dir,
                                                    const std::string& prefix) {
  std::vector<std::string> result;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir, error)) {
    if (entry.path().filename().string().starts_with(prefix)) {
      result.push_back(entry.path().string());
    }
  }
  std::sort(result.begin(), result.end());
  return result;
}

}  // namespace

StatusOr<std::unique_ptr<RaplMeter>> RaplMeter::Create(const std::string& sysfs_root) {
  const std::string powercap = absl::StrCat(sysfs_root, "/class/powercap");
  std::vector<Domain> domains;
  bool has_dram = false;
  const auto add = [&](const std::string& zone) -> Status {
    Domain domain;
    domain.energy_path = absl::StrCat(zone, "/energy_uj");
    STERNA_ASSIGN_OR_RETURN(domain.max_range_uj,
                            ReadCount(absl::StrCat(zone, "/max_energy_range_uj")));
    StatusOr<int64_t> energy = ReadCount(domain.energy_path);
    if (absl::IsPermissionDenied(energy.status())) {
      return absl::PermissionDeniedError(absl::StrCat(
          domain.energy_path, " may not be read; run as root or grant read permission on it"));
    }
    STERNA_ASSIGN_OR_RETURN(domain.last_uj, std::move(energy));
    domains.push_back(std::move(domain));
    return absl::OkStatus();
  };
  // "intel-rapl:<n>" is the zone's name on AMD, too. "intel-rapl-mmio:<n>" counts the same packages
  // again, and a top-level "psys" counts the platform, packages included: both are left out.
  for (const std::string& zone : SubdirectoriesStartingWith(powercap, "intel-rapl:")) {
    // Sub-zones appear under the powercap class as well as inside their package.
    const std::string zone_id =
        fs::path(zone).filename().string().substr(sizeof("intel-rapl:") - 1);
    if (zone_id.find(':') != std::string::npos) continue;
    STERNA_ASSIGN_OR_RETURN(const std::string name, ReadWord(absl::StrCat(zone, "/name")));
    if (!name.starts_with("package")) continue;
    STERNA_RETURN_IF_ERROR(add(zone));
    // Cores and uncore are parts of the package; DRAM is the one sub-zone that is not in its count.
    for (const std::string& sub : SubdirectoriesStartingWith(zone, "intel-rapl:")) {
      STERNA_ASSIGN_OR_RETURN(const std::string sub_name, ReadWord(absl::StrCat(sub, "/name")));
      if (sub_name != "dram") continue;
      STERNA_RETURN_IF_ERROR(add(sub));
      has_dram = true;
    }
  }
  if (domains.empty()) {
    return absl::NotFoundError(
        absl::StrCat("no RAPL package under ", powercap,
                     " (the intel_rapl_msr module is not loaded, or this is a virtual machine)"));
  }
  return std::unique_ptr<RaplMeter>(
      new RaplMeter(std::move(domains), has_dram ? "cpu package + dram" : "cpu package"));
}

RaplMeter::RaplMeter(std::vector<Domain> domains, std::string scope)
    : domains_(std::move(domains)), scope_(std::move(scope)) {}

StatusOr<int64_t> RaplMeter::ReadNanojoules() {
  Status failure;
  for (Domain& domain : domains_) {
    const StatusOr<int64_t> now_uj = ReadCount(domain.energy_path);
    if (!now_uj.ok()) {
      failure.Update(now_uj.status());
      continue;  // the other domains keep up, so that no wrap of theirs is missed
    }
    total_uj_ += *now_uj - domain.last_uj;
    if (*now_uj < domain.last_uj) total_uj_ += domain.max_range_uj;
    domain.last_uj = *now_uj;
  }
  STERNA_RETURN_IF_ERROR(failure);
  return total_uj_ * 1000;
}

}  // namespace sterna
