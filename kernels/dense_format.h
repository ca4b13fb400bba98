// How dense weights, the embedding table and the output head, lie in memory.
//
// kRows is row-major, as checkpoints store them. kTiles is for bf16 and int8 and what DenseLinear
// wants: tiles of 1 KiB with 16 rows, in 16 lines of 64 bytes. A line has four bytes of every row,
// row after row: columns 2i and 2i + 1 in bf16, 4i .. 4i + 3 in int8, where i = 0 .. 15 is the
// line. A line is a register whose lanes are rows, to be multiplied by broadcast activations, or a
// row of an AMX tile. Tiles are ordered by row block, then by column block: who owns a row block
// reads memory front to back. Rows and columns that pad the last tile are zero bytes; in int8 those
// mean -128, so activations must be zero there.
//
// int8 weights are -127 .. 127 with one scale a row, its largest magnitude / 127, and are stored as
// unsigned bytes, 128 more than they are: vpdpbusd takes one unsigned operand.
#ifndef STERNA_KERNELS_DENSE_FORMAT_H_
#define STERNA_KERNELS_DENSE_FORMAT_H_

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/check.h"

namespace sterna {

// The element types a dense weight matrix can have.
enum class DenseType { kF32, kBf16, kI8 };
enum class DenseLayout { kRows, kTiles };

inline const char* DenseTypeName(DenseType type) {
  return type == DenseType::kF32 ? "f32" : type == DenseType::kBf16 ? "bf16" : "int8";
}

inline constexpr int64_t kDenseTileRows = 16;
inline constexpr int64_t kDenseLineBytes = 64;
inline constexpr int64_t kDenseTileBytes = kDenseTileRows * kDenseLineBytes;
inline constexpr int kDenseInt8Offset = 128;  // of an int8 weight as it is stored
// So that sums of products of two bytes fit an int32.
inline constexpr int64_t kMaxDenseInt8Cols = 65536;

// A view of [rows, cols] dense weights; owns nothing.
struct DenseMatrix {
  DenseType type = DenseType::kF32;
  DenseLayout layout = DenseLayout::kRows;
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  const float* scales = nullptr;  // kI8: [rows]

  int64_t element_bytes() const {
    return type == DenseType::kF32 ? 4 : type == DenseType::kBf16 ? 2 : 1;
  }
  int64_t tile_cols() const { return kDenseLineBytes / element_bytes(); }
  int64_t row_blocks() const { return (rows + kDenseTileRows - 1) / kDenseTileRows; }
  int64_t col_blocks() const { return (cols + tile_cols() - 1) / tile_cols(); }
  // Of `data`, padding included.
  int64_t data_bytes() const {
    return layout == DenseLayout::kRows ? rows * cols * element_bytes()
                                        : row_blocks() * col_blocks() * kDenseTileBytes;
  }
  int64_t bytes() const {
    return data_bytes() + (scales != nullptr ? rows * static_cast<int64_t>(sizeof(float)) : 0);
  }

