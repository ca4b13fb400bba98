// How the weights of a ternary matrix are distributed, counted on the packed codes.
#ifndef STERNA_ENGINE_MODEL_TERNARY_STATISTICS_H_
#define STERNA_ENGINE_MODEL_TERNARY_STATISTICS_H_

#include <cstdint>

#include "kernels/ternary_format.h"

namespace sterna {

struct TernaryStatistics {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t weights = 0;
  int64_t zeros = 0;
  int64_t plus = 0;  // +1
  int64_t zero_rows = 0;
  int64_t zero_cols = 0;

  int64_t minus() const { return weights - zeros - plus; }
  int64_t nonzeros() const { return weights - zeros; }
};

// Of a matrix in kBlocks16x64. One pass, at about the speed of memory; one thread.
TernaryStatistics CountTernary(const TernaryMatrix& matrix);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_TERNARY_STATISTICS_H_
