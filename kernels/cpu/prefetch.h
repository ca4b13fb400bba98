// How far ahead to ask for weights that are read in several streams at once.
//
// In an unnamed namespace for the reason given in vector_math.h.
#ifndef STERNA_KERNELS_CPU_PREFETCH_H_
#define STERNA_KERNELS_CPU_PREFETCH_H_

#include <cstdint>

namespace sterna::cpu {
namespace {

// Of each stream; measured, and flat from 1 to 4 KiB.
constexpr int64_t kPrefetchBytes = 2048;

// The distance from a place with `left` bytes of its stream to come, for `streams` neighbours of
// `stream_bytes` each: at its end a stream goes on in the next so many, which this core most likely
// takes. A row block of 2560 ternary columns has 10 KiB: without this a fifth of it came late.
inline int64_t PrefetchDistance(int64_t left, int64_t streams, int64_t stream_bytes) {
  return left > kPrefetchBytes ? kPrefetchBytes : kPrefetchBytes + (streams - 1) * stream_bytes;
}

}  // namespace
}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_PREFETCH_H_
