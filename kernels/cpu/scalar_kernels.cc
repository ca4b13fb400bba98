// The level every machine has: no intrinsics, four-lane vectors in the compiler's own vector type.
#include <cstdint>
#include <cstring>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vector_kernels.h"
#include "kernels/half_float.h"
#include "kernels/ternary_format.h"

namespace sterna::cpu {
namespace {

struct PortableVector {
  static constexpr int kLanes = 4;
  static constexpr int kDenseRegs = 8;
  static constexpr int kQueryTile = 2;
  static constexpr int64_t kMostShortlistTokens = 0;
  static constexpr bool kChoosesStreams = false;
  using Reg = float __attribute__((vector_size(16)));
  using IntReg = int32_t __attribute__((vector_size(16)));

  static Reg Set(float x) { return Reg{x, x, x, x}; }
  static Reg Zero() { return Set(0.0f); }
  static Reg Load(const float* p) { return Reg{p[0], p[1], p[2], p[3]}; }
  static Reg LoadN(const float* p, int64_t n) {
    Reg x = Zero();
    for (int64_t i = 0; i < n; ++i) x[i] = p[i];
    return x;
  }
  static void Store(float* p, Reg x) { std::memcpy(p, &x, sizeof(x)); }
  static void StoreN(float* p, int64_t n, Reg x) {
    for (int64_t i = 0; i < n; ++i) p[i] = x[i];
  }
  static void LoadPairs(const uint16_t* p, Reg& even, Reg& odd) {
    uint32_t bits[2][kLanes];
    for (int i = 0; i < 2 * kLanes; ++i) bits[i % 2][i / 2] = static_cast<uint32_t>(p[i]) << 16;
    std::memcpy(&even, bits[0], sizeof(even));
    std::memcpy(&odd, bits[1], sizeof(odd));
  }
  static Reg LoadF16N(const F16* p, int64_t n) {
    Reg x = Zero();
    for (int64_t i = 0; i < n; ++i) x[i] = HalfToFloat(p[i].bits);
    return x;
  }
  static Reg LoadF16(const F16* p) { return LoadF16N(p, kLanes); }
  static Reg LoadI8N(const int8_t* p, int64_t n) {
    Reg x = Zero();
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(p[i]);
    return x;
  }
  static Reg LoadI8(const int8_t* p) { return LoadI8N(p, kLanes); }
  static void StoreF16N(F16* p, int64_t n, Reg x) {
    for (int64_t i = 0; i < n; ++i) p[i].bits = FloatToHalf(x[i]);
  }

  static Reg Keep(Reg x) { return x; }
  static Reg Add(Reg a, Reg b) { return a + b; }
  static Reg Sub(Reg a, Reg b) { return a - b; }
  static Reg Mul(Reg a, Reg b) { return a * b; }
  static Reg Div(Reg a, Reg b) { return a / b; }
  static Reg Fma(Reg a, Reg b, Reg c) { return a * b + c; }
  static Reg Max(Reg a, Reg b) { return a > b ? a : b; }
  static Reg Min(Reg a, Reg b) { return a < b ? a : b; }
  static Reg Abs(Reg x) { return x < Zero() ? -x : x; }
  static Reg SelectLess(Reg a, Reg b, Reg x, Reg y) { return a < b ? x : y; }
  static Reg SelectEqual(Reg a, Reg b, Reg x, Reg y) { return a == b ? x : y; }
  static float Sum(Reg x) { return (x[0] + x[1]) + (x[2] + x[3]); }
  static void Sum4(Reg a, Reg b, Reg c, Reg d, float* out) {
    out[0] = Sum(a);
    out[1] = Sum(b);
    out[2] = Sum(c);
    out[3] = Sum(d);
  }
  static float Largest(Reg x) {
    const float a = x[0] > x[1] ? x[0] : x[1];
    const float b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
  }
  static Reg Round(Reg x) {
    for (int i = 0; i < kLanes; ++i) x[i] = __builtin_nearbyintf(x[i]);
    return x;
  }
  static Reg TimesPow2(Reg x, Reg n) {
    const IntReg exponent = (__builtin_convertvector(n, IntReg) + 127) << 23;
    Reg power;
    std::memcpy(&power, &exponent, sizeof(power));
    return x * power;
  }
  static IntReg IntZero() { return IntReg{0, 0, 0, 0}; }
  static IntReg QuantizeN(Reg x, int64_t n, int8_t* q, IntReg sum) {
    for (int64_t i = 0; i < n; ++i) {
      const float rounded = __builtin_nearbyintf(x[i]);
      q[i] = rounded >= 127.0f   ? int8_t{127}
             : rounded > -128.0f ? static_cast<int8_t>(rounded)
                                 : int8_t{-128};  // NaN as well
      sum[i] += q[i];
    }
    return sum;
  }
  static IntReg IntAdd(IntReg a, IntReg b) { return a + b; }
  static int32_t IntSum(IntReg x) { return x[0] + x[1] + x[2] + x[3]; }
  static Reg ToFloat(IntReg x) { return __builtin_convertvector(x, Reg); }

