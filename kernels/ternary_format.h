// THE in-memory layout of ternary weights: 2 bits a weight, blocks of 16 rows x 64 columns. Loaders
// make it, and a device that multiplies from another one converts it (Ops::Place).
//
// A weight w in {-1, 0, +1} is stored as its code c = w + 1 in {0, 1, 2}; code 3 never occurs.
// A block is 256 bytes: four 64-byte lines. Line j holds columns 16j .. 16j+15 of the block:
//
//            bit 7 6   5 4   3 2   1 0
//   byte b = | i=3 | i=2 | i=1 | i=0 |      row = b / 4, column = 16*j + 4*i + b % 4
//
// so `(line >> 2*i) & 3` is a register of 64 codes in which each 32-bit lane holds four
// neighbouring columns of one row: the unsigned operand of vpdpbusd against a broadcast of four
// int8 activations, and, stored, exactly four rows of an AMX B tile. Blocks are ordered by row
// block, then by column block, so that a thread that owns a row block reads memory front to back.
//
// Rows and columns that pad the last block hold code 1 (weight 0).
//
// Scales of rows or groups lie as their block's rows do: 16 of a row block, group after group, so
// that what a register of 16 rows wants is one load. Padding has scale 0.
//
// Thread contract: none of these types synchronise; const access from many threads is fine.
#ifndef STERNA_KERNELS_TERNARY_FORMAT_H_
#define STERNA_KERNELS_TERNARY_FORMAT_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "kernels/device_memory.h"

