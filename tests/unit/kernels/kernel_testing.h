// What the kernel tests share: seeded inputs, owners for the views of tensor.h, and the devices to
// run on.
#ifndef STERNA_TESTS_UNIT_KERNELS_KERNEL_TESTING_H_
#define STERNA_TESTS_UNIT_KERNELS_KERNEL_TESTING_H_

#include <algorithm>
#include <bit>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/devices.h"
#include "kernels/ops.h"
#include "tests/testing/amx_emulation.h"

namespace sterna::testing {

using Random = std::mt19937_64;

// The AMX level's code with tiles in software (amx_emulation.h).
inline constexpr char kAmxEmulated[] = "amx_emulated";

// The levels to test in products, the only ops in which AMX has a part: those of this machine, and
// kAmxEmulated where it has the AVX-512 that is not emulated.
inline std::vector<std::string> ProductLevels() {
  std::vector<std::string> levels = CpuIsaLevels();
  if (std::ranges::count(levels, "avx512_vnni") > 0) levels.emplace_back(kAmxEmulated);
  return levels;
}

// The CPU backend at one level; the test dies where it cannot be had.
inline std::unique_ptr<Ops<float>> CpuOps(const std::string& isa, int num_threads = 1) {
#if defined(__x86_64__)
  if (isa == kAmxEmulated) {
    static const cpu::CpuKernels kernels = [] {
      cpu::CpuKernels table = cpu::EmulatedAmxKernels();
      table.name = kAmxEmulated;
      return table;
    }();
    return std::make_unique<cpu::CpuOps>(kernels, num_threads);
  }
#endif
  auto ops = CreateCpuOps({.num_threads = num_threads, .isa = isa});
  STERNA_CHECK(ops.ok());
  return *std::move(ops);
}

// Normal values; every 37th is 8 times as large, as trained networks' activations have outliers.
inline std::vector<float> RandomFloats(Random& random, int64_t n, float deviation = 1.0f) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(n);
  for (int64_t i = 0; i < n; ++i) values[i] = normal(random) * (i % 37 == 36 ? 8.0f : 1.0f);
  return values;
}

inline std::vector<double> ToDouble(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// Truncated, not rounded: any bf16 values will do.
inline std::vector<uint16_t> ToBf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < values.size(); ++i) bits[i] = std::bit_cast<uint32_t>(values[i]) >> 16;
  return bits;
}

// Owns a matrix in kTiles, padding as the format says: bf16 as given, or int8 rounded from floats.
class DenseTiles {
 public:
  DenseTiles(const std::vector<uint16_t>& bf16, int64_t rows, int64_t cols)
      : DenseTiles(DenseType::kBf16, rows, cols) {
    auto* tiles = reinterpret_cast<uint16_t*>(tiles_.data());
    for (int64_t r = 0; r < rows; ++r) {
      PackBf16Row(view_, r, std::span(bf16).subspan(r * cols, cols), tiles);
    }
  }
  DenseTiles(const std::vector<float>& f32, int64_t rows, int64_t cols)
      : DenseTiles(DenseType::kI8, rows, cols) {
    std::vector<uint8_t> codes(cols);
    for (int64_t r = 0; r < rows; ++r) {
      scales_.push_back(RoundDenseRow(std::span(f32).subspan(r * cols, cols), codes));
      PackInt8Row(view_, r, codes, tiles_.data());
    }
    view_.scales = scales_.data();
  }
  DenseTiles(const DenseTiles&) = delete;
  DenseTiles& operator=(const DenseTiles&) = delete;
  const DenseMatrix& view() const { return view_; }

 private:
  DenseTiles(DenseType type, int64_t rows, int64_t cols)
      : view_{.type = type,
              .layout = DenseLayout::kTiles,
              .data = nullptr,
              .rows = rows,
              .cols = cols},
        tiles_(static_cast<size_t>(view_.data_bytes())) {
    view_.data = tiles_.data();
  }

  DenseMatrix view_;
  AlignedBuffer<uint8_t> tiles_;
  std::vector<float> scales_;
};

