// Speed of the ops at every instruction set of this machine, at the shapes of a 2B-parameter
// ternary model (hidden 2560, ffn 6912, 20 query and 5 key/value heads of 128, vocabulary 128256).
//
// Use: kernels_bench [--threads=N] [Google Benchmark's flags]. Interleaved medians:
//   --benchmark_repetitions=5 --benchmark_enable_random_interleaving=true
//   --benchmark_report_aggregates_only=true
//
// Ternary matrices are taken in turn from a set larger than the last-level cache, as a forward pass
// does, and that model's head is larger by itself, so one token's figures are memory's. The small
// shapes (768x256, a head of 4096x256) are those of the model that ships, and stay in the cache.
// "Limits" are loops that do nothing but read memory or multiply: what the machine gave in that
// run. Counters, all per second: GB of weights read (or K/V attended), GOP = 2 * products, tokens
// through this op alone.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/thread_pool.h"
#if defined(STERNA_MACHINE_LIMITS)
#include "bench/machine_limits.h"
#endif
#include "kernels/cpu/topology.h"
#include "kernels/devices.h"
#include "kernels/ops.h"

namespace sterna {
namespace {

using Counter = ::benchmark::Counter;

// More than any last-level cache here: what a pass over the set reads comes from memory.
constexpr int64_t kColdBytes = int64_t{256} << 20;

std::unique_ptr<Ops<float>> MakeOps(const std::string& isa, int threads) {
  auto ops = CreateCpuOps({.num_threads = threads, .isa = isa});
  STERNA_CHECK(ops.ok());
  return *std::move(ops);
}

Counter PerSecond(double per_iteration) {
  return Counter(per_iteration, Counter::kIsIterationInvariantRate);
}

TernaryMatrix RandomMatrix(int64_t rows, int64_t cols, int64_t group, std::mt19937_64& random) {
  TernaryMatrix w(rows, cols);
  std::vector<int8_t> row(cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int8_t& weight : row) weight = static_cast<int8_t>(random() % 3) - 1;
    w.SetRow(r, row);
  }
  if (group > 0) {
    w.SetGroupScales(std::vector<float>(rows * CeilDiv(cols, group), 0.02f), group);
  }
  return w;
}

// Matrices of one shape that together exceed the cache. One is random, the rest are its copies:
// the arithmetic does not depend on the values.
std::vector<TernaryMatrix> ColdMatrices(int64_t rows, int64_t cols, int64_t group) {
  std::mt19937_64 random(1);
  std::vector<TernaryMatrix> set;
  for (int64_t bytes = 0; bytes < kColdBytes; bytes += TernaryPackedBytes(rows, cols)) {
    if (set.empty()) {
      set.push_back(RandomMatrix(rows, cols, group, random));
    } else {
      set.emplace_back(rows, cols);
      if (group > 0) {
        set.back().SetGroupScales(std::vector<float>(rows * CeilDiv(cols, group), 0.02f), group);
      }
    }
  }
  return set;
}

// Quantised activations of any values.
struct TestActivations {
  AlignedBuffer<int8_t> q;
  AlignedBuffer<float> scale;
  AlignedBuffer<int32_t> sum;
  QuantizedMat<float> mat;

