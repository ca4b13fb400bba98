// Views that the ops take: pointers with their shapes. They own nothing and are cheap to copy.
#ifndef STERNA_KERNELS_TENSOR_H_
#define STERNA_KERNELS_TENSOR_H_

#include <cstddef>
#include <cstdint>

namespace sterna {

// Row-major [rows, cols], rows contiguous.
template <typename T>
struct Mat {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;

  T* row(int64_t r) const { return data + r * cols; }
};

template <typename T>
Mat<const T> AsConst(Mat<T> m) {
  return {m.data, m.rows, m.cols};
}

// Activations quantised to int8 (BitNet b1.58, section 2): q = clamp(round_half_even(x * s)) with
// s = 127 / max(absmax(x), 1e-5), one s per row, or per `group_size` columns of a row.
template <typename F>
struct QuantizedMat {
  int8_t* q = nullptr;     // [rows, stride]; columns cols .. stride-1 are zero
  int64_t stride = 0;      // cols rounded up to kTernaryBlockCols
  F* scale = nullptr;      // [rows, num_groups]: s, the factor x was multiplied by
  int32_t* sum = nullptr;  // [rows, num_groups]: sum of q over the group
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;  // cols when one scale covers the row

  int64_t num_groups() const { return (cols + group_size - 1) / group_size; }
};

// One layer of the paged K/V cache. A block holds kKvBlockTokens tokens:
//   k, v: [num_blocks, num_kv_heads] x (vectors [kKvBlockTokens, head_dim],
//                                       with kI8 and kF8 then scales [kKvBlockTokens] f32)
// A slot names one token's place: slot = block * kKvBlockTokens + offset in the block.
inline constexpr int64_t kKvBlockTokens = 16;

// How K and V are stored.
enum class KvType {
  kFull,  // as the ops compute, F
  kF16,   // rounded to half precision (half_float.h): half the memory and traffic of f32
  kBf16,  // rounded to bfloat16 (bfloat16.h): the same memory, three bits less, a float's range
  // Quantised like activations (QuantizedMat), with a scale for each token and head: a number is
  // q * scale, scale = max(absmax, 1e-5) / 127. About half the memory and traffic of f16. Vectors
  // must be finite: a NaN becomes some number, an infinity makes its vector NaN.
  kI8,
  // As kI8, but a number is that of an e4m3 code (float8.h) times scale = max(absmax, 1e-5) / 448:
  // four bits of every element, down to 2^-15 of the vector's largest, instead of 1/127 of that.
  kF8,
};

// As users name it; kFull by what products compute in.
inline const char* KvTypeName(KvType type) {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "int8", "fp8"};
  return kNames[static_cast<int>(type)];
}
inline constexpr KvType kKvTypes[] = {KvType::kFull, KvType::kF16, KvType::kBf16, KvType::kI8,
                                      KvType::kF8};

template <typename F>
struct KvView {
  KvType type = KvType::kFull;
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  int64_t num_blocks = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;

  // Whether each vector has a scale.
  static constexpr bool HasScales(KvType type) {
    return type == KvType::kI8 || type == KvType::kF8;
  }
  static constexpr int64_t ElementBytes(KvType type) {
    if (type == KvType::kFull) return static_cast<int64_t>(sizeof(F));
    return HasScales(type) ? 1 : 2;
  }
  // Bytes of K, or of V, that one head has in one block.
  static constexpr int64_t HeadBlockBytes(KvType type, int64_t head_dim) {
    const int64_t scale_bytes = HasScales(type) ? static_cast<int64_t>(sizeof(float)) : 0;
    return kKvBlockTokens * (head_dim * ElementBytes(type) + scale_bytes);
  }

  // Byte offset, in k and in v, of what `head` has in `block`.
  int64_t BlockOffset(int64_t block, int64_t head) const {
    return (block * num_kv_heads + head) * HeadBlockBytes(type, head_dim);
  }
  // Byte offset of the vector of `head` at `slot`.
  int64_t Offset(int64_t slot, int64_t head) const {
    return BlockOffset(slot / kKvBlockTokens, head) +
           slot % kKvBlockTokens * head_dim * ElementBytes(type);
  }
  // Where there are scales: byte offset of that vector's.
  int64_t ScaleOffset(int64_t slot, int64_t head) const {
    return BlockOffset(slot / kKvBlockTokens, head) + kKvBlockTokens * head_dim +
           slot % kKvBlockTokens * static_cast<int64_t>(sizeof(float));
  }
};

}  // namespace sterna

#endif  // STERNA_KERNELS_TENSOR_H_
