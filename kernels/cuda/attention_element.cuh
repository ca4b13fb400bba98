// How the cache's elements are stored, and become operands of matrix products of 16 dims or
// positions and 8 outputs. An element is a way to lie in memory (elements of two bytes, or of one)
// and a kind of operands (f16 or bf16); P is a WarpPart of attention_tile.cuh.
#ifndef STERNA_KERNELS_CUDA_ATTENTION_ELEMENT_CUH_
#define STERNA_KERNELS_CUDA_ATTENTION_ELEMENT_CUH_

#include <cstdint>

#include "kernels/cuda/primitives.cuh"

namespace sterna::cuda {

// Products of f16. Weights are rounded to it: 11 bits of each, whose errors average out. q is not:
// an error of 2^-11 of a score of 50 is 2% of its weight, and large scores come from a few channels
// that do not average. So q is taken in two parts, 22 bits, after a power of two has brought its
// row's largest magnitude to 2^14 .. 2^15, where both parts are normal numbers. That is three
// products for each two, which decoding has time for while it waits for memory.
struct F16Operands {
  static constexpr int kQueryParts = 2;
  static constexpr int kWeightParts = 1;

  __device__ static void Mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    MmaF16(d, a, b0, b1);
  }
  // Writes row `row` of q, of which this lane has dims 32i + lane in x. Returns the factor that
  // scores are to be multiplied by for that. [parts][rows][kQueryStride]
  template <typename P, int kOfLane>
  __device__ static float StoreQuery(const float (&x)[kOfLane], int row, uint8_t* queries) {
    constexpr int kLowPart = P::kRows * P::Tile::kQueryStride;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float largest = 0.0f;
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) largest = fmaxf(largest, fabsf(x[i]));
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
      largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, distance));
    }
    // The power of two that brings it to 2^14; of what is below 2^-86 as much as a float holds.
    int exponent = 127 + 14 - static_cast<int>(__float_as_uint(largest) >> 23);
    if (exponent > 100) exponent = 100;
    const float up = __uint_as_float(static_cast<unsigned>(127 + exponent) << 23);
    uint8_t* const to = queries + row * P::Tile::kQueryStride;
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const float scaled = x[i] * up;
      const auto high = static_cast<uint16_t>(PackF16(scaled, 0.0f));
      const auto low = static_cast<uint16_t>(PackF16(scaled - F16ToFloat(high), 0.0f));
      uint8_t* const element = to + P::Element::QueryColumn(i * 32 + lane) * 2;
      *reinterpret_cast<uint16_t*>(element) = high;
      *reinterpret_cast<uint16_t*>(element + kLowPart) = low;
    }
    return __uint_as_float(static_cast<unsigned>(127 - exponent) << 23);
  }
  // The operands of the warp's rows and 16 columns from 16k on.
  template <typename P>
  __device__ static void LoadQuery(const uint8_t* queries, int k, uint32_t (&a)[kQueryParts][4]) {
    constexpr int kStride = P::Tile::kQueryStride;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint8_t* const high =
        queries + (P::FirstRow() + lane % 16) * kStride + lane / 16 * 16 + k * 32;
    LoadMatrices(a[0], high);
    LoadMatrices(a[1], high + P::kRows * kStride);
  }
  // Two neighbours of the weights' operand.
  __device__ static void PackWeights(float low, float high, uint32_t (&parts)[kWeightParts]) {
    parts[0] = PackF16(low, high);
  }
};

// Takes from two floats their leading eight bits, as bf16 with `low` in the low half.
__device__ __forceinline__ uint32_t TakeBf16(float& low, float& high) {
  const uint32_t low_bits = __float_as_uint(low) & 0xffff0000u;
  const uint32_t high_bits = __float_as_uint(high) & 0xffff0000u;
  low -= __uint_as_float(low_bits);
  high -= __uint_as_float(high_bits);
  return low_bits >> 16 | high_bits;
}

// Products of bf16, for elements that are bf16: in f16 they would be exact too, but for those
// beyond 2^-17 .. 65504, and a float's range is what such a cache is taken for. To be as good with
// eight bits an operand, q is taken in three parts, which are all of its 24 bits, and a weight in
// two, 16 bits: five products where f16 has three. Here q lies as floats, the same bytes as two
// parts, and is taken apart on its way to the product.
struct Bf16Operands {
  static constexpr int kQueryParts = 3;
  static constexpr int kWeightParts = 2;

  __device__ static void Mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    MmaBf16(d, a, b0, b1);
  }
  // [rows][2 * kQueryStride]: at such distances a half-warp's eight bytes each lie in different
  // banks.
  template <typename P, int kOfLane>
  __device__ static float StoreQuery(const float (&x)[kOfLane], int row, uint8_t* queries) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    auto* const to = reinterpret_cast<float*>(queries + row * 2 * P::Tile::kQueryStride);
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) to[P::Element::QueryColumn(i * 32 + lane)] = x[i];
    return 1.0f;
  }
  template <typename P>
  __device__ static void LoadQuery(const uint8_t* queries, int k, uint32_t (&a)[kQueryParts][4]) {
    constexpr int kStride = 2 * P::Tile::kQueryStride;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint8_t* const own =
        queries + (P::FirstRow() + lane / 4) * kStride + (k * 16 + lane % 4 * 2) * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float2 x = *reinterpret_cast<const float2*>(own + i % 2 * 8 * kStride + i / 2 * 32);
#pragma unroll
      for (int part = 0; part < kQueryParts; ++part) a[part][i] = TakeBf16(x.x, x.y);
    }
  }
  __device__ static void PackWeights(float low, float high, uint32_t (&parts)[kWeightParts]) {
    parts[0] = TakeBf16(low, high);
    parts[1] = PackBf16(low, high);
  }
};