  TestActivations(int64_t tokens, int64_t cols, int64_t group)
      : q(tokens * RoundUp(cols, kTernaryBlockCols)),
        scale(tokens * (group > 0 ? CeilDiv(cols, group) : 1)),
        sum(scale.size()) {
    for (size_t i = 0; i < q.size(); ++i) q[i] = static_cast<int8_t>(i * 37 % 255 - 127);
    for (float& s : scale.span()) s = 25.0f;
    mat = {.q = q.data(),
           .stride = RoundUp(cols, kTernaryBlockCols),
           .scale = scale.data(),
           .sum = sum.data(),
           .rows = tokens,
           .cols = cols,
           .group_size = group > 0 ? group : cols};
  }
};

void BenchTernaryLinear(::benchmark::State& state, const std::string& isa, int threads,
                        int64_t rows, int64_t cols, int64_t group) {
  const int64_t tokens = state.range(0);
  auto ops = MakeOps(isa, threads);
  const std::vector<TernaryMatrix> set = ColdMatrices(rows, cols, group);
  TestActivations x(tokens, cols, group);
  AlignedBuffer<float> y(tokens * rows);
  size_t next = 0;
  for (auto _ : state) {
    ops->TernaryLinear({.q = x.mat,
                        .w = &set[next],
                        .bias = {},
                        .y = {.data = y.data(), .rows = tokens, .cols = rows}});
    ::benchmark::DoNotOptimize(y.data());
    next = (next + 1) % set.size();
  }
  state.counters["GB"] = PerSecond(static_cast<double>(set[0].packed_bytes()) * 1e-9);
  state.counters["GOP"] = PerSecond(2e-9 * static_cast<double>(tokens * rows * cols));
  state.counters["tokens"] = PerSecond(static_cast<double>(tokens));
}

void BenchDenseLinear(::benchmark::State& state, const std::string& isa, int threads,
                      DenseType type) {
  const int64_t tokens = state.range(0), vocabulary = state.range(1), hidden = state.range(2);
  auto ops = MakeOps(isa, threads);
  DenseMatrix w = {.type = type,
                   .layout = DenseLayout::kTiles,
                   .data = nullptr,
                   .rows = vocabulary,
                   .cols = hidden};
  AlignedBuffer<uint8_t> weights(w.data_bytes());
  // Neither zero, as a hypervisor may back zero pages with one page, which the cache then serves,
  // nor denormal, which is slow: bf16 numbers around 1/64.
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = static_cast<uint8_t>(i % 2 == 1 ? 0x3c : i * 7 % 251);
  }
  w.data = weights.data();
  const std::vector<float> scales(vocabulary, 1.0f);
  if (type != DenseType::kBf16) w.scales = scales.data();
  AlignedBuffer<float> x(tokens * hidden), y(tokens * vocabulary);
  for (float& value : x.span()) value = 0.5f;
  for (auto _ : state) {
    ops->DenseLinear({.x = {.data = x.data(), .rows = tokens, .cols = hidden},
                      .w = w,
                      .y = {.data = y.data(), .rows = tokens, .cols = vocabulary}});
    ::benchmark::DoNotOptimize(y.data());
  }
  state.counters["GB"] = PerSecond(static_cast<double>(w.bytes()) * 1e-9);
  state.counters["GOP"] = PerSecond(2e-9 * static_cast<double>(tokens * w.rows * w.cols));
  state.counters["tokens"] = PerSecond(static_cast<double>(tokens));
}