  static IntReg Broadcast4(const int8_t* q) {
    int32_t four;
    std::memcpy(&four, q, sizeof(four));
    return IntReg{four, four, four, four};
  }
  static IntReg ByteSumStart(int32_t /*x_sum*/) { return IntZero(); }
  static IntReg LoadBytes(const uint8_t* p) {
    IntReg bytes;
    std::memcpy(&bytes, p, sizeof(bytes));
    return bytes;
  }
  static IntReg SetBytes(char byte) {
    IntReg bytes;
    std::memset(&bytes, byte, sizeof(bytes));
    return bytes;
  }
  template <int kBits>
  static IntReg ShiftLeft(IntReg x) {
    return x << kBits;
  }
  template <int kBits>
  static IntReg ShiftRight(IntReg x) {
    return x >> kBits;
  }
  template <int kMask>
  static IntReg SelectBits(IntReg a, IntReg b) {
    const IntReg mask = SetBytes(static_cast<char>(kMask));
    return (a & mask) | (b & ~mask);
  }
  static IntReg ByteWeights(IntReg codes) { return codes; }
  static IntReg AddByteProducts(IntReg sums, IntReg weights, IntReg x) {
    for (int byte = 0; byte < 4; ++byte) {
      const IntReg weight = (weights >> (8 * byte) & 0xff) - kDenseInt8Offset;
      sums += weight * static_cast<int8_t>(x[0] >> (8 * byte));
    }
    return sums;
  }
};

struct BlockSums {
  int32_t of[kTokenTile][kTernaryBlockRows];
};

// Adds the products of one packed block with the activations of `tokens` tokens.
void AddBlock(const uint8_t* block, const int8_t* q, int64_t q_stride, int64_t tokens,
              BlockSums& sums) {
  int8_t weights[kTernaryBlockRows][kTernaryBlockCols];
  for (int64_t byte = 0; byte < kTernaryBlockBytes; ++byte) {
    const int64_t row = byte % kTernaryLineBytes / 4;
    const int64_t col = byte / kTernaryLineBytes * kTernaryLineCols + byte % 4;
    for (int i = 0; i < 4; ++i) {
      weights[row][col + 4 * i] = static_cast<int8_t>((block[byte] >> (2 * i) & 3) - 1);
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    const int8_t* values = q + t * q_stride;
    for (int64_t row = 0; row < kTernaryBlockRows; ++row) {
      int32_t sum = 0;
      for (int64_t col = 0; col < kTernaryBlockCols; ++col) sum += values[col] * weights[row][col];
      sums.of[t][row] += sum;
    }
  }
}

// Outputs of one row block for `tokens` tokens from `token` on.
void TernaryTile(const TernaryTask& task, int64_t row_block, int64_t token, int64_t tokens) {
  const int64_t first_row = row_block * kTernaryBlockRows;
  const int64_t rows =
      task.rows - first_row < kTernaryBlockRows ? task.rows - first_row : kTernaryBlockRows;
  const uint8_t* packed = task.packed + row_block * task.col_blocks * kTernaryBlockBytes;
  float value[kTokenTile][kTernaryBlockRows] = {};
  for (int64_t g = 0; g < task.num_groups; ++g) {
    BlockSums sums = {};
    const int64_t begin = g * task.group_col_blocks;
    const int64_t end = begin + task.group_col_blocks < task.col_blocks
                            ? begin + task.group_col_blocks
                            : task.col_blocks;
    for (int64_t b = begin; b < end; ++b) {
      AddBlock(packed + b * kTernaryBlockBytes,
               task.q + token * task.q_stride + b * kTernaryBlockCols, task.q_stride, tokens, sums);
    }
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t i = (token + t) * task.num_groups + g;
      for (int64_t r = 0; r < rows; ++r) {
        const float w_scale =
            task.w_scale[task.one_scale ? 0
                                        : first_row * task.num_groups + g * kTernaryBlockRows + r];
        const float scale =
            task.inverse_s == nullptr ? w_scale / task.s[i] : w_scale * task.inverse_s[i];
        value[t][r] += static_cast<float>(sums.of[t][r]) * scale;
      }
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    float* y = task.y + (token + t) * task.y_stride + first_row;
    for (int64_t r = 0; r < rows; ++r) {
      float result = value[t][r];
      if (task.bias != nullptr) result += task.bias[first_row + r];
      y[r] = task.accumulate ? y[r] + result : result;
    }
  }
}

void TernaryLinear(const TernaryTask& task, int64_t first, int64_t count) {
  for (int64_t token = 0; token < task.tokens; token += kTokenTile) {
    const int64_t left = task.tokens - token;
    for (int64_t block = first; block < first + count; ++block) {
      TernaryTile(task, block, token, left < kTokenTile ? left : kTokenTile);
    }
  }
}

constexpr CpuKernels kKernels = VectorKernels<PortableVector>::Table("scalar", TernaryLinear);

}  // namespace

const CpuKernels& ScalarKernels() { return kKernels; }

}  // namespace sterna::cpu
