// How long the CUDA backend's kernels take on this GPU, for scripts/gpu-check: JSON lines on
// standard output, one for each product, shape and number of tokens.
//
// Every figure is of a recording of one op after another over copies of its weights that are more
// than the L2 holds, run again and again; times are wall times around many runs, so that launches
// cost what they cost in a recorded step.
//
//   cuda_bench [--device N] [--quick] [--plans] [--row-blocks N] [--split N]
//
// Ternary products are planned as served ones are, or as --row-blocks and --split say
// (CudaOptions).
// --plans measures those of 1 to 256 tokens in every other way that may pay as well.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/clock.h"
#include "kernels/devices.h"
#include "kernels/ops.h"

namespace sterna {
namespace {

constexpr int64_t kRotatedBytes = int64_t{256} << 20;

struct Shape {
  const char* model;
  const char* name;
  std::vector<int64_t> rows;  // of matrices that share their input
  int64_t cols;
  bool gated = false;  // rows[0] is the gate of rows[1]
};

const std::vector<Shape>& Shapes() {
  static const std::vector<Shape> shapes = {
      {"2b-4t", "qkv", {2560, 640, 640}, 2560},
      {"2b-4t", "o", {2560}, 2560},
      {"2b-4t", "gate_up", {6912, 6912}, 2560, true},
      {"2b-4t", "down", {2560}, 6912},
      {"llama3-8b", "qkv", {4096, 1024, 1024}, 4096},
      {"llama3-8b", "o", {4096}, 4096},
      {"llama3-8b", "gate_up", {14336, 14336}, 4096, true},
      {"llama3-8b", "down", {4096}, 14336},
  };
  return shapes;
}

void Must(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::exit(1);
}
template <typename T>
T Must(StatusOr<T> value) {
  Must(value.status());
  return *std::move(value);
}

class Bench {
 public:
  Bench(Ops<float>& ops, bool quick) : ops_(ops), least_ns_(quick ? 5'000'000 : 40'000'000) {}

  // Few tokens also by each of `others`, on the same device, where it plans differently.
  void Ternary(const Shape& shape, const std::vector<int64_t>& tokens,
               const std::vector<std::unique_ptr<Ops<float>>>& others = {});
  void Head(DenseType type, const std::vector<int64_t>& rows);
  void Norms(const std::vector<int64_t>& tokens);

 private:
  // The median of five, in nanoseconds of one of the `ops` that `body` asks for.
  double Time(int64_t ops, const std::function<void()>& body) { return Time(ops_, ops, body); }
  double Time(Ops<float>& on, int64_t ops, const std::function<void()>& body) {
    const std::unique_ptr<Recording> recording = on.Record(body);
    const auto run = [&](int64_t times) {
      const int64_t start_ns = Clock::Steady().NowNs();
      for (int64_t i = 0; i < times; ++i) recording->Run();
      Must(on.Finish());
      return Clock::Steady().NowNs() - start_ns;
    };
    run(2);
    int64_t times = 1;
    while (run(times) < least_ns_) times *= 2;
    std::vector<double> all;
    for (int i = 0; i < 5; ++i) {
      all.push_back(static_cast<double>(run(times)) / static_cast<double>(times * ops));
    }
    std::sort(all.begin(), all.end());
    return all[2];
  }
  template <typename T>
  DeviceArray<T> Upload(const std::vector<T>& values) {
    auto array = Must(AllocateArray<T>(ops_, std::ssize(values)));
    ops_.CopyToDevice(array.data(), values.data(),
                      std::ssize(values) * static_cast<int64_t>(sizeof(T)));
    return array;
  }
  std::vector<float> Floats(int64_t n) {
    std::vector<float> values(static_cast<size_t>(n));
    for (float& value : values) value = static_cast<float>(random_() % 2001) / 1000.0f - 1.0f;
    return values;
  }

  std::vector<std::vector<TernaryMatrix>> PlaceCopies(const Shape& shape, int64_t copies);

