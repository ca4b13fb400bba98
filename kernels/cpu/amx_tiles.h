// Tile registers of AMX and how they are configured.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AMX_TILES_H_
#define STERNA_KERNELS_CPU_AMX_TILES_H_

#include <cstdint>

namespace sterna::cpu {
namespace {

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileBytes = 64;  // of a row

// What ldtilecfg reads.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row, per tile
  uint8_t rows[16] = {};
};

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AMX_TILES_H_
