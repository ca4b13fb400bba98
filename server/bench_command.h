// `sterna bench`: how fast a model runs on this machine, without a server around it.
#ifndef STERNA_SERVER_BENCH_COMMAND_H_
#define STERNA_SERVER_BENCH_COMMAND_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "server/flags.h"

namespace sterna {

struct BenchConfig {
  std::string shape;  // one of ShapePresetNames(), with random weights; or
  std::string model;  // a checkpoint directory
  std::string prompt_tokens = "128,512";
  std::string batch = "1,8";
  int64_t decode_tokens = 32;
  int64_t context_tokens = 128;
  int64_t repetitions = 3;
  int64_t threads = 0;
  std::string cpu_isa = "auto";
  int64_t seed = 0;
  std::string json;
};

std::vector<Flag> BenchFlags(BenchConfig& config);

// Measures prompt processing for every prompt length and decoding for every batch size, all of them
// in turn, as many times as there are repetitions, and prints medians. Without shape and model, the
// model that ships.
Status RunBench(const BenchConfig& config);

}  // namespace sterna

#endif  // STERNA_SERVER_BENCH_COMMAND_H_
