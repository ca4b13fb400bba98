// Loops that do nothing but what limits a kernel, to measure the kernels against in the same run.
//
// Thread contract: the functions keep no state. Those of an instruction set may be called only
// where CpuIsaLevels() names it.
#ifndef STERNA_BENCH_MACHINE_LIMITS_H_
#define STERNA_BENCH_MACHINE_LIMITS_H_

#include <cstdint>

namespace sterna::bench {

// Reads `bytes` (a multiple of 4096) front to back as `streams` (1, 2 or 4) sequences side by side.
// AVX-512.
void ReadMemory(const uint8_t* data, int64_t bytes, int64_t streams);

// Byte products (half of what GOP counts) of one round of the loops below.
inline constexpr int64_t kVnniRoundProducts = 12 * 64;
inline constexpr int64_t kAmxRoundProducts = 4 * 16 * 16 * 64;

// vpdpbusd on registers alone, twelve sums. AVX-512 VNNI.
void VnniRounds(int64_t rounds);
// tdpbsud on tile registers alone, four sums. AMX.
void AmxRegisterRounds(int64_t rounds);
// Four sums from two tiles of activations and two of weights, all loaded every round from `data`
// (32 KiB, aligned to 64), as a blocked matrix product does that stays in the first-level cache.
// AMX.
void AmxBlockedRounds(const uint8_t* data, int64_t rounds);
inline constexpr int64_t kAmxBlockedBytes = 32 << 10;

}  // namespace sterna::bench

#endif  // STERNA_BENCH_MACHINE_LIMITS_H_
