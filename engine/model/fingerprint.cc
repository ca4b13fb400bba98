#include "engine/model/fingerprint.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/model/weight_names.h"

namespace sterna {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4F;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63;
constexpr size_t kLanes = 4;
constexpr int64_t kRowsPerTask = 256;

uint64_t Round(uint64_t lane, uint64_t word) {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

uint64_t Avalanche(uint64_t h) {
  h = (h ^ h >> 33) * kPrime2;
  h = (h ^ h >> 29) * kPrime3;
  return h ^ h >> 32;
}

uint64_t HashText(std::string_view text) {
  return HashBytes({reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

uint64_t HashFloats(std::span<const float> values) {
  return HashBytes({reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()});
}

uint64_t Combine(uint64_t h, uint64_t value) { return Avalanche(Round(h, value)); }

// One tensor, by its name. Tensors are summed up: their order does not matter.
uint64_t Named(const std::string& name, uint64_t hash) { return Combine(HashText(name), hash); }

uint64_t HashDense(const DenseMatrix& matrix, ThreadPool& pool) {
  std::vector<uint64_t> tasks(static_cast<size_t>(CeilDiv(matrix.rows, kRowsPerTask)));
  pool.ParallelFor(std::ssize(tasks), [&](int64_t task) {
    std::vector<float> row(static_cast<size_t>(matrix.cols));
    uint64_t hash = 0;
    const int64_t end = std::min((task + 1) * kRowsPerTask, matrix.rows);
    for (int64_t r = task * kRowsPerTask; r < end; ++r) {
      matrix.CopyRow(r, row.data());
      hash = Combine(hash, HashFloats(row));
    }
    tasks[static_cast<size_t>(task)] = hash;
  });
  uint64_t hash = 0;
  for (const uint64_t task : tasks) hash = Combine(hash, task);
  return hash;
}

uint64_t HashTernary(const NamedTernary& matrix) {
  return Named(matrix.name, Combine(HashCodes(*matrix.w), HashScales(*matrix.w)));
}

uint64_t HashLayer(const LayerWeights& layer, int64_t number) {
  uint64_t sum = 0;
  for (const NamedLinear& linear : NamedLinears(layer, number)) {
    sum += HashTernary({linear.name, &linear.weights->w});
  }
  for (const NamedVector& vector : NamedVectors(layer, number)) {
    sum += Named(vector.name, HashFloats(vector.values));
  }
  return sum;
}

}  // namespace

uint64_t HashBytes(std::span<const uint8_t> bytes, uint64_t seed) {
  std::array<uint64_t, kLanes> lanes = {seed + kPrime1 + kPrime2, seed + kPrime2, seed,
                                        seed - kPrime1};
  size_t at = 0;
  for (; at + sizeof(lanes) <= bytes.size(); at += sizeof(lanes)) {
    std::array<uint64_t, kLanes> words;
    std::memcpy(words.data(), bytes.data() + at, sizeof(words));
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] = Round(lanes[lane], words[lane]);
  }
  uint64_t h = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
               std::rotl(lanes[3], 18);
  for (const uint64_t lane : lanes) h = (h ^ Round(0, lane)) * kPrime1 + kPrime4;
  h += bytes.size();
  for (; at < bytes.size(); at += sizeof(uint64_t)) {
    uint64_t word = 0;
    std::memcpy(&word, bytes.data() + at, std::min(sizeof(word), bytes.size() - at));
    h = std::rotl(h ^ Round(0, word), 27) * kPrime1 + kPrime4;
  }
  return Avalanche(h);
}

uint64_t HashCodes(const TernaryMatrix& matrix) {
  return HashBytes({matrix.packed(), static_cast<size_t>(matrix.packed_bytes())},
                   static_cast<uint64_t>(matrix.rows()));
}

uint64_t HashScales(const TernaryMatrix& matrix) {
  std::vector<float> scales = {static_cast<float>(matrix.tensor_scale())};
  if (matrix.granularity() != ScaleGranularity::kTensor) {
    scales.clear();
    for (int64_t row = 0; row < matrix.rows(); ++row) {
      for (int64_t group = 0; group < matrix.num_groups(); ++group) {
        scales.push_back(matrix.scale(row, group));
      }
    }
    if (std::ranges::count(scales, scales[0]) == std::ssize(scales)) scales.resize(1);
  }
  return HashFloats(scales);
}

uint64_t Fingerprint(const ModelWeights& weights, ThreadPool& pool) {
  std::vector<uint64_t> layers(weights.layers.size());
  pool.ParallelFor(std::ssize(layers), [&](int64_t i) {
    layers[static_cast<size_t>(i)] = HashLayer(weights.layers[static_cast<size_t>(i)], i);
  });
  uint64_t sum = Named(kFinalNormName, HashFloats(weights.final_norm));
  if (weights.embedding.rows > 0) sum += Named(kEmbeddingName, HashDense(weights.embedding, pool));
  if (!weights.tied && weights.head.rows > 0) {
    sum += Named(kHeadName, HashDense(weights.head, pool));
  }
  for (const NamedTernary& table : TernaryTables(weights)) sum += HashTernary(table);
  for (const uint64_t layer : layers) sum += layer;
  return Avalanche(sum);
}

}  // namespace sterna
