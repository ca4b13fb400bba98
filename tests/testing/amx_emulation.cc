// Compiled with AVX-512's flags, so all but the emulation's own functions has internal linkage
// (kernel_table.h says why).
#include "tests/testing/amx_emulation.h"

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace sterna::testing {
namespace {

// Palette 1, the only one there is (CPUID leaf 1DH).
constexpr int kTiles = 8;
constexpr int kMaxRows = 16;
constexpr int kMaxRowBytes = 64;

struct Tile {
  int rows;
  int row_bytes;
  // Zero past `rows` and `row_bytes`.
  alignas(64) uint8_t bytes[kMaxRows][kMaxRowBytes];

  int row_dwords() const { return row_bytes / 4; }
  __m512i Row(int row) const { return _mm512_load_si512(bytes[row]); }
  // One dword of a row in all lanes.
  __m512i Broadcast(int row, int dword) const {
    int32_t value;
    std::memcpy(&value, &bytes[row][4 * dword], sizeof(value));
    return _mm512_set1_epi32(value);
  }
};

struct Tiles {
  bool configured;
  Tile of[kTiles];
};

constinit thread_local Tiles tiles = {};

// What LDTILECFG reads (Intel SDM, volume 2, "LDTILECFG", table "Memory Area Layout").
struct Config {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64);

[[noreturn]] void Fail(const char* instruction, const char* why) {
  std::fprintf(stderr, "emulated %s: %s\n", instruction, why);
  std::abort();
}

Tile& Operand(const char* instruction, int tile) {
  if (!tiles.configured) Fail(instruction, "no configuration is loaded");
  if (tile < 0 || tile >= kTiles) Fail(instruction, "there is no such tile");
  if (tiles.of[tile].rows == 0) Fail(instruction, "the configuration gives the tile no rows");
  return tiles.of[tile];
}

// Exception class AMX-E4 (Intel SDM, volume 2, "Intel AMX Instruction Exception Classes").
void CheckShapes(const char* instruction, const Tile& sums, const Tile& a, const Tile& b) {
  if (&sums == &a || &sums == &b || &a == &b) Fail(instruction, "a tile is named twice");
  if (sums.row_bytes % 4 != 0 || a.row_bytes % 4 != 0 || b.row_bytes % 4 != 0) {
    Fail(instruction, "a row is no whole number of dwords");
  }
  if (sums.rows != a.rows) Fail(instruction, "sums and first factor differ in rows");
  if (sums.row_bytes != b.row_bytes) Fail(instruction, "sums and second factor differ in columns");
  if (a.row_dwords() != b.rows) Fail(instruction, "the factors' inner dimensions differ");
}

// While it lives, this thread's float operations round to nearest even, take denormals as zero,
// give zero instead of denormals, and raise nothing.
class DenormalsAreZero {
 public:
  DenormalsAreZero() : before_(_mm_getcsr()) {
    _mm_setcsr(_MM_MASK_MASK | _MM_ROUND_NEAREST | _MM_FLUSH_ZERO_ON | kDenormalsZeroOn);
  }
  ~DenormalsAreZero() { _mm_setcsr(before_); }
  DenormalsAreZero(const DenormalsAreZero&) = delete;
  DenormalsAreZero& operator=(const DenormalsAreZero&) = delete;

 private:
  static constexpr unsigned kDenormalsZeroOn = 0x40;  // MXCSR.DAZ
  unsigned before_;
};

// The first and the second number of each pair of bf16.
__m512 First(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
__m512 Second(__m512i pairs) {
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, high_half));
}

// A row of TileProductBf16. Not inlined: compilers move arithmetic past a change of MXCSR, but no
// call that writes memory.
[[gnu::noinline]] void Bf16Row(Tile& sums, const Tile& a, const Tile& b, int row) {
  __m512 first = _mm512_setzero_ps(), second = _mm512_setzero_ps();
  for (int k = 0; k < a.row_dwords(); ++k) {
    const __m512i x = a.Broadcast(row, k), y = b.Row(k);
    first = _mm512_fmadd_ps(First(x), First(y), first);
    second = _mm512_fmadd_ps(Second(x), Second(y), second);
  }
  const __m512 before = _mm512_load_ps(sums.bytes[row]);
  const __m512 after = _mm512_add_ps(before, _mm512_add_ps(first, second));
  // An infinity times the zeros past the columns would be NaN.
  const auto columns = static_cast<__mmask16>((1u << sums.row_dwords()) - 1);
  _mm512_store_ps(sums.bytes[row], _mm512_maskz_mov_ps(columns, after));
}

}  // namespace

