// The K/V memory of all layers and its layout; knows nothing of sequences.
//
// The layout of a layer is KvView's (kernels/tensor.h): one block of one head is contiguous, which
// is what attention streams through.
// Lifetime: the ops that the memory is of must outlive it. Thread contract: the engine thread
// alone.
#ifndef STERNA_ENGINE_CACHE_KV_CACHE_H_
#define STERNA_ENGINE_CACHE_KV_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "engine/model/config.h"
#include "kernels/ops.h"
#include "kernels/tensor.h"

namespace sterna {

// InvalidArgument where the device does not take keys and values so; says what it takes, and what
// comes closest.
template <typename F>
Status CheckKvType(const Ops<F>& ops, KvType type) {
  if (ops.Supports(type)) return absl::OkStatus();
  std::string taken;
  for (const KvType other : kKvTypes) {
    if (ops.Supports(other)) absl::StrAppend(&taken, taken.empty() ? "" : ", ", KvTypeName(other));
  }
  const KvType closest = type == KvType::kF8 ? KvType::kI8 : KvType::kF16;
  return absl::InvalidArgumentError(absl::StrCat(ops.Name(), " does not take keys and values in ",
                                                 KvTypeName(type), " but in ", taken, "; take ",
                                                 KvTypeName(closest)));
}

template <typename F>
class KvCache {
 public:
  // In memory of `ops`. ResourceExhausted where that has too little.
  static StatusOr<KvCache> Create(const ModelConfig& config, KvType type, int64_t num_blocks,
                                  Ops<F>& ops) {
    STERNA_RETURN_IF_ERROR(CheckKvType(ops, type));
    const int64_t bytes = num_blocks * BytesPerBlock(config, type);
    StatusOr<DeviceArray<std::byte>> memory = AllocateArray<std::byte>(ops, bytes);
    if (memory.ok()) return KvCache(config, type, num_blocks, *std::move(memory));
    return Annotate(memory.status(), absl::StrCat("a K/V cache of ", num_blocks, " blocks of ",
                                                  kKvBlockTokens, " tokens"));
  }

  int64_t num_blocks() const { return num_blocks_; }
  KvView<F> Layer(int64_t layer) {
    std::byte* k = memory_.data() + layer * 2 * half_bytes_;
    return {.type = type_,
            .k = k,
            .v = k + half_bytes_,
            .num_blocks = num_blocks_,
            .num_kv_heads = num_kv_heads_,
            .head_dim = head_dim_};
  }

  // Bytes that one block takes over all layers.
  static int64_t BytesPerBlock(const ModelConfig& config, KvType type) {
    return config.num_layers * 2 * config.num_kv_heads *
           KvView<F>::HeadBlockBytes(type, config.head_dim);
  }

 private:
  KvCache(const ModelConfig& config, KvType type, int64_t num_blocks, DeviceArray<std::byte> memory)
      : type_(type),
        num_blocks_(num_blocks),
        num_kv_heads_(config.num_kv_heads),
        head_dim_(config.head_dim),
        half_bytes_(memory.size() / config.num_layers / 2),
        memory_(std::move(memory)) {}

  KvType type_;
  int64_t num_blocks_;
  int64_t num_kv_heads_;
  int64_t head_dim_;
  int64_t half_bytes_;  // K, or V, of one layer
  DeviceArray<std::byte> memory_;
};

}  // namespace sterna

#endif  // STERNA_ENGINE_CACHE_KV_CACHE_H_