inline DenseMatrix DenseRows(const std::vector<float>& f32, int64_t rows, int64_t cols) {
  return {.type = DenseType::kF32, .data = f32.data(), .rows = rows, .cols = cols};
}
inline DenseMatrix DenseRows(const std::vector<uint16_t>& bf16, int64_t rows, int64_t cols) {
  return {.type = DenseType::kBf16, .data = bf16.data(), .rows = rows, .cols = cols};
}

// -1, 0 and +1 equally often; scale 1 for the tensor.
inline TernaryMatrix RandomTernary(Random& random, int64_t rows, int64_t cols) {
  std::uniform_int_distribution<int> weight(-1, 1);
  TernaryMatrix w(rows, cols);
  std::vector<int8_t> row(cols);
  for (int64_t r = 0; r < rows; ++r) {
    for (int8_t& value : row) value = static_cast<int8_t>(weight(random));
    w.SetRow(r, row);
  }
  return w;
}

inline std::vector<float> RandomScales(Random& random, int64_t n) {
  std::uniform_real_distribution<float> scale(0.5f, 2.0f);
  std::vector<float> scales(n);
  for (float& value : scales) value = scale(random);
  return scales;
}

// With scales of a kind: of the tensor, of rows, of groups of 64 and of 128 columns.
inline constexpr int kScaleKinds = 4;
inline TernaryMatrix RandomTernaryOfKind(Random& random, int kind, int64_t rows, int64_t cols) {
  TernaryMatrix w = RandomTernary(random, rows, cols);
  if (kind == 0) w.SetTensorScale(0.731);
  if (kind == 1) w.SetRowScales(RandomScales(random, rows));
  if (kind >= 2) {
    const int64_t group = kind == 2 ? 64 : 128;
    w.SetGroupScales(RandomScales(random, rows * CeilDiv(cols, group)), group);
  }
  return w;
}

template <typename T>
Mat<T> View(std::vector<T>& values, int64_t rows) {
  return {values.data(), rows, static_cast<int64_t>(values.size()) / rows};
}
template <typename T>
Mat<const T> ConstView(const std::vector<T>& values, int64_t rows) {
  return {values.data(), rows, static_cast<int64_t>(values.size()) / rows};
}

// Owns what a QuantizedMat points at. Starts with all bytes set, so that a test sees what an op
// leaves unwritten.
template <typename F>
struct Quantized {
  std::vector<int8_t> q;
  std::vector<F> scale;
  std::vector<int32_t> sum;
  QuantizedMat<F> mat;

  Quantized(int64_t rows, int64_t cols, int64_t group_size = 0) {
    mat.rows = rows;
    mat.cols = cols;
    mat.stride = RoundUp(cols, kTernaryBlockCols);
    mat.group_size = group_size == 0 ? cols : group_size;
    q.assign(rows * mat.stride, 0x7f);
    scale.assign(rows * mat.num_groups(), F(-1));
    sum.assign(rows * mat.num_groups(), -1);
    mat.q = q.data();
    mat.scale = scale.data();
    mat.sum = sum.data();
  }
  Quantized(const Quantized&) = delete;
  Quantized& operator=(const Quantized&) = delete;
};

// Fills `out` with random codes over the whole int8 range; scales near 20 unless `unit_scales`.
template <typename F>
void FillRandom(Random& random, Quantized<F>& out, bool unit_scales = false) {
  std::uniform_int_distribution<int> code(-128, 127);
  std::uniform_real_distribution<float> scale(10.0f, 30.0f);
  const QuantizedMat<F>& m = out.mat;
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t g = 0; g < m.num_groups(); ++g) {
      m.scale[r * m.num_groups() + g] = unit_scales ? F(1) : F(scale(random));
      m.sum[r * m.num_groups() + g] = 0;
    }
    for (int64_t c = 0; c < m.stride; ++c) {
      int8_t& q = m.q[r * m.stride + c];
      q = c < m.cols ? static_cast<int8_t>(code(random)) : int8_t{0};
      if (c < m.cols) m.sum[r * m.num_groups() + c / m.group_size] += q;
    }
  }
}

}  // namespace sterna::testing

#endif  // STERNA_TESTS_UNIT_KERNELS_KERNEL_TESTING_H_