void TileLoadConfig(const void* config) {
  constexpr const char* kName = "LDTILECFG";
  Config c;
  std::memcpy(&c, config, sizeof(c));
  TileRelease();
  if (c.palette == 0) return;
  if (c.palette != 1) Fail(kName, "there is no such palette");
  if (c.start_row != 0) Fail(kName, "restarting at a row is not emulated");
  for (const uint8_t byte : c.reserved) {
    if (byte != 0) Fail(kName, "a reserved byte is not zero");
  }
  for (int i = 0; i < 16; ++i) {
    if (i >= kTiles && (c.rows[i] != 0 || c.row_bytes[i] != 0)) {
      Fail(kName, "there is no such tile");
    }
    if (c.rows[i] > kMaxRows || c.row_bytes[i] > kMaxRowBytes) Fail(kName, "a tile is too large");
    if ((c.rows[i] == 0) != (c.row_bytes[i] == 0)) Fail(kName, "a tile has rows or columns only");
  }
  for (int i = 0; i < kTiles; ++i) {
    tiles.of[i].rows = c.rows[i];
    tiles.of[i].row_bytes = c.row_bytes[i];
  }
  tiles.configured = true;
}

void TileRelease() { std::memset(&tiles, 0, sizeof(tiles)); }

void TileZero(int tile) {
  Tile& t = Operand("TILEZERO", tile);
  std::memset(t.bytes, 0, sizeof(t.bytes));
}

void TileLoad(int tile, const void* base, int64_t stride) {
  Tile& t = Operand("TILELOADD", tile);
  for (int row = 0; row < t.rows; ++row) {
    std::memcpy(t.bytes[row], static_cast<const uint8_t*>(base) + row * stride,
                static_cast<size_t>(t.row_bytes));
  }
}

void TileStore(int tile, void* base, int64_t stride) {
  const Tile& t = Operand("TILESTORED", tile);
  for (int row = 0; row < t.rows; ++row) {
    std::memcpy(static_cast<uint8_t*>(base) + row * stride, t.bytes[row],
                static_cast<size_t>(t.row_bytes));
  }
}

void TileProductI8U8(int sums, int signed_a, int unsigned_b) {
  constexpr const char* kName = "TDPBSUD";
  Tile& c = Operand(kName, sums);
  const Tile& a = Operand(kName, signed_a);
  const Tile& b = Operand(kName, unsigned_b);
  CheckShapes(kName, c, a, b);
  for (int m = 0; m < c.rows; ++m) {
    __m512i sum = c.Row(m);
    for (int k = 0; k < a.row_dwords(); ++k) {
      // Adds four products to each dword and wraps, as TDPBSUD does.
      sum = _mm512_dpbusd_epi32(sum, b.Row(k), a.Broadcast(m, k));
    }
    _mm512_store_si512(c.bytes[m], sum);
  }
}

void TileProductBf16(int sums, int a, int b) {
  constexpr const char* kName = "TDPBF16PS";
  Tile& c = Operand(kName, sums);
  const Tile& x = Operand(kName, a);
  const Tile& y = Operand(kName, b);
  CheckShapes(kName, c, x, y);
  const DenormalsAreZero denormals_are_zero;
  for (int m = 0; m < c.rows; ++m) Bf16Row(c, x, y, m);
}

bool TilesAreConfigured() { return tiles.configured; }

}  // namespace sterna::testing
