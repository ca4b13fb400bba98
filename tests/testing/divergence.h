// How far a backend's logits may be from the reference's, in the terms of whole models: the golden
// models there are, divergence and agreement of next-token distributions.
#ifndef STERNA_TESTS_TESTING_DIVERGENCE_H_
#define STERNA_TESTS_TESTING_DIVERGENCE_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "tests/testing/paths.h"

namespace sterna::testing {

// Their directories, in order of their names.
inline std::vector<std::string> GoldenModels() {
  std::vector<std::string> dirs;
  for (const auto& entry :
       std::filesystem::directory_iterator(SourcePath("tests/golden/data/models"))) {
    dirs.push_back(entry.path().string());
  }
  std::sort(dirs.begin(), dirs.end());
  return dirs;
}

inline size_t ArgMax(std::span<const double> row) {
  return static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

inline std::vector<double> LogSoftmax(std::span<const double> row) {
  const double largest = *std::max_element(row.begin(), row.end());
  double sum = 0;
  for (const double x : row) sum += std::exp(x - largest);
  std::vector<double> result;
  for (const double x : row) result.push_back(x - largest - std::log(sum));
  return result;
}

// What a backend's distributions lose against the reference's.
struct Divergence {
  int64_t positions = 0;
  int64_t same_top1 = 0;
  double kl_sum = 0;

  void Add(std::span<const double> reference, std::span<const double> actual) {
    const std::vector<double> p = LogSoftmax(reference);
    const std::vector<double> q = LogSoftmax(actual);
    for (size_t i = 0; i < p.size(); ++i) kl_sum += std::exp(p[i]) * (p[i] - q[i]);
    same_top1 += ArgMax(reference) == ArgMax(actual) ? 1 : 0;
    ++positions;
  }
  double mean_kl() const { return kl_sum / static_cast<double>(positions); }
  double agreement() const {
    return static_cast<double>(same_top1) / static_cast<double>(positions);
  }
};

}  // namespace sterna::testing

#endif  // STERNA_TESTS_TESTING_DIVERGENCE_H_
