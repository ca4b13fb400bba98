#include "bench/machine_limits.h"

#include <immintrin.h>

#include "kernels/cpu/amx_tiles.h"

namespace sterna::bench {

void ReadMemory(const uint8_t* data, int64_t bytes, int64_t streams) {
  const int64_t part = bytes / streams;
  __m512i sums[4] = {};
  for (int64_t i = 0; i < part; i += 64) {
    for (int64_t s = 0; s < streams; ++s) {
      sums[s] = _mm512_xor_si512(sums[s], _mm512_loadu_si512(data + s * part + i));
    }
  }
  const __m512i sum =
      _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3]));
  asm volatile("" : : "v"(sum));
}

void VnniRounds(int64_t rounds) {
  constexpr int kSums = 12;
  __m512i sums[kSums] = {};
  __m512i x = _mm512_set1_epi8(3), w = _mm512_set1_epi8(1);
  asm volatile("" : "+v"(x), "+v"(w));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_dpbusd_epi32(sums[i], w, x);
      asm volatile("" : "+v"(sums[i]));
    }
  }
}

void AmxRegisterRounds(int64_t rounds) {
  cpu::ConfigureTiles({16, 16, 16, 16, 16, 16, 16, 16});
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t round = 0; round < rounds; ++round) {
    _tile_dpbsud(0, 4, 6);
    _tile_dpbsud(1, 4, 7);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_release();
}

void AmxBlockedRounds(const uint8_t* data, int64_t rounds) {
  constexpr int64_t kTile = cpu::kTileRows * cpu::kTileBytes;
  cpu::ConfigureTiles({16, 16, 16, 16, 16, 16, 16, 16});
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t round = 0; round < rounds; ++round) {
    const uint8_t* p = data + round * 4 * kTile % kAmxBlockedBytes;
    _tile_loadd(4, p, cpu::kTileBytes);
    _tile_loadd(6, p + kTile, cpu::kTileBytes);
    _tile_dpbsud(0, 4, 6);
    _tile_loadd(7, p + 2 * kTile, cpu::kTileBytes);
    _tile_dpbsud(1, 4, 7);
    _tile_loadd(5, p + 3 * kTile, cpu::kTileBytes);
    _tile_dpbsud(2, 5, 6);
    _tile_dpbsud(3, 5, 7);
  }
  _tile_release();
}

}  // namespace sterna::bench
