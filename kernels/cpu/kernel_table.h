// What an instruction set has to provide: a table of plain functions on plain pointers. CpuOps
// (cpu_ops.h) checks shapes, shares the work out over threads and calls these.
//
// The files that fill a table are compiled with the flags of their instruction set, so everything
// they define must have internal linkage: an inline function or a standard container compiled there
// becomes a weak symbol that the linker may choose for the whole program, which then dies on a
// lesser machine. Hence no member functions, constructors or library calls here;
// tools/check_isa_symbols.sh checks the object files.
//
// Every function is deterministic, and a row it writes depends on that row's inputs alone: loops
// run in an order fixed by the row's length, whatever rows are computed in the same call.
//
// Thread contract: the functions keep no state; calls that write different memory may run at once.
#ifndef STERNA_KERNELS_CPU_KERNEL_TABLE_H_
#define STERNA_KERNELS_CPU_KERNEL_TABLE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/dense_format.h"
#include "kernels/tensor.h"

namespace sterna::cpu {

// Tokens that share one unpacking of a ternary block, or one reading of dense weights, where AMX
// does not do the work.
inline constexpr int kTokenTile = 8;

// Tokens of a tile of AMX, and how many make it worth while where nothing was measured.
inline constexpr int64_t kAmxTileTokens = 16;
inline constexpr int64_t kAmxFromTokens = 6;

// Where nothing was measured: more of the memory is asked for at once, but some processors' own
// prefetch keeps up with one stream only.
inline constexpr int64_t kMostWeightStreams = 4;

// Rows of dense tiles that all tokens pass over before the next: few enough for a second-level
// cache of 1 MiB or more up to 4096 columns, and a whole number of every tile of sums.
inline constexpr int64_t kDensePanelRows = 96;

// A half-precision number as it is stored (half_float.h), apart from bf16's uint16_t.
struct F16 {
  uint16_t bits;
};

// One TernaryLinear call; see TernaryLinearParams and ternary_format.h.
struct TernaryTask {
  const uint8_t* packed;
  int64_t rows;              // N
  int64_t col_blocks;        // of 64 columns in a row block
  int64_t group_col_blocks;  // in a group; col_blocks when one scale covers the row
  int64_t num_groups;
  const float* w_scale;  // TernaryMatrix::scales(), or one scale for the tensor
  bool one_scale;
  const float* bias;  // [N] or null
  const int8_t* q;    // [tokens, q_stride], zero past the matrix's columns
  int64_t q_stride;
  // The same in the order AMX loads it, null where it has no part in the product: groups of
  // kAmxTileTokens tokens, the last of which may have fewer, and in each for every column block
  // the 64 activations of its tokens, one token after the other.
  const int8_t* q_tiles;
  const float* s;          // [tokens, num_groups]
  const float* inverse_s;  // 1 / s, or null where there is one group
  const int32_t* sum;      // [tokens, num_groups]
  int64_t tokens;
  float* y;  // [tokens, y_stride]
  int64_t y_stride;
  bool accumulate;
  int64_t amx_from_tokens;  // where AMX is there: fewer tokens are left to VNNI
  // Row blocks that one or two tokens, which wait for memory, read side by side: 1 or
  // kMostWeightStreams.
  int64_t weight_streams;
};

// In an unnamed namespace for the reason given above.
namespace {

// The same product for the tokens from `token` on, a multiple of kAmxTileTokens or the place from
// which q_tiles are no longer read.
inline TernaryTask FromToken(TernaryTask task, int64_t token) {
  task.q += token * task.q_stride;
  if (task.q_tiles != nullptr) task.q_tiles += token * task.q_stride;
  task.s += token * task.num_groups;
  if (task.inverse_s != nullptr) task.inverse_s += token * task.num_groups;
  task.sum += token * task.num_groups;
  task.tokens -= token;
  task.y += token * task.y_stride;
  return task;
}

}  // namespace

// One DenseLinear call: y [tokens, rows] = x [tokens, cols] . w [rows, cols]^T.
struct DenseTask {
  const float* x;
  int64_t tokens;
  const void* w;   // dense_format.h
  DenseType type;  // f32 in kRows, the others in kTiles
  int64_t rows;
  int64_t cols;
  int64_t col_blocks;    // of tiles
  const uint8_t* w_low;  // kI8: its low bits
  const float* w_scale;  // kI8, kI6: [rows]
  float* y;
  int64_t weight_streams = kMostWeightStreams;  // kI8, kI6: 1, or as many as fit
  const void* packed_x = nullptr;  // what pack_dense made of x; kI8, kI6: packed_activations.h
  const float* x_scale = nullptr;  // kI8, kI6: [tokens]
  const int32_t* x_sum = nullptr;  // kI8, kI6: [tokens, 2], the sums of a token's two parts
  // Parts that are multiplied, at the least: 2 or, for kI8, 1, the high one. AMX multiplies both.
  int64_t x_parts = 2;
};

// One row to be quantised; see QuantizedMat.
struct QuantizedRow {
  int8_t* q;  // [stride]
  int64_t stride;
  int64_t cols;
  int64_t group_size;
  float* scale;  // [num_groups]
  int32_t* sum;  // [num_groups]
};

// The queries, a head of a token each, that share the reading of keys and values.
inline constexpr int64_t kAttentionQueries = 16;

// The query heads that read one key/value head, of one token or of consecutive ones of a sequence.
struct AttentionTask {
  const float* q;        // [tokens, heads, head_dim]
  int64_t tokens;        // 1, or more if tokens * heads is at most kAttentionQueries
  int64_t token_stride;  // of q and o, in elements
  int64_t heads;
  int64_t head_dim;
  const std::byte* k;  // of the key/value head in physical block 0
  const std::byte* v;
  KvType kv_type;
  int64_t block_stride;        // bytes from a physical block to the next
  int64_t block_bytes;         // of the head's K, or V, in a block
  int64_t scale_offset;        // kI8: bytes from there to the scales
  const int32_t* block_table;  // physical block of each logical block
  int64_t first;               // positions attended: first .. last, by the next token one more
  int64_t last;
  float scale;
  float* o;  // out [tokens, heads, head_dim]
};

struct CpuKernels {
  const char* name;
  // Outputs of row blocks first .. first + count - 1, all tokens.
  void (*ternary_linear)(const TernaryTask& task, int64_t first, int64_t count);
  // Outputs of rows first .. first + count - 1, all tokens. With tiles, `first` is a multiple of
  // kDenseTileRows, and so is `count` unless it is what is left of the rows.
  void (*dense_linear)(const DenseTask& task, int64_t first, int64_t count);
  // Size of the buffer, aligned to 64, that pack_dense fills before dense_linear; 0: no need. Not
  // asked for kI8 and kI6, whose activations every instruction set takes in one form. The buffer
  // must hold numbers, any numbers, before: dense_linear also loads what pack_dense leaves as it
  // was.
  int64_t (*dense_pack_bytes)(const DenseTask& task);
  void (*pack_dense)(const DenseTask& task, void* packed);
  // y[n] = x[n], rounded as FloatToHalf does.
  void (*narrow_f16)(const float* x, int64_t n, F16* y);
  // y = x / sqrt(mean(x^2) + eps) * weight; y may be x.
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  // `weight` [out.cols], or null to quantise x as it is.
  void (*norm_quantize)(const float* x, const float* weight, float eps, const QuantizedRow& out);
  void (*silu_gate)(const float* gate, const float* up, int64_t n, float* h);
  void (*relu_squared_gate)(const float* gate, const float* up, int64_t n, float* h);
  // One head in place; cos and sin [half].
  void (*rotate)(float* head, const float* cos, const float* sin, int64_t half);
  void (*attention)(const AttentionTask& task);
  // The largest of x [n], NaN counting as -infinity (the answer when all are NaN).
  float (*largest)(const float* x, int64_t n);
  // Sum over x [n] of the weights that sampling draws by: 1 where x equals `largest`, which may be
  // infinite, exp((x - largest) * slope) elsewhere; NaN counts as -infinity.
  float (*weight_sum)(const float* x, int64_t n, float largest, float slope);
  // Those weights themselves.
  void (*weights)(const float* x, int64_t n, float largest, float slope, float* out);
  // y[i] = x[i] + scale * a[i], i < n; y may be x.
  void (*add_scaled)(const float* x, const float* a, float scale, int64_t n, float* y);
  // Tokens up to which a product with int8 weights takes less time than with bf16 ones.
  int64_t most_shortlist_tokens;
  bool chooses_streams;  // looks at weight_streams
  bool amx;              // has AMX: looks at amx_from_tokens, and products hardly cost time
};

const CpuKernels& ScalarKernels();
#if defined(__x86_64__)
const CpuKernels& Avx2Kernels();
const CpuKernels& AvxVnniKernels();
const CpuKernels& Avx512VnniKernels();
const CpuKernels& AmxKernels();
#endif

}  // namespace sterna::cpu

#endif  // STERNA_KERNELS_CPU_KERNEL_TABLE_H_
