#include "loadtest/prometheus_text.h"

#include <cstddef>

#include "absl/strings/numbers.h"

namespace sterna {

MetricSamples ParsePrometheusText(std::string_view text) {
  MetricSamples samples;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.empty() || line[0] == '#') continue;
    // Label values may hold spaces; the value, and a time stamp perhaps, come after the brace.
    const size_t brace = line.rfind('}');
    const size_t name_end = brace == std::string_view::npos ? line.find(' ') : brace + 1;
    if (name_end >= line.size()) continue;
    const size_t value_begin = line.find_first_not_of(' ', name_end);
    if (value_begin == std::string_view::npos) continue;
    const size_t value_end = line.find(' ', value_begin);
    double value = 0;
    const std::string word(line.substr(value_begin, value_end - value_begin));
    if (absl::SimpleAtod(word, &value)) samples[std::string(line.substr(0, name_end))] = value;
  }
  return samples;
}

double SumOfSamples(const MetricSamples& samples, const std::string& name,
                    const std::string& label) {
  double sum = 0;
  for (const auto& [key, value] : samples) {
    const std::string own = key.substr(0, key.find('{'));
    if (own == name && key.find(label, own.size()) != std::string::npos) sum += value;
  }
  return sum;
}

}  // namespace sterna
