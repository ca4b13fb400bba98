// Prints docs/metrics.md from the table in server/metrics/metric_names.h.
#include <iostream>

#include "server/metrics/metrics_page.h"

int main() {
  std::cout << sterna::MetricsPage();
  return 0;
}
