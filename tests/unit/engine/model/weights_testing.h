// What tests of loaded and of random weights share.
#ifndef STERNA_TESTS_UNIT_ENGINE_MODEL_WEIGHTS_TESTING_H_
#define STERNA_TESTS_UNIT_ENGINE_MODEL_WEIGHTS_TESTING_H_

#include <vector>

#include "engine/model/weights.h"
#include "gtest/gtest.h"

namespace sterna::testing {

// The same embedding, and rows of the head within half a step of `int8`'s.
inline void ExpectHeadRounded(const ModelWeights& exact, const ModelWeights& int8) {
  std::vector<float> x(static_cast<size_t>(exact.head.cols)), y(x);
  for (int64_t row = 0; row < exact.head.rows; ++row) {
    exact.embedding.CopyRow(row, x.data());
    int8.embedding.CopyRow(row, y.data());
    EXPECT_EQ(x, y);
    exact.head.CopyRow(row, x.data());
    int8.head.CopyRow(row, y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 0.501f * int8.head.scales[row]);
  }
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_UNIT_ENGINE_MODEL_WEIGHTS_TESTING_H_
