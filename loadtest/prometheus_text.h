// Reads a page in Prometheus' text format.
#ifndef STERNA_LOADTEST_PROMETHEUS_TEXT_H_
#define STERNA_LOADTEST_PROMETHEUS_TEXT_H_

#include <map>
#include <string>
#include <string_view>

namespace sterna {

// Sample name with its labels as written, e.g. `x_total{code="200"}`, to value. Lines that are no
// samples are passed over.
using MetricSamples = std::map<std::string, double>;
MetricSamples ParsePrometheusText(std::string_view text);

// The sum over all samples of `name` that carry `label` (as written, e.g. `phase="decode"`; empty:
// any labels or none).
double SumOfSamples(const MetricSamples& samples, const std::string& name,
                    const std::string& label = "");

}  // namespace sterna

#endif  // STERNA_LOADTEST_PROMETHEUS_TEXT_H_