// The last tokens of one prompt, or each the last of its own, with state.range(1) positions.
void BenchAttention(::benchmark::State& state, const std::string& isa, int threads, KvType type,
                    bool one_prompt) {
  const int64_t tokens = state.range(0), context = state.range(1);
  const int64_t kv_heads = state.range(2), head_dim = state.range(3);
  const int64_t heads = state.range(4);
  auto ops = MakeOps(isa, threads);
  const int64_t blocks = CeilDiv(context, kKvBlockTokens);
  const int64_t sequences = one_prompt ? 1 : tokens;
  const int64_t head_block_bytes = KvView<float>::HeadBlockBytes(type, head_dim);
  // The arithmetic does not depend on the values: tiny ones, whatever the type.
  AlignedBuffer<std::byte> k(sequences * blocks * kv_heads * head_block_bytes), v(k.size());
  for (size_t i = 0; i < k.size(); ++i) k[i] = v[i] = static_cast<std::byte>(1 + i % 13);
  std::vector<int32_t> positions(tokens, static_cast<int32_t>(context - 1)), sequence(tokens);
  std::vector<int32_t> tables(sequences * blocks);
  for (int64_t i = 0; i < tokens; ++i) {
    if (one_prompt) {
      positions[i] = static_cast<int32_t>(context - tokens + i);
    } else {
      sequence[i] = static_cast<int32_t>(i);
    }
  }
  // A stride that shares no factor with the count scatters each sequence over the pool.
  for (size_t i = 0; i < tables.size(); ++i) {
    tables[i] = static_cast<int32_t>(i * 7919 % tables.size());
  }
  AlignedBuffer<float> q(tokens * heads * head_dim), o(q.size());
  for (auto _ : state) {
    ops->PagedAttention({.q = {.data = q.data(), .rows = tokens, .cols = heads * head_dim},
                         .kv = {.type = type,
                                .k = k.data(),
                                .v = v.data(),
                                .num_blocks = sequences * blocks,
                                .num_kv_heads = kv_heads,
                                .head_dim = head_dim},
                         .positions = positions,
                         .sequence = sequence,
                         .block_tables = {.data = tables.data(), .rows = sequences, .cols = blocks},
                         .scale = 0.088f,
                         .o = {.data = o.data(), .rows = tokens, .cols = heads * head_dim}});
    ::benchmark::DoNotOptimize(o.data());
  }
  const int64_t attended = std::accumulate(positions.begin(), positions.end(), tokens);
  const auto read = static_cast<double>(2 * attended * kv_heads);  // vectors
  state.counters["GB"] =
      PerSecond(1e-9 * read * static_cast<double>(head_block_bytes) / kKvBlockTokens);
  state.counters["GOP"] = PerSecond(2e-9 * read * static_cast<double>(head_dim * heads / kv_heads));
}

void BenchRmsNormQuantize(::benchmark::State& state, const std::string& isa, int threads) {
  const int64_t tokens = state.range(0);
  constexpr int64_t kHidden = 2560;
  auto ops = MakeOps(isa, threads);
  AlignedBuffer<float> x(tokens * kHidden), weight(kHidden), scale(tokens);
  AlignedBuffer<int8_t> q(tokens * kHidden);
  AlignedBuffer<int32_t> sum(tokens);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 101) - 50;
  for (float& value : weight.span()) value = 1.5f;
  for (auto _ : state) {
    ops->RmsNormQuantize({.x = {.data = x.data(), .rows = tokens, .cols = kHidden},
                          .weight = weight.span(),
                          .eps = 1e-5f,
                          .out = {.q = q.data(),
                                  .stride = kHidden,
                                  .scale = scale.data(),
                                  .sum = sum.data(),
                                  .rows = tokens,
                                  .cols = kHidden,
                                  .group_size = kHidden}});
    ::benchmark::DoNotOptimize(q.data());
  }
  state.counters["tokens"] = PerSecond(static_cast<double>(tokens));
}

void BenchGatedLinear(::benchmark::State& state, const std::string& isa, int threads,
                      Activation activation) {
  const int64_t tokens = state.range(0);
  constexpr int64_t kHidden = 2560, kFfn = 6912;
  auto ops = MakeOps(isa, threads);
  const std::vector<TernaryMatrix> set = ColdMatrices(kFfn, kHidden, /*group=*/0);
  TestActivations x(tokens, kHidden, /*group=*/0);
  AlignedBuffer<float> h(tokens * kFfn);
  size_t next = 0;
  for (auto _ : state) {
    ops->GatedLinear({.gate = {.q = x.mat, .w = &set[next], .bias = {}},
                      .up = {.q = x.mat, .w = &set[(next + 1) % set.size()], .bias = {}},
                      .activation = activation,
                      .h = {.data = h.data(), .rows = tokens, .cols = kFfn}});
    ::benchmark::DoNotOptimize(h.data());
    next = (next + 2) % set.size();
  }
  state.counters["GB"] = PerSecond(2e-9 * static_cast<double>(set[0].packed_bytes()));
  state.counters["GOP"] = PerSecond(4e-9 * static_cast<double>(tokens * kFfn * kHidden));
  state.counters["tokens"] = PerSecond(static_cast<double>(tokens));
}