  Ops<float>& ops_;
  const int64_t least_ns_;
  std::mt19937 random_{1};
};

// Random codes; rows repeat, which no kernel can tell.
TernaryMatrix RandomTernary(std::mt19937& random, int64_t rows, int64_t cols) {
  TernaryMatrix w(rows, cols);
  std::vector<uint8_t> codes(static_cast<size_t>(cols));
  for (int64_t row = 0; row < rows; ++row) {
    if (row % 16 == 0) {
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % 3);
    }
    w.SetRowCodes(row, codes, 0);
  }
  return w;
}

std::vector<std::vector<TernaryMatrix>> Bench::PlaceCopies(const Shape& shape, int64_t copies) {
  std::vector<std::vector<TernaryMatrix>> weights(static_cast<size_t>(copies));
  for (auto& copy : weights) {
    for (const int64_t rows : shape.rows) {
      copy.push_back(Must(ops_.Place(RandomTernary(random_, rows, shape.cols))));
    }
  }
  Must(ops_.Finish());
  return weights;
}

// How `ops` multiplies by matrices of one launch.
std::string PlanOf(const Ops<float>& ops, const std::vector<TernaryMatrix>& matrices, bool gated,
                   int64_t tokens) {
  std::vector<const TernaryMatrix*> pointers;
  for (const TernaryMatrix& w : matrices) pointers.push_back(&w);
  std::string name;
  for (const ProductPath& path : ops.ProductPaths(pointers, gated)) {
    if (path.from_tokens <= tokens) name = path.name;
  }
  return name;
}

void Multiply(Ops<float>& ops, const std::vector<TernaryMatrix>& matrices, bool gated,
              const QuantizedMat<float>& in, std::vector<DeviceArray<float>>& y) {
  if (gated) {
    ops.GatedLinear({.gate = {.q = in, .w = &matrices[0], .bias = {}},
                     .up = {.q = in, .w = &matrices[1], .bias = {}},
                     .activation = Activation::kReluSquared,
                     .h = {y[0].data(), in.rows, matrices[0].rows()}});
    return;
  }
  std::vector<TernaryLinearParams<float>> all;
  for (size_t i = 0; i < matrices.size(); ++i) {
    all.push_back(
        {.q = in, .w = &matrices[i], .bias = {}, .y = {y[i].data(), in.rows, matrices[i].rows()}});
  }
  ops.TernaryLinears(all);
}

void PrintTernary(const char* op, const Shape& shape, const std::string& plan, int64_t tokens,
                  int64_t bytes, double ns) {
  int64_t rows = 0;
  for (const int64_t r : shape.rows) rows += r;
  std::printf(
      "{\"op\": \"%s\", \"model\": \"%s\", \"name\": \"%s\", \"plan\": \"%s\", \"rows\": %lld, "
      "\"cols\": %lld, \"tokens\": %lld, \"packed_bytes\": %lld, \"ns\": %.0f, "
      "\"gbytes_per_s\": %.1f, \"tops\": %.1f}\n",
      op, shape.model, shape.name, plan.c_str(), static_cast<long long>(rows),
      static_cast<long long>(shape.cols), static_cast<long long>(tokens),
      static_cast<long long>(bytes), ns, static_cast<double>(bytes) / ns,
      2.0 * static_cast<double>(tokens * rows * shape.cols) / ns / 1e3);
  std::fflush(stdout);
}

void Bench::Ternary(const Shape& shape, const std::vector<int64_t>& tokens,
                    const std::vector<std::unique_ptr<Ops<float>>>& others) {
  int64_t bytes = 0;
  for (const int64_t rows : shape.rows) bytes += TernaryPackedBytes(rows, shape.cols);
  const std::vector<std::vector<TernaryMatrix>> weights =
      PlaceCopies(shape, CeilDiv(kRotatedBytes, bytes));
  const int64_t most = *std::max_element(tokens.begin(), tokens.end());
  const int64_t stride = RoundUp(shape.cols, kTernaryBlockCols);
  std::vector<int8_t> codes(static_cast<size_t>(most * stride));
  for (int8_t& code : codes) code = static_cast<int8_t>(random_() % 255 - 127);
  auto q = Upload(codes);
  auto scale = Upload(std::vector<float>(static_cast<size_t>(most), 20.0f));
  auto sum = Upload(std::vector<int32_t>(static_cast<size_t>(most), 5));
  std::vector<DeviceArray<float>> y;
  for (const int64_t rows : shape.rows) y.push_back(Must(AllocateArray<float>(ops_, most * rows)));
  Must(ops_.Finish());
  for (const int64_t t : tokens) {
    const QuantizedMat<float> in = {.q = q.data(),
                                    .stride = stride,
                                    .scale = scale.data(),
                                    .sum = sum.data(),
                                    .rows = t,
                                    .cols = shape.cols,
                                    .group_size = shape.cols};
    std::set<std::string> seen;
    const auto measure = [&](const char* op, Ops<float>& ops) {
      const std::string plan = PlanOf(ops, weights[0], shape.gated, t);
      if (!seen.insert(plan).second) return;
      const double ns = Time(ops, std::ssize(weights), [&] {
        for (const auto& copy : weights) Multiply(ops, copy, shape.gated, in, y);
      });
      PrintTernary(op, shape, plan, t, bytes, ns);
    };
    measure("ternary", ops_);
    constexpr int64_t kAlso[] = {1, 8, 16, 32, 64, 96, 128, 256};
    if (std::find(std::begin(kAlso), std::end(kAlso), t) == std::end(kAlso)) continue;
    for (const auto& other : others) measure("other_plan", *other);
  }
}

void Bench::Head(DenseType type, const std::vector<int64_t>& rows) {
  constexpr int64_t kVocabulary = 128256, kCols = 2560;
  DenseMatrix host = {.type = type,
                      .layout = DenseLayout::kTiles,
                      .data = nullptr,
                      .rows = kVocabulary,
                      .cols = kCols};
  std::vector<uint8_t> data(static_cast<size_t>(host.data_bytes()));
  // bf16 of 2^-7 .. 2^-6 in magnitude; any bytes are int8.
  for (size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<uint8_t>(type == DenseType::kBf16 && i % 2 == 1 ? 0x3c : random_() % 128);
  }
  const std::vector<float> scales(static_cast<size_t>(kVocabulary), 1e-3f);
  host.data = data.data();
  if (type == DenseType::kI8) host.scales = scales.data();
  const PlacedDense w = Must(ops_.Place(host));
  const int64_t most = *std::max_element(rows.begin(), rows.end());
  auto x = Upload(Floats(most * kCols));
  auto y = Must(AllocateArray<float>(ops_, most * kVocabulary));
  Must(ops_.Reserve({.tokens = most,
                     .logit_rows = most,
                     .max_blocks = 1,
                     .heads = 8,
                     .kv_heads = 8,
                     .head_dim = 128,
                     .head = w.view}));
  for (const int64_t r : rows) {
    const double ns = Time(1, [&] {
      ops_.DenseLinear({.x = {x.data(), r, kCols}, .w = w.view, .y = {y.data(), r, kVocabulary}});
    });
    std::printf(
        "{\"op\": \"head\", \"model\": \"2b-4t\", \"name\": \"%s\", \"rows\": %lld, \"cols\": "
        "%lld, "
        "\"tokens\": %lld, \"packed_bytes\": %lld, \"ns\": %.0f, \"gbytes_per_s\": %.1f}\n",
        DenseTypeName(type), static_cast<long long>(kVocabulary), static_cast<long long>(kCols),
        static_cast<long long>(r), static_cast<long long>(w.view.bytes()), ns,
        static_cast<double>(w.view.bytes()) / ns);
    std::fflush(stdout);
  }
}

void Bench::Norms(const std::vector<int64_t>& tokens) {
  for (const int64_t cols : {2560, 6912}) {
    const int64_t most = *std::max_element(tokens.begin(), tokens.end());
    auto x = Upload(Floats(most * cols));
    auto weight = Upload(Floats(cols));
    auto q = Must(AllocateArray<int8_t>(ops_, most * RoundUp(cols, kTernaryBlockCols)));
    auto scale = Must(AllocateArray<float>(ops_, most));
    auto sum = Must(AllocateArray<int32_t>(ops_, most));
    for (const int64_t t : tokens) {
      constexpr int64_t kTimes = 32;
      const double ns = Time(kTimes, [&] {
        for (int64_t i = 0; i < kTimes; ++i) {
          ops_.RmsNormQuantize({.x = {x.data(), t, cols},
                                .weight = weight.span(),
                                .eps = 1e-5f,
                                .out = {.q = q.data(),
                                        .stride = RoundUp(cols, kTernaryBlockCols),
                                        .scale = scale.data(),
                                        .sum = sum.data(),
                                        .rows = t,
                                        .cols = cols,
                                        .group_size = cols}});
        }
      });
      std::printf(
          "{\"op\": \"norm_quantize\", \"model\": \"2b-4t\", \"name\": \"norm\", \"rows\": %lld, "
          "\"cols\": %lld, \"tokens\": %lld, \"ns\": %.0f}\n",
          static_cast<long long>(t), static_cast<long long>(cols), static_cast<long long>(t), ns);
    }
  }
}

struct Options {
  CudaOptions cuda;
  bool quick = false;
  bool plans = false;
};

// False where there is something else.
bool ReadOptions(int argc, char** argv, Options& options) {
  const std::pair<const char*, int*> numbers[] = {
      {"--device", &options.cuda.device},
      {"--row-blocks", &options.cuda.ternary_row_blocks},
      {"--split", &options.cuda.ternary_split}};
  const std::pair<const char*, bool*> switches[] = {{"--quick", &options.quick},
                                                    {"--plans", &options.plans}};
  for (int i = 1; i < argc; ++i) {
    bool known = false;
    for (const auto& [name, value] : switches) {
      if (std::strcmp(argv[i], name) != 0) continue;
      *value = known = true;
    }
    for (const auto& [name, value] : numbers) {
      if (known || std::strcmp(argv[i], name) != 0 || i + 1 == argc) continue;
      *value = std::atoi(argv[++i]);
      known = true;
    }
    if (known) continue;
    std::fprintf(stderr,
                 "cuda_bench takes --device N, --quick, --plans, --row-blocks N and --split N, "
                 "not %s\n",
                 argv[i]);
    return false;
  }
  return true;
}

// Every way to multiply few tokens that may pay: those that differ from the one chosen.
std::vector<std::unique_ptr<Ops<float>>> OpsOfOtherPlans(int device) {
  std::vector<std::unique_ptr<Ops<float>>> all;
  all.push_back(Must(CreateCudaOps({.device = device, .ternary_wgmma = true})));
  for (const int row_blocks : {1, 2}) {
    for (const int split : {1, 2, 3, 4, 6}) {
      all.push_back(Must(CreateCudaOps({.device = device,
                                        .ternary_wgmma = false,
                                        .ternary_row_blocks = row_blocks,
                                        .ternary_split = split})));
    }
  }
  return all;
}

int Main(int argc, char** argv) {
  Options options;
  if (!ReadOptions(argc, argv, options)) return 2;
  const std::unique_ptr<Ops<float>> ops = Must(CreateCudaOps(options.cuda));
  std::printf("{\"op\": \"device\", \"name\": \"%s\"}\n", ops->Name().c_str());
  Bench bench(*ops, options.quick);
  std::vector<std::unique_ptr<Ops<float>>> others;
  if (options.plans) others = OpsOfOtherPlans(options.cuda.device);
  const std::vector<int64_t> tokens =
      options.quick
          ? std::vector<int64_t>{1, 8, 64, 4096}
          : std::vector<int64_t>{1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512, 1024, 2048, 4096, 8192};
  for (const Shape& shape : Shapes()) bench.Ternary(shape, tokens, others);
  bench.Head(DenseType::kBf16, {1, 8, 64, 256});
  bench.Head(DenseType::kI8, {1, 8, 64, 256});
  bench.Norms({1, 64, 2048});
  return 0;
}

}  // namespace
}  // namespace sterna

int main(int argc, char** argv) { return sterna::Main(argc, argv); }
