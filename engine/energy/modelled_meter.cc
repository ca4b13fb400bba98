#include "engine/energy/modelled_meter.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "base/check.h"

namespace sterna {

ModelledMeter::ModelledMeter(double watts_per_core, double idle_watts, const Clock& clock,
                             std::function<int64_t()> cpu_time_ns)
    : watts_per_core_(watts_per_core),
      idle_watts_(idle_watts),
      clock_(clock),
      cpu_time_ns_(std::move(cpu_time_ns)),
      start_ns_(clock.NowNs()),
      start_cpu_ns_(cpu_time_ns_()) {
  STERNA_CHECK(watts_per_core >= 0 && idle_watts >= 0);
}

StatusOr<int64_t> ModelledMeter::ReadNanojoules() {
  // A watt is a nanojoule per nanosecond. Each term is monotonic and so is its truncation.
  const double busy_nj = watts_per_core_ * static_cast<double>(cpu_time_ns_() - start_cpu_ns_);
  const double rest_nj = idle_watts_ * static_cast<double>(clock_.NowNs() - start_ns_);
  return static_cast<int64_t>(busy_nj) + static_cast<int64_t>(rest_nj);
}

std::string ModelledMeter::scope() const {
  return absl::StrFormat("process cpu time x %.1f W + elapsed time x %.1f W", watts_per_core_,
                         idle_watts_);
}

}  // namespace sterna