  // Calls body(col, i) for every column of a row, in order; i is where its element lies.
  template <typename Body>
  void ForRow(int64_t row, const Body& body) const {
    if (layout == DenseLayout::kRows) {
      for (int64_t col = 0; col < cols; ++col) body(col, row * cols + col);
      return;
    }
    const int64_t in_line = 4 / element_bytes();  // columns of one row
    const int64_t line = kDenseTileRows * in_line;
    int64_t i = row / kDenseTileRows * col_blocks() * kDenseTileRows * line +
                row % kDenseTileRows * in_line;
    for (int64_t col = 0; col < cols; col += in_line, i += line) {
      for (int64_t j = 0; j < in_line && col + j < cols; ++j) body(col + j, i + j);
    }
  }
  // out[cols] = row `row`, exactly.
  template <typename F>
  void CopyRow(int64_t row, F* out) const {
    switch (type) {
      case DenseType::kF32: {
        const auto* values = static_cast<const float*>(data);
        return ForRow(row, [&](int64_t col, int64_t i) { out[col] = values[i]; });
      }
      case DenseType::kBf16: {
        const auto* values = static_cast<const uint16_t*>(data);
        return ForRow(row, [&](int64_t col, int64_t i) {
          out[col] = std::bit_cast<float>(uint32_t{values[i]} << 16);
        });
      }
      case DenseType::kI8: {
        const auto* values = static_cast<const uint8_t*>(data);
        const F scale = scales[row];
        return ForRow(row, [&](int64_t col, int64_t i) {
          out[col] = static_cast<F>(values[i] - kDenseInt8Offset) * scale;
        });
      }
    }
  }
};

// Writes row `row` ([m.cols], elements as they are stored) into `tiles`, the zeroed memory that
// `m`, in kTiles, describes.
template <typename E>
void PackDenseRow(const DenseMatrix& m, int64_t row, std::span<const E> values, E* tiles) {
  STERNA_CHECK(m.element_bytes() == static_cast<int64_t>(sizeof(E)));
  STERNA_CHECK(m.layout == DenseLayout::kTiles && row >= 0 && row < m.rows);
  STERNA_CHECK(static_cast<int64_t>(values.size()) == m.cols);
  m.ForRow(row, [&](int64_t col, int64_t i) { tiles[i] = values[static_cast<size_t>(col)]; });
}

// Loops over rows of a head are most of what loading takes, so they keep this many results side by
// side, which the compiler makes vectors of.
inline constexpr size_t kRowLanes = 8;

// Calls body(lane, i) for i = 0 .. n-1, lane by lane.
template <typename Body>
void ForLanes(size_t n, const Body& body) {
  const size_t whole = n / kRowLanes * kRowLanes;
  for (size_t i = 0; i < whole; i += kRowLanes) {
    for (size_t lane = 0; lane < kRowLanes; ++lane) body(lane, i + lane);
  }
  for (size_t lane = 0; lane < n - whole; ++lane) body(lane, whole + lane);
}

// The largest magnitude; NaN if there is one.
inline float LargestMagnitude(std::span<const float> values) {
  // Magnitudes are ordered as their bits are, NaN above infinity.
  int32_t largest[kRowLanes] = {};
  ForLanes(values.size(), [&](size_t lane, size_t i) {
    const int32_t bits = std::bit_cast<int32_t>(values[i]) & 0x7fffffff;
    largest[lane] = bits > largest[lane] ? bits : largest[lane];
  });
  return std::bit_cast<float>(*std::max_element(largest, largest + kRowLanes));
}

// To the nearest integer, ties to even, |x| < 2^22: the sum has no room for a fraction. Unlike the
// library's functions it can be compiled to vectors of any instruction set.
inline float RoundHalfEven(float x) {
  constexpr float kNoFraction = 0x1.8p23f;
  return (x + kNoFraction) - kNoFraction;
}

// Rounds a row to int8, as tiles store it, into `codes` [values.size()]. Returns the row's scale, 0
// for a row of zeros; one that is not finite where the row is not, `codes` then as they were.
inline float RoundDenseRow(std::span<const float> values, std::span<uint8_t> codes) {
  STERNA_CHECK(values.size() == codes.size());
  const float scale = LargestMagnitude(values) / 127.0f;
  if (!std::isfinite(scale)) return scale;
  const float divisor = scale > 0.0f ? scale : 1.0f;
  const auto round = [divisor](float value) {
    // A denormal scale has few bits, so the quotient can be more than 127.
    const float code = std::clamp(RoundHalfEven(value / divisor), -127.0f, 127.0f);
    return kDenseInt8Offset + static_cast<int>(code);
  };
  const size_t whole = values.size() / kRowLanes * kRowLanes;
  for (size_t i = 0; i < whole; i += kRowLanes) {
    int rounded[kRowLanes];  // apart from `codes`, which could be the bytes of `values`
    for (size_t lane = 0; lane < kRowLanes; ++lane) rounded[lane] = round(values[i + lane]);
    for (size_t lane = 0; lane < kRowLanes; ++lane) {
      codes[i + lane] = static_cast<uint8_t>(rounded[lane]);
    }
  }
  for (size_t i = whole; i < values.size(); ++i) codes[i] = static_cast<uint8_t>(round(values[i]));
  return scale;
}

}  // namespace sterna

#endif  // STERNA_KERNELS_DENSE_FORMAT_H_
