// How a dense product takes activations that are packed for it: each is written as kParts narrower
// numbers, bf16 or int8, which lie in 64-byte rows of their own like a row of an AMX tile.
//
// Tokens are packed in groups of 16, the last of which may have fewer. For every column block of
// the weights a group of n tokens has one, two or three tiles, one below the other, in which part p
// of token t is row p * n + t. Where one tile holds all rows it has no row too many, as rows cost
// time; else what is left over in the last tile is not written. Columns that pad the last block are
// zero (dense_format.h says why they must be).
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_PACKED_ACTIVATIONS_H_
#define STERNA_KERNELS_CPU_PACKED_ACTIVATIONS_H_

#include <cstdint>

#include "kernels/dense_format.h"

namespace sterna::cpu {
namespace {

constexpr int64_t kPackedGroup = 16;  // tokens
constexpr int64_t kPackedTileRows = 16;

// int8: x = scale * (256 * high + low) to 16 bits, high in -127 .. 127 and low in -128 .. 127.
constexpr int64_t kInt8Parts = 2;
constexpr float kInt8Largest = 127 * 256 + 127;

template <int64_t kParts>
struct PackedActivations {
  static constexpr int64_t kMaxRows = kParts * kPackedGroup;

  // Tokens of the group that begins at `token`, of `tokens` in all.
  static int64_t GroupTokens(int64_t token, int64_t tokens) {
    return tokens - token < kPackedGroup ? tokens - token : kPackedGroup;
  }
  // Of a group of n tokens.
  static int64_t TileRows(int64_t n) {
    return kParts * n < kPackedTileRows ? kParts * n : kPackedTileRows;
  }
  static int64_t Tiles(int64_t n) { return (kParts * n + kPackedTileRows - 1) / kPackedTileRows; }
  // Bytes of a group's column block.
  static int64_t BlockBytes(int64_t n) { return Tiles(n) * TileRows(n) * kDenseLineBytes; }
  // Where the group of `token` begins.
  static int64_t GroupOffset(int64_t token, int64_t col_blocks) {
    return token / kPackedGroup * col_blocks * kMaxRows * kDenseLineBytes;
  }
  // Bytes of all tokens.
  static int64_t Bytes(int64_t tokens, int64_t col_blocks) {
    return GroupOffset(tokens + kPackedGroup - 1, col_blocks);
  }
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_PACKED_ACTIVATIONS_H_
