#include "kernels/cuda/dense_fragment_format.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace sterna::cuda {
namespace {

// Calls body(first column, codes) for every kInt8GroupCols columns of a row.
template <typename Body>
void ForInt8Codes(const DenseMatrix& m, int64_t row, const Body& body) {
  const auto* tiles = static_cast<const uint8_t*>(m.data);
  m.ForInt8Groups(row, [&](int64_t col, int64_t high, int64_t low) {
    Int8GroupLines lines;
    for (int64_t j = 0; j < kInt8HighLines; ++j) {
      std::memcpy(&lines.high[j], tiles + high + j * kDenseLineBytes, sizeof(uint32_t));
    }
    std::memcpy(&lines.low, tiles + low, sizeof(lines.low));
    const Int8GroupCodes words = UnpackInt8Group(lines);
    uint8_t codes[kInt8GroupCols];
    std::memcpy(codes, &words, sizeof(codes));
    body(col, codes);
  });
}

}  // namespace

void PackDenseFragments(const DenseMatrix& m, int64_t first, int64_t row_blocks, uint8_t* packed) {
  STERNA_CHECK(m.type != DenseType::kI6);
  STERNA_CHECK(first >= 0 && row_blocks >= 0 && first + row_blocks <= m.row_blocks());
  const int64_t begin = first * kDenseFragmentRows;
  const int64_t end = std::min(m.rows, begin + row_blocks * kDenseFragmentRows);
  if (m.type == DenseType::kF32) {
    for (int64_t row = begin; row < end; ++row) {
      m.CopyRow(row, reinterpret_cast<float*>(packed) + (row - begin) * m.cols);
    }
    return;
  }
  std::memset(packed, 0, static_cast<size_t>(DensePackedBytes(m, first, row_blocks)));
  for (int64_t row = begin; row < end; ++row) {
    const auto at = [&](int64_t col) {
      return packed + LocateDenseFragment(m.type, row - begin, col, m.cols);
    };
    if (m.type == DenseType::kBf16) {
      const auto* values = static_cast<const uint16_t*>(m.data);
      m.ForRow(row, [&](int64_t col, int64_t i) { std::memcpy(at(col), values + i, 2); });
    } else {
      ForInt8Codes(m, row, [&](int64_t col, const uint8_t* codes) {
        for (int64_t i = 0; i < kInt8GroupCols && col + i < m.cols; ++i) {
          *at(col + i) = static_cast<uint8_t>(codes[i] - kDenseInt8Offset);
        }
      });
    }
  }
}

}  // namespace sterna::cuda
