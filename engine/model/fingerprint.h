// A number that tells whether two loaded models have the same weights, whatever files they came
// from: the same from safetensors and GGUF, from one file and from shards.
//
// It is no cryptographic hash: who wants to can make another model with the same one. Damage and
// mix-ups, which is what it is for, go unnoticed once in 2^64.
//
// Thread contract: free functions; the weights must not change meanwhile.
#ifndef STERNA_ENGINE_MODEL_FINGERPRINT_H_
#define STERNA_ENGINE_MODEL_FINGERPRINT_H_

#include <cstdint>
#include <span>

#include "base/thread_pool.h"
#include "engine/model/weights.h"

namespace sterna {

// Depends on every byte and its place; the same on every machine. It is XXH64 (Collet, xxHash
// specification) for 32 bytes and more that are whole words of 8; the rest is padded with zeros.
uint64_t HashBytes(std::span<const uint8_t> bytes, uint64_t seed = 0);

// Of the codes of a matrix, and of its scales; the latter as one where all are the same.
uint64_t HashCodes(const TernaryMatrix& matrix);
uint64_t HashScales(const TernaryMatrix& matrix);

// Of every weight as the engine computes with it: codes, scales, norms, biases, and embedding and
// head as float32, each with its name. Before PlaceWeights. An int8 head that is not tied counts as
// rounded.
uint64_t Fingerprint(const ModelWeights& weights, ThreadPool& pool);

}  // namespace sterna

#endif  // STERNA_ENGINE_MODEL_FINGERPRINT_H_