void BenchSample(::benchmark::State& state, const std::string& isa, int threads,
                 const SampleParams& params) {
  const int64_t rows = state.range(0);
  constexpr int64_t kVocabulary = 128256;
  auto ops = MakeOps(isa, threads);
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal(0, 2);
  AlignedBuffer<float> logits(rows * kVocabulary);
  for (float& logit : logits.span()) logit = normal(random);
  const std::vector<SampleParams> all(rows, params);
  std::vector<SampleResult> results(rows);
  for (auto _ : state) {
    ops->Sample({.logits = {.data = logits.data(), .rows = rows, .cols = kVocabulary},
                 .params = all,
                 .results = results});
    ::benchmark::DoNotOptimize(results.data());
  }
  state.counters["tokens"] = PerSecond(static_cast<double>(rows));
}

void RegisterLevel(const std::string& isa, int threads) {
  auto add = [&](const std::string& name, auto function, auto... arguments) {
    return ::benchmark::RegisterBenchmark((name + "/" + isa).c_str(), function, isa, threads,
                                          arguments...)
        ->UseRealTime()
        ->Unit(::benchmark::kMicrosecond);
  };
  struct Shape {
    const char* name;
    int64_t rows, cols, group;
  };
  for (const Shape& s : {Shape{"TernaryLinear/2560x2560", 2560, 2560, 0},
                         Shape{"TernaryLinear/6912x2560", 6912, 2560, 0},
                         Shape{"TernaryLinear/2560x6912", 2560, 6912, 0},
                         Shape{"TernaryLinear/768x256", 768, 256, 0},
                         Shape{"TernaryLinear/2560x2560/group128", 2560, 2560, 128}}) {
    auto* bench = add(s.name, BenchTernaryLinear, s.rows, s.cols, s.group);
    for (const int64_t tokens : {1, 4, 8, 16, 32, 128}) bench->Arg(tokens);
  }
  for (const auto& [name, type] : {std::pair("DenseLinear/bf16", DenseType::kBf16),
                                   std::pair("DenseLinear/int8", DenseType::kI8),
                                   std::pair("DenseLinear/int6", DenseType::kI6)}) {
    auto* dense = add(name, BenchDenseLinear, type);
    dense->ArgNames({"T", "vocabulary", "hidden"});
    for (const int64_t tokens : {1, 8, 16}) {
      dense->Args({tokens, 128256, 2560})->Args({tokens, 128256, 4096})->Args({tokens, 4096, 256});
    }
  }
  for (const auto& [name, type] : {std::pair("PagedAttention/f32", KvType::kFull),
                                   std::pair("PagedAttention/f16", KvType::kF16),
                                   std::pair("PagedAttention/int8", KvType::kI8)}) {
    add(name, BenchAttention, type, /*one_prompt=*/false)
        ->ArgNames({"T", "context", "kv_heads", "head_dim", "heads"})
        ->Args({1, 1024, 5, 128, 20})
        ->Args({8, 1024, 5, 128, 20})
        ->Args({64, 256, 5, 128, 20})
        ->Args({1, 192, 2, 64, 4})
        ->Args({16, 192, 2, 64, 4});
  }
  add("PagedAttention/prompt_f16", BenchAttention, KvType::kF16, /*one_prompt=*/true)
      ->ArgNames({"T", "context", "kv_heads", "head_dim", "heads"})
      ->Args({128, 128, 5, 128, 20})
      ->Args({128, 512, 5, 128, 20})
      ->Args({128, 2048, 5, 128, 20});
  add("RmsNormQuantize", BenchRmsNormQuantize)->Arg(1)->Arg(64);
  for (const auto& [name, activation] :
       {std::pair("GatedLinear/silu", Activation::kSilu),
        std::pair("GatedLinear/relu_squared", Activation::kReluSquared)}) {
    auto* bench = add(name, BenchGatedLinear, activation);
    for (const int64_t tokens : {1, 4, 8, 16, 32, 128}) bench->Arg(tokens);
  }
  add("Sample/greedy", BenchSample, SampleParams{.temperature = 0})->Arg(1)->Arg(16);
  add("Sample/temperature", BenchSample, SampleParams{})->Arg(1)->Arg(16);
  add("Sample/top_p", BenchSample, SampleParams{.top_p = 0.9f})->Arg(1);
  add("Sample/top_k", BenchSample, SampleParams{.top_k = 50})->Arg(1);
  add("Sample/logprobs", BenchSample, SampleParams{.num_logprobs = 5})->Arg(1);
}

