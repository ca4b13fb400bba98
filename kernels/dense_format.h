// How dense weights, the embedding table and the output head, lie in memory.
//
// kRows is row-major, as checkpoints store them. kTiles is for bf16 and int8 and what DenseLinear
// wants: tiles with 16 rows, in lines of 64 bytes. A line has four bytes of every row, row after
// row, and is, or is unpacked to, registers whose lanes are rows, to be multiplied by broadcast
// activations, or rows of an AMX tile. Tiles are ordered by row block, then by column block: who
// owns a row block reads memory front to back. Rows and columns that pad the last tile are zero
// bytes.
//
// bf16: a tile has 32 columns, 2i and 2i + 1 in line i = 0 .. 15.
//
// int8 weights are -127 .. 127 with one scale a row, its largest magnitude / 127. Their codes are
// 128 more: vpdpbusd takes one unsigned operand. A tile has 64 columns, and of each 16, c + 4j + k
// with j and k = 0 .. 3,
//   three lines of high bits; for j < 3, byte k of a row in line j has bits 7 to 2 of the code of
//     c + 4j + k, and below them two bits of the code of c + 12 + k: 7 and 6 in line 0, 5 and 4 in
//     line 1, 3 and 2 in line 2;
//   a line of low bits, which has bits 1 and 0 of the code of c + 4j + k in bits 2j + 1 and 2j of
//     byte k of a row.
// The high bits of the whole matrix lie before all low bits. By themselves they are a matrix of
// type int6, three quarters of the bytes, whose weights are what is in the middle of those that
// have these bits: code & ~3, plus 1.5, less 128. The zeros that pad mean -128 (int6: -126.5), so
// activations must be zero there.
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
#include "kernels/bfloat16.h"

namespace sterna {

// The element types a dense weight matrix can have.
enum class DenseType { kF32, kBf16, kI8, kI6 };
// kFragments is that of kernels/cuda, in its device's memory.
enum class DenseLayout { kRows, kTiles, kFragments };

inline const char* DenseTypeName(DenseType type) {
  constexpr const char* kNames[] = {"f32", "bf16", "int8", "int6"};
  return kNames[static_cast<int>(type)];
}

inline constexpr int64_t kDenseTileRows = 16;
inline constexpr int64_t kDenseLineBytes = 64;
inline constexpr int64_t kDenseTileBytes = kDenseTileRows * kDenseLineBytes;  // bf16, int8
inline constexpr int kDenseInt8Offset = 128;  // of the code of an int8 weight
// int8 and int6: columns whose lines are unpacked together, and their lines of either kind.
inline constexpr int64_t kInt8GroupCols = 16;
inline constexpr int64_t kInt8HighLines = 3;
inline constexpr int64_t kInt8LowLines = 1;
// Bytes of either kind in a tile.
inline constexpr int64_t kInt8HighTileBytes =
    kDenseLineBytes / kInt8GroupCols * kInt8HighLines * kDenseLineBytes;
inline constexpr int64_t kInt8LowTileBytes =
    kDenseLineBytes / kInt8GroupCols * kInt8LowLines * kDenseLineBytes;
static_assert(kInt8HighTileBytes + kInt8LowTileBytes == kDenseTileBytes);
// So that sums of products of two bytes fit an int32.
inline constexpr int64_t kMaxDenseInt8Cols = 65536;

// The weight, times 1 / scale, of a code of int8; and what int6 takes it for.
template <typename F>
F Int8Weight(uint8_t code) {
  return static_cast<F>(code - kDenseInt8Offset);
}
template <typename F>
F Int6Weight(uint8_t code) {
  return static_cast<F>((code & ~3) - kDenseInt8Offset) + static_cast<F>(1.5);
}

// What one row has of kInt8GroupCols columns: codes of four columns to a word, and the same in
// lines.
struct Int8GroupCodes {
  uint32_t of[kInt8GroupCols / 4];
};
struct Int8GroupLines {
  uint32_t high[kInt8HighLines];
  uint32_t low;
};

inline Int8GroupLines PackInt8Group(const Int8GroupCodes& codes) {
  constexpr uint32_t kHigh = 0xfcfcfcfc, kLow = 0x03030303;
  const uint32_t last = codes.of[3];
  return {.high = {(codes.of[0] & kHigh) | (last >> 6 & kLow),
                   (codes.of[1] & kHigh) | (last >> 4 & kLow),
                   (codes.of[2] & kHigh) | (last >> 2 & kLow)},
          .low = (codes.of[0] & kLow) | (codes.of[1] & kLow) << 2 | (codes.of[2] & kLow) << 4 |
                 (last & kLow) << 6};
}

inline Int8GroupCodes UnpackInt8Group(const Int8GroupLines& lines) {
  constexpr uint32_t kHigh = 0xfcfcfcfc, kLow = 0x03030303;
  return {{(lines.high[0] & kHigh) | (lines.low & kLow),
           (lines.high[1] & kHigh) | (lines.low >> 2 & kLow),
           (lines.high[2] & kHigh) | (lines.low >> 4 & kLow),
           (lines.high[0] & kLow) << 6 | (lines.high[1] & kLow) << 4 | (lines.high[2] & kLow) << 2 |
               (lines.low >> 6 & kLow)}};
}

// A view of [rows, cols] dense weights; owns nothing.
struct DenseMatrix {
  DenseType type = DenseType::kF32;
  DenseLayout layout = DenseLayout::kRows;
  const void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  const float* scales = nullptr;  // kI8, kI6: [rows]

