// The reference page of the metrics, made from their table.
#ifndef STERNA_SERVER_METRICS_METRICS_PAGE_H_
#define STERNA_SERVER_METRICS_METRICS_PAGE_H_

#include <string>

namespace sterna {

// docs/metrics.md, as Markdown.
std::string MetricsPage();

}  // namespace sterna

#endif  // STERNA_SERVER_METRICS_METRICS_PAGE_H_