namespace sterna {

inline constexpr int64_t kTernaryBlockRows = 16;
inline constexpr int64_t kTernaryBlockCols = 64;
inline constexpr int64_t kTernaryLineCols = 16;
inline constexpr int64_t kTernaryLineBytes = 64;
inline constexpr int64_t kTernaryBlockBytes = 256;
inline constexpr uint8_t kTernaryCodeZero = 1;
// Four codes of weight zero: what every byte of padding holds.
inline constexpr uint8_t kTernaryPaddingByte = 0x55;

static_assert(kTernaryBlockBytes == kTernaryBlockRows * kTernaryBlockCols * 2 / 8);
static_assert(kTernaryBlockBytes == kTernaryBlockCols / kTernaryLineCols * kTernaryLineBytes);
static_assert(kTernaryLineBytes == kCacheLineBytes);

constexpr int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t RoundUp(int64_t a, int64_t b) { return CeilDiv(a, b) * b; }

// Bytes of a packed [rows, cols] matrix, padding included.
constexpr int64_t TernaryPackedBytes(int64_t rows, int64_t cols) {
  return CeilDiv(rows, kTernaryBlockRows) * CeilDiv(cols, kTernaryBlockCols) * kTernaryBlockBytes;
}

// Where the code of (row, col) is.
struct TernaryCodePosition {
  int64_t byte;  // offset in the packed bytes
  int shift;     // of the 2-bit code within that byte: 0, 2, 4 or 6
};

constexpr TernaryCodePosition LocateTernaryCode(int64_t row, int64_t col, int64_t cols) {
  const int64_t col_blocks = CeilDiv(cols, kTernaryBlockCols);
  const int64_t block = row / kTernaryBlockRows * col_blocks + col / kTernaryBlockCols;
  const int64_t r = row % kTernaryBlockRows;
  const int64_t c = col % kTernaryBlockCols;
  return {
      .byte = block * kTernaryBlockBytes + c / kTernaryLineCols * kTernaryLineBytes + r * 4 + c % 4,
      .shift = static_cast<int>(c % kTernaryLineCols / 4 * 2)};
}

// What one scale covers.
enum class ScaleGranularity {
  kTensor,  // the matrix
  kRow,     // one output row
  kGroup,   // `group_size` neighbouring columns of one row
};

// How the codes and scales of a matrix lie, and in whose memory.
enum class TernaryLayout {
  kBlocks16x64,      // as drawn above, in memory that the host reads and writes
  kFragments16x128,  // of kernels/cuda, in its device's
};

// A packed weight matrix W [rows = outputs, cols = inputs] and its scales. The scale multiplies:
// W[n][k] = w[n][k] * scale. Move-only. What looks at single weights or scales, or sets them, is
// for kBlocks16x64 alone.
class TernaryMatrix {
 public:
  TernaryMatrix() = default;
  // All weights zero, one scale of 1 for the tensor.
  TernaryMatrix(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {
    STERNA_CHECK(rows > 0 && cols > 0);
    packed_ = DeviceArray<uint8_t>(AllocateHostMemory(TernaryPackedBytes(rows, cols)));
    std::memset(packed_.data(), kTernaryPaddingByte, static_cast<size_t>(packed_bytes()));
  }
  // The matrix that `host` is, as a device reads it: its codes and, unless one scale is for the
  // tensor, its scales, both in `layout`.
  static TernaryMatrix Placed(const TernaryMatrix& host, TernaryLayout layout, DeviceMemory packed,
                              DeviceMemory scales) {
    TernaryMatrix placed;
    placed.rows_ = host.rows_;
    placed.cols_ = host.cols_;
    placed.layout_ = layout;
    placed.packed_ = DeviceArray<uint8_t>(std::move(packed));
    placed.granularity_ = host.granularity_;
    placed.group_size_ = host.group_size_;
    placed.tensor_scale_ = host.tensor_scale_;
    placed.scales_ = DeviceArray<float>(std::move(scales));
    return placed;
  }

  bool empty() const { return rows_ == 0; }  // no matrix at all
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  int64_t row_blocks() const { return CeilDiv(rows_, kTernaryBlockRows); }
  int64_t col_blocks() const { return CeilDiv(cols_, kTernaryBlockCols); }
  TernaryLayout layout() const { return layout_; }
  const uint8_t* packed() const { return packed_.data(); }
  int64_t packed_bytes() const { return packed_.size(); }

  // The weight at (row, col): -1, 0 or +1.
  int8_t At(int64_t row, int64_t col) const {
    CheckBlocks();
    const TernaryCodePosition p = LocateTernaryCode(row, col, cols_);
    return static_cast<int8_t>(((packed_.data()[p.byte] >> p.shift) & 3) - 1);
  }
  void Set(int64_t row, int64_t col, int8_t weight) {
    CheckBlocks();
    const TernaryCodePosition p = LocateTernaryCode(row, col, cols_);
    const int code = weight + 1;
    uint8_t& byte = packed_.data()[p.byte];
    byte = static_cast<uint8_t>((byte & ~(3 << p.shift)) | (code << p.shift));
  }
  // Writes one whole row, `weights` [cols] in {-1, 0, +1}.
  void SetRow(int64_t row, std::span<const int8_t> weights) {
    STERNA_CHECK(static_cast<int64_t>(weights.size()) == cols_);
    for (int64_t col = 0; col < cols_; ++col) Set(row, col, weights[col]);
  }

  // SetRow from 2-bit codes as files pack them: the code of column c is bits shift, shift + 1 of
  // bytes[c] (`bytes` [cols]), and never 3. Sixteen columns at a time: the loaders' way in.
  void SetRowCodes(int64_t row, std::span<const uint8_t> bytes, int shift) {
    static_assert(std::endian::native == std::endian::little, "column k of a word is byte k");
    CheckBlocks();
    STERNA_CHECK(row >= 0 && row < rows_ && static_cast<int64_t>(bytes.size()) == cols_);
    STERNA_CHECK(shift == 0 || shift == 2 || shift == 4 || shift == 6);
    uint8_t* line = packed_.data() + LocateTernaryCode(row, 0, cols_).byte;
    for (int64_t col = 0; col < cols_; col += kTernaryLineCols, line += kTernaryLineBytes) {
      uint32_t words[4];  // words[i]: columns 4i .. 4i+3 of this line
      if (col + kTernaryLineCols <= cols_) {
        std::memcpy(words, bytes.data() + col, sizeof(words));
      } else {
        std::memset(words, kTernaryPaddingByte, sizeof(words));
        std::memcpy(words, bytes.data() + col, static_cast<size_t>(cols_ - col));
      }
      uint32_t packed = 0;
      for (int i = 0; i < 4; ++i) packed |= ((words[i] >> shift) & 0x03030303u) << (2 * i);
      std::memcpy(line, &packed, sizeof(packed));
    }
  }

  // out[cols] = row `row`, exactly: codes times scales.
  template <typename F>
  void CopyRow(int64_t row, F* out) const {
    CheckBlocks();
    STERNA_CHECK(row >= 0 && row < rows_);
    const uint8_t* line = packed_.data() + LocateTernaryCode(row, 0, cols_).byte;
    for (int64_t group = 0; group < num_groups(); ++group) {
      const F of_group = granularity_ == ScaleGranularity::kTensor ? static_cast<F>(tensor_scale_)
                                                                   : scale(row, group);
      const int64_t end = std::min(cols_, (group + 1) * group_size());
      for (int64_t col = group * group_size(); col < end; col += kTernaryLineCols) {
        uint32_t word;
        std::memcpy(&word, line, sizeof(word));
        for (int64_t c = 0; c < kTernaryLineCols && col + c < end; ++c) {
          const int code = static_cast<int>(word >> (c % 4 * 8 + c / 4 * 2) & 3);
          out[col + c] = static_cast<F>(code - kTernaryCodeZero) * of_group;
        }
        line += kTernaryLineBytes;
      }
    }
  }

  // The codes of one whole row, w + 1 in {0, 1, 2}, into `codes` [cols]: the way out again.
  void GetRowCodes(int64_t row, std::span<uint8_t> codes) const {
    CheckBlocks();
    STERNA_CHECK(row >= 0 && row < rows_ && static_cast<int64_t>(codes.size()) == cols_);
    const uint8_t* line = packed_.data() + LocateTernaryCode(row, 0, cols_).byte;
    for (int64_t col = 0; col < cols_; col += kTernaryLineCols, line += kTernaryLineBytes) {
      uint32_t packed;
      std::memcpy(&packed, line, sizeof(packed));
      uint32_t words[4];
      for (int i = 0; i < 4; ++i) words[i] = (packed >> (2 * i)) & 0x03030303u;
      std::memcpy(codes.data() + col, words,
                  static_cast<size_t>(std::min(kTernaryLineCols, cols_ - col)));
    }
  }

  ScaleGranularity granularity() const { return granularity_; }
  // Columns per scale: cols() unless the granularity is kGroup.
  int64_t group_size() const { return group_size_ == 0 ? cols_ : group_size_; }
  int64_t num_groups() const { return CeilDiv(cols_, group_size()); }
  // Kept in double, because the float64 oracle compares against exact inverses of stored scales.
  double tensor_scale() const { return tensor_scale_; }
  // In kBlocks16x64 [row_blocks()][num_groups()][kTernaryBlockRows]; empty for kTensor.
  std::span<const float> scales() const { return scales_.span(); }
  // Of codes and scales.
  int64_t bytes() const {
    return packed_bytes() + (granularity_ == ScaleGranularity::kTensor
                                 ? static_cast<int64_t>(sizeof(tensor_scale_))
                                 : static_cast<int64_t>(scales().size_bytes()));
  }
  // Of the weights of a row in a group, unless the granularity is kTensor.
  float scale(int64_t row, int64_t group) const {
    CheckBlocks();
    return scales_.data()[ScaleIndex(row, group)];
  }

  void SetTensorScale(double scale) {
    granularity_ = ScaleGranularity::kTensor;
    tensor_scale_ = scale;
  }
  // `scales` [rows].
  void SetRowScales(std::span<const float> scales) {
    granularity_ = ScaleGranularity::kRow;
    group_size_ = 0;
    PackScales(scales);
  }
  // `scales` [rows][ceil(cols / group_size)]; a group is a whole number of column blocks.
  void SetGroupScales(std::span<const float> scales, int64_t group_size) {
    STERNA_CHECK(group_size > 0 && group_size % kTernaryBlockCols == 0);
    granularity_ = ScaleGranularity::kGroup;
    group_size_ = group_size;
    PackScales(scales);
  }

 private:
  void CheckBlocks() const { STERNA_CHECK(layout_ == TernaryLayout::kBlocks16x64); }
  int64_t ScaleIndex(int64_t row, int64_t group) const {
    return (row / kTernaryBlockRows * num_groups() + group) * kTernaryBlockRows +
           row % kTernaryBlockRows;
  }
  // `scales` [rows][num_groups()].
  void PackScales(std::span<const float> scales) {
    CheckBlocks();
    STERNA_CHECK(static_cast<int64_t>(scales.size()) == rows_ * num_groups());
    const int64_t padded = row_blocks() * num_groups() * kTernaryBlockRows;
    scales_ = DeviceArray<float>(AllocateHostMemory(padded * static_cast<int64_t>(sizeof(float))));
    for (int64_t row = 0; row < rows_; ++row) {
      for (int64_t group = 0; group < num_groups(); ++group) {
        scales_.data()[ScaleIndex(row, group)] = scales[row * num_groups() + group];
      }
    }
  }

  int64_t rows_ = 0;
  int64_t cols_ = 0;
  TernaryLayout layout_ = TernaryLayout::kBlocks16x64;
  DeviceArray<uint8_t> packed_;
  ScaleGranularity granularity_ = ScaleGranularity::kTensor;
  int64_t group_size_ = 0;
  double tensor_scale_ = 1.0;
  DeviceArray<float> scales_;
};

}  // namespace sterna

#endif  // STERNA_KERNELS_TERNARY_FORMAT_H_
