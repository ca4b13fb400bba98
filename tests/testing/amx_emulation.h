// AMX's tile instructions in software, so that the kernels written with them are tested on machines
// that have only the AVX-512 around them.
//
// Use: kernels/cpu/amx_kernels.cc is compiled once more with amx_emulation_intrinsics.h, which
// makes calls of the functions below out of its intrinsics (tests/CMakeLists.txt); its table is
// then EmulatedAmxKernels(). All of this needs AVX-512 VNNI.
//
// The functions do what Intel's Software Developer's Manual, volume 2, says of the instructions
// named beside them. Where a processor would raise an exception, they print why and abort. Rows in
// memory are read and written one by one with memcpy, which AddressSanitizer checks.
//
// Thread contract: as tiles are part of a thread's registers, each thread has its own.
#ifndef STERNA_TESTS_TESTING_AMX_EMULATION_H_
#define STERNA_TESTS_TESTING_AMX_EMULATION_H_

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace sterna::testing {

void TileLoadConfig(const void* config);                       // LDTILECFG
void TileRelease();                                            // TILERELEASE
void TileZero(int tile);                                       // TILEZERO
void TileLoad(int tile, const void* base, int64_t stride);     // TILELOADD
void TileStore(int tile, void* base, int64_t stride);          // TILESTORED
void TileProductI8U8(int sums, int signed_a, int unsigned_b);  // TDPBSUD
void TileProductBf16(int sums, int a, int b);                  // TDPBF16PS

// Whether this thread has loaded a configuration since it last released its tiles.
bool TilesAreConfigured();

}  // namespace sterna::testing

namespace sterna::cpu {

const CpuKernels& EmulatedAmxKernels();

}  // namespace sterna::cpu

#endif  // STERNA_TESTS_TESTING_AMX_EMULATION_H_
