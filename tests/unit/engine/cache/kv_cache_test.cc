#include "engine/cache/kv_cache.h"

#include <cstdint>
#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/devices.h"

namespace sterna {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

TEST(KvCacheTest, WhatATokenTakes) {
  const ModelConfig config = {.num_layers = 3, .num_kv_heads = 5, .head_dim = 128};
  const auto bytes_per_token = [&config](KvType type) {
    return KvCache<float>::BytesPerBlock(config, type) / kKvBlockTokens;
  };
  const int64_t vectors = 2 * 3 * 5;
  EXPECT_EQ(bytes_per_token(KvType::kFull), vectors * 512);
  EXPECT_EQ(bytes_per_token(KvType::kF16), vectors * 256);
  EXPECT_EQ(bytes_per_token(KvType::kBf16), vectors * 256);
  EXPECT_EQ(bytes_per_token(KvType::kI8), vectors * 132);
  EXPECT_EQ(bytes_per_token(KvType::kF8), vectors * 132);
}

TEST(KvCacheTest, WhatTheCpuDoesNotTakeIsRefusedWithWhatItTakes) {
  const StatusOr<std::unique_ptr<Ops<float>>> cpu = CreateCpuOps({.num_threads = 1});
  ASSERT_TRUE(cpu.ok()) << cpu.status();
  for (const KvType type : {KvType::kFull, KvType::kF16, KvType::kI8}) {
    EXPECT_TRUE(CheckKvType(**cpu, type).ok()) << KvTypeName(type);
  }
  const auto expect_refused = [&](KvType type, const std::string& closest) {
    const Status status = CheckKvType(**cpu, type);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(std::string(KvTypeName(type)) + " but in f32, f16, int8"));
    EXPECT_THAT(std::string(status.message()), EndsWith("; take " + closest));
    const ModelConfig config = {.num_layers = 1, .num_kv_heads = 1, .head_dim = 8};
    EXPECT_EQ(KvCache<float>::Create(config, type, 1, **cpu).status(), status);
  };
  expect_refused(KvType::kBf16, "f16");
  expect_refused(KvType::kF8, "int8");
}

TEST(KvCacheTest, TheReferenceTakesAll) {
  for (const KvType type : kKvTypes) {
    EXPECT_TRUE(CheckKvType(*CreateReferenceOps<double>(), type).ok()) << KvTypeName(type);
  }
}

}  // namespace
}  // namespace sterna
