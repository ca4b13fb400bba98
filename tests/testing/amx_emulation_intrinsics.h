// Makes calls of the emulation (amx_emulation.h) out of AMX's intrinsics, and another function of
// AmxKernels. The build includes it before the first line of kernels/cpu/amx_kernels.cc; no other
// file includes it.
#ifndef STERNA_TESTS_TESTING_AMX_EMULATION_INTRINSICS_H_
#define STERNA_TESTS_TESTING_AMX_EMULATION_INTRINSICS_H_

// The intrinsics themselves come first: their header is not read again where it is included next.
#include <immintrin.h>

#include "tests/testing/amx_emulation.h"

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbsud
#undef _tile_dpbf16ps
#define _tile_loadconfig ::sterna::testing::TileLoadConfig
#define _tile_release ::sterna::testing::TileRelease
#define _tile_zero ::sterna::testing::TileZero
#define _tile_loadd ::sterna::testing::TileLoad
#define _tile_stored ::sterna::testing::TileStore
#define _tile_dpbsud ::sterna::testing::TileProductI8U8
#define _tile_dpbf16ps ::sterna::testing::TileProductBf16

#define AmxKernels EmulatedAmxKernels

#endif  // STERNA_TESTS_TESTING_AMX_EMULATION_INTRINSICS_H_