  int64_t tile_cols() const {
    return type == DenseType::kBf16 ? kDenseLineBytes / 2 : kDenseLineBytes;
  }
  int64_t tile_bytes() const {
    return type == DenseType::kI6 ? kInt8HighTileBytes : kDenseTileBytes;
  }
  int64_t row_blocks() const { return (rows + kDenseTileRows - 1) / kDenseTileRows; }
  int64_t col_blocks() const { return (cols + tile_cols() - 1) / tile_cols(); }
  // Of `data`, padding included. Fragments are padded to 16 rows and 32 bytes of each.
  int64_t data_bytes() const {
    constexpr int64_t kElementBytes[] = {4, 2, 1, 1};
    const int64_t row_bytes = cols * kElementBytes[static_cast<int>(type)];
    switch (layout) {
      case DenseLayout::kRows:
        return rows * row_bytes;
      case DenseLayout::kTiles:
        return row_blocks() * col_blocks() * tile_bytes();
      case DenseLayout::kFragments:
        return row_blocks() * kDenseTileRows * ((row_bytes + 31) / 32 * 32);
    }
    STERNA_CHECK(false);
  }
  int64_t bytes() const {
    return data_bytes() + (scales != nullptr ? rows * static_cast<int64_t>(sizeof(float)) : 0);
  }

  // Of kI8: the matrix that its high bits are.
  DenseMatrix HighBits() const {
    DenseMatrix high = *this;
    high.type = DenseType::kI6;
    return high;
  }
  // Of kI8: where the low bits lie in `data`.
  int64_t low_bits_offset() const { return HighBits().data_bytes(); }