#if defined(STERNA_MACHINE_LIMITS)
// Every thread reads its own part of more memory than the caches hold.
void BenchReadMemory(::benchmark::State& state, int threads) {
  constexpr int64_t kBytesPerThread = kColdBytes;
  AlignedBuffer<uint8_t> data(threads * kBytesPerThread);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<uint8_t>(i * 7 % 251);
  ThreadPool pool(threads);
  for (auto _ : state) {
    pool.ParallelFor(threads, [&](int64_t i) {
      bench::ReadMemory(data.data() + i * kBytesPerThread, kBytesPerThread, state.range(0));
    });
  }
  state.counters["GB"] = PerSecond(1e-9 * static_cast<double>(data.size()));
}

// Every thread does `run(rounds)`, rounds of `products` products.
void BenchProducts(::benchmark::State& state, int threads, int64_t products,
                   const std::function<void(int64_t rounds)>& run) {
  constexpr int64_t kRounds = 20000;
  ThreadPool pool(threads);
  for (auto _ : state) pool.ParallelFor(threads, [&](int64_t) { run(kRounds); });
  state.counters["GOP"] = PerSecond(2e-9 * static_cast<double>(threads * kRounds * products));
}

void RegisterLimits(int most_threads) {
  const std::vector<std::string> levels = CpuIsaLevels();
  const auto has = [&](std::string_view level) {
    return std::find(levels.begin(), levels.end(), level) != levels.end();
  };
  static AlignedBuffer<uint8_t> tiles(bench::kAmxBlockedBytes);
  for (int threads = 1; threads <= most_threads; threads += std::max(1, most_threads - 1)) {
    const auto add = [&](const std::string& name, auto function, auto... arguments) {
      return ::benchmark::RegisterBenchmark(
                 ("Limits/" + name + "/threads:" + std::to_string(threads)).c_str(), function,
                 threads, arguments...)
          ->UseRealTime()
          ->Unit(::benchmark::kMicrosecond);
    };
    if (has("avx512_vnni")) {
      add("read_memory", BenchReadMemory)->ArgName("streams")->Arg(1)->Arg(4);
      add("vnni", BenchProducts, bench::kVnniRoundProducts, bench::VnniRounds);
    }
    if (has("amx")) {
      add("amx_int8_registers", BenchProducts, bench::kAmxRoundProducts, bench::AmxRegisterRounds);
      add("amx_int8_blocked", BenchProducts, bench::kAmxRoundProducts,
          [](int64_t rounds) { bench::AmxBlockedRounds(tiles.data(), rounds); });
    }
  }
}
#endif

}  // namespace
}  // namespace sterna

int main(int argc, char** argv) {
  ::benchmark::Initialize(&argc, argv);
  int threads = 0;
  for (int i = 1; i < argc; ++i) {
    constexpr std::string_view kThreads = "--threads=";
    const std::string_view argument = argv[i];
    char* end = nullptr;
    if (argument.starts_with(kThreads)) {
      threads = static_cast<int>(std::strtol(argv[i] + kThreads.size(), &end, 10));
    }
    if (end == nullptr || *end != '\0' || threads < 1) {
      std::fprintf(stderr, "unknown argument %s; known: --threads=N with N >= 1\n", argv[i]);
      return 1;
    }
  }
#if defined(STERNA_MACHINE_LIMITS)
  sterna::RegisterLimits(threads == 0 ? sterna::cpu::UsableCores() : threads);
#endif
  for (const std::string& isa : sterna::CpuIsaLevels()) sterna::RegisterLevel(isa, threads);
  ::benchmark::RunSpecifiedBenchmarks();
  return 0;
}
