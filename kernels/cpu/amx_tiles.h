// Tile registers of AMX and how they are configured: 64 bytes a row, as many rows as asked for.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_AMX_TILES_H_
#define STERNA_KERNELS_CPU_AMX_TILES_H_

#include <immintrin.h>

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

// Gives tile i rows[i] rows, 1 to 16. Whoever calls it calls _tile_release when done: tiles left in
// use would be saved at every context switch.
inline void ConfigureTiles(const int64_t (&rows)[8]) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.bytes[tile] = kTileBytes;
    config.rows[tile] = static_cast<uint8_t>(rows[tile]);
  }
  // GCC 12 believes that only the first bytes are read.
  asm volatile("" : : "r"(&config) : "memory");
  _tile_loadconfig(&config);
}

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_AMX_TILES_H_
