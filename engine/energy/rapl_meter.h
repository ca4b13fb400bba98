// The CPU's own energy counters (RAPL) through Linux's powercap files: all packages, and their DRAM
// where the processor counts it apart. Root-only since CVE-2020-8694. Counts the whole machine, not
// this process.
// Thread contract: as EnergyMeter.
#ifndef STERNA_ENGINE_ENERGY_RAPL_METER_H_
#define STERNA_ENGINE_ENERGY_RAPL_METER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/status.h"
#include "engine/energy/energy_meter.h"

namespace sterna {

class RaplMeter final : public EnergyMeter {
 public:
  // `sysfs_root` is "/sys" but in tests. NotFound when there are no counters, PermissionDenied when
  // they may not be read; both say what would help.
  static StatusOr<std::unique_ptr<RaplMeter>> Create(const std::string& sysfs_root);

  StatusOr<int64_t> ReadNanojoules() override;
  std::string method() const override { return "rapl"; }
  std::string scope() const override { return scope_; }
  int64_t update_interval_ns() const override { return 1'000'000; }

 private:
  struct Domain {
    std::string energy_path;   // .../energy_uj
    int64_t max_range_uj = 0;  // the counter wraps to 0 after this value
    int64_t last_uj = 0;
  };

  RaplMeter(std::vector<Domain> domains, std::string scope);

  std::vector<Domain> domains_;
  std::string scope_;
  int64_t total_uj_ = 0;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_ENERGY_RAPL_METER_H_
