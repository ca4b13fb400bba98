// What a load test found, as a table for people and as JSON for programs.
#ifndef STERNA_LOADTEST_REPORT_H_
#define STERNA_LOADTEST_REPORT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "loadtest/options.h"
#include "loadtest/run.h"
#include "loadtest/statistics.h"

namespace sterna {

// One figure as the clients and as the server count it.
struct CounterComparison {
  std::string name;  // of the server's counter
  double client = 0;
  double server = 0;     // its increase over the test
  double tolerance = 0;  // by which the two may differ, e.g. for rounding
  bool matches() const;
};

struct Report {
  std::string model;
  double seconds = 0;
  bool interrupted = false;
  int64_t sent = 0;
  int64_t succeeded = 0;
  int64_t late_starts = 0;
  std::map<std::string, int64_t> errors;             // by kind
  std::map<std::string, std::string> error_details;  // an example of each
  // Of requests that succeeded, as all that follows.
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  Distribution ttft_ms;
  Distribution itl_ms;   // between pieces of text; a piece may hold several tokens
  Distribution tpot_ms;  // a request's time after its first token, by further token
  Distribution e2e_ms;
  double energy_joules = 0;
  std::string energy_method;                // empty: none was reported
  std::optional<int64_t> good;              // requests within the limits, where there are any
  std::vector<CounterComparison> counters;  // empty: the server exports none of them

  bool CountersMatch() const;  // false when there are none
};

Report MakeReport(const LoadtestOptions& options, const LoadtestResult& result);
std::string ReportAsTable(const Report& report);
std::string ReportAsJson(const LoadtestOptions& options, const Report& report);

}  // namespace sterna

#endif  // STERNA_LOADTEST_REPORT_H_