// Elements that are operands as they are.
struct TwoByteElement {
  static constexpr int kBytes = 2;
  static constexpr bool kScaled = false;  // with a scale for each vector
  // What scores and outputs are to be multiplied by.
  static constexpr float kUnscaleKeys = 1.0f;
  static constexpr float kUnscaleValues = 1.0f;

  // Column of q's operand that `dim` is.
  __device__ static int QueryColumn(int dim) { return dim; }
  // The operands of 16 positions, from the row of K on, and dims 16 `k` ..: b[n] for positions 8n.
  __device__ static void LoadKeys(const uint8_t* rows, int stride, int k, uint32_t (&b)[2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint32_t r[4];
    LoadMatrices(r, rows + (lane / 16 * 8 + lane % 8) * stride + (2 * k + lane / 8 % 2) * 16);
    b[0][0] = r[0];
    b[0][1] = r[1];
    b[1][0] = r[2];
    b[1][1] = r[3];
  }
  // The operands of 32 positions, from the row of V on, and dims 16 `group` ..: b[k][n] for
  // positions 16k and outputs n.
  __device__ static void LoadValues(const uint8_t* rows, int stride, int group,
                                    uint32_t (&b)[2][2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      uint32_t r[4];
      LoadMatricesTransposed(r,
                             rows + (k * 16 + lane % 16) * stride + (2 * group + lane / 16) * 16);
      b[k][0][0] = r[0];
      b[k][0][1] = r[1];
      b[k][1][0] = r[2];
      b[k][1][1] = r[3];
    }
  }
  // This lane's outputs of 16 dims are two pairs of neighbours: where a pair begins, and which of
  // the products' outputs n and columns i they are.
  __device__ static int PairDim(int pair, int lane) { return pair * 8 + lane % 4 * 2; }
  __device__ static constexpr int OutputOf(int pair, int /*which*/) { return pair; }
  __device__ static constexpr int ColumnOf(int /*pair*/, int which) { return which; }
};

// Elements of a byte with a scale for each vector, which E::Unpack makes f16 of. V's scale, times
// E::kScaleValues, is multiplied into weights.
template <typename E>
struct ByteElement : F16Operands {
  static constexpr int kBytes = 1;
  static constexpr bool kScaled = true;

  // Four bytes that lie together make two operands of two: the even ones and the odd ones.
  __device__ static int QueryColumn(int dim) { return dim / 16 * 16 + dim % 2 * 8 + dim % 16 / 2; }
  __device__ static void LoadKeys(const uint8_t* rows, int stride, int k, uint32_t (&b)[2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint8_t* const four = rows + (n * 8 + lane / 4) * stride + k * 16 + lane % 4 * 4;
      E::Unpack(*reinterpret_cast<const uint32_t*>(four), b[n][0], b[n][1]);
    }
  }
  // Transposed as elements of 16 bits, which are two dims of one position.
  __device__ static void LoadValues(const uint8_t* rows, int stride, int group,
                                    uint32_t (&b)[2][2][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    uint32_t r[4];
    LoadMatricesTransposed(r, rows + lane * stride + group * 16);
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        E::Unpack(r[2 * k + half], b[k][0][half], b[k][1][half]);
      }
    }
  }
  __device__ static int PairDim(int pair, int lane) { return lane % 4 * 4 + pair * 2; }
  __device__ static constexpr int OutputOf(int /*pair*/, int which) { return which; }
  __device__ static constexpr int ColumnOf(int pair, int /*which*/) { return pair; }
};

struct F16Element : TwoByteElement, F16Operands {};
struct Bf16Element : TwoByteElement, Bf16Operands {};

struct I8Element : ByteElement<I8Element> {
  static constexpr float kUnscaleKeys = 1.0f;
  // So that scales up to 511, values up to 65000 as in an f16 cache, do not overflow and the
  // smallest of them, 1e-5 / 127, is not lost.
  static constexpr float kScaleValues = 128.0f;
  static constexpr float kUnscaleValues = 1.0f / kScaleValues;

  // Of bytes 0 and 2 in `even`, of bytes 1 and 3 in `odd`.
  __device__ static void Unpack(uint32_t bytes, uint32_t& even, uint32_t& odd) {
    UnpackI8(bytes, even, odd);
  }
};

struct F8Element : ByteElement<F8Element> {
  // An e4m3 code's bits, moved, are its number times 2^-8 in f16, whose exponents begin so much
  // lower: exactly, subnormal ones too, which tensor cores take as they are.
  static constexpr float kUnscaleKeys = 256.0f;
  // Scales up to 255, values up to 114000, do not overflow.
  static constexpr float kScaleValues = 256.0f;
  static constexpr float kUnscaleValues = 256.0f / kScaleValues;

  __device__ static void Unpack(uint32_t bytes, uint32_t& even, uint32_t& odd) {
    even = (bytes << 8 & 0x80008000u) | (bytes << 7 & 0x3f803f80u);
    odd = (bytes & 0x80008000u) | (bytes >> 1 & 0x3f803f80u);
  }
};

}  // namespace sterna::cuda

#endif  // STERNA_KERNELS_CUDA_ATTENTION_ELEMENT_CUH_