  // f32 and bf16: calls body(col, i) for every column of a row, in order; i is where its element
  // lies.
  template <typename Body>
  void ForRow(int64_t row, const Body& body) const {
    if (layout == DenseLayout::kRows) {
      for (int64_t col = 0; col < cols; ++col) body(col, row * cols + col);
      return;
    }
    constexpr int64_t kInLine = 2;  // columns of one row
    constexpr int64_t kLine = kDenseTileRows * kInLine;
    int64_t i = row / kDenseTileRows * col_blocks() * kDenseTileRows * kLine +
                row % kDenseTileRows * kInLine;
    for (int64_t col = 0; col < cols; col += kInLine, i += kLine) {
      for (int64_t j = 0; j < kInLine && col + j < cols; ++j) body(col + j, i + j);
    }
  }
  // kI8 and kI6: calls body(first column, its high lines, its low line) for every kInt8GroupCols
  // columns of a row, in order; the lines as offsets in `data` of the row's bytes in the first.
  template <typename Body>
  void ForInt8Groups(int64_t row, const Body& body) const {
    const int64_t groups = col_blocks() * (kDenseLineBytes / kInt8GroupCols);
    int64_t group = row / kDenseTileRows * groups;
    const int64_t lane = row % kDenseTileRows * 4;
    for (int64_t col = 0; col < cols; col += kInt8GroupCols, ++group) {
      body(col, group * kInt8HighLines * kDenseLineBytes + lane,
           low_bits_offset() + group * kInt8LowLines * kDenseLineBytes + lane);
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
        return ForRow(row, [&](int64_t col, int64_t i) { out[col] = Bf16ToFloat(values[i]); });
      }
      case DenseType::kI8:
      case DenseType::kI6: {
        const auto* tiles = static_cast<const uint8_t*>(data);
        const bool has_low = type == DenseType::kI8;
        return ForInt8Groups(row, [&](int64_t col, int64_t high, int64_t low) {
          Int8GroupLines lines = {};
          for (int64_t j = 0; j < kInt8HighLines; ++j) {
            std::memcpy(&lines.high[j], tiles + high + j * kDenseLineBytes, sizeof(uint32_t));
          }
          if (has_low) std::memcpy(&lines.low, tiles + low, sizeof(lines.low));
          const Int8GroupCodes words = UnpackInt8Group(lines);
          uint8_t codes[kInt8GroupCols];
          std::memcpy(codes, &words, sizeof(codes));
          for (int64_t i = 0; i < kInt8GroupCols && col + i < cols; ++i) {
            out[col + i] =
                (has_low ? Int8Weight<F>(codes[i]) : Int6Weight<F>(codes[i])) * scales[row];
          }
        });
      }
    }
  }
};

// Writes row `row` ([m.cols], bf16) into `tiles`, the zeroed memory that `m`, in kTiles, describes.
inline void PackBf16Row(const DenseMatrix& m, int64_t row, std::span<const uint16_t> values,
                        uint16_t* tiles) {
  STERNA_CHECK(m.type == DenseType::kBf16 && m.layout == DenseLayout::kTiles);
  STERNA_CHECK(row >= 0 && row < m.rows && std::ssize(values) == m.cols);
  m.ForRow(row, [&](int64_t col, int64_t i) { tiles[i] = values[static_cast<size_t>(col)]; });
}

// The same for codes of int8.
inline void PackInt8Row(const DenseMatrix& m, int64_t row, std::span<const uint8_t> codes,
                        uint8_t* tiles) {
  STERNA_CHECK(m.type == DenseType::kI8 && m.layout == DenseLayout::kTiles);
  STERNA_CHECK(row >= 0 && row < m.rows && std::ssize(codes) == m.cols);
  m.ForInt8Groups(row, [&](int64_t col, int64_t high, int64_t low) {
    Int8GroupCodes words = {};
    std::memcpy(&words, &codes[static_cast<size_t>(col)],
                static_cast<size_t>(std::min(kInt8GroupCols, m.cols - col)));
    const Int8GroupLines lines = PackInt8Group(words);
    for (int64_t j = 0; j < kInt8HighLines; ++j) {
      std::memcpy(tiles + high + j * kDenseLineBytes, &lines.high[j], sizeof(uint32_t));
    }
    std::memcpy(tiles + low, &lines.low, sizeof(lines.low));
  });
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

// Rounds a row to codes of int8 [values.size()]. Returns the row's scale, 0 for a row of zeros; one
// that is not finite where the row is not, `codes` then as they were.
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
